"""Tables in text, CSV and LaTeX."""

import csv
import io

import pytest

from errors import UserError
from experiments.compare import tables
from experiments.compare.groups import Spread, fold
from experiments.compare.runs import find_runs
from experiments.compare.tables import Table
from tests.experiments.compare.synthetic import make_run


@pytest.fixture
def grid(tmp_path):
    """Two models on two datasets, two seeds each, with the score 0.1 m + 0.01 d + 0.001 s and a last one 0.05 lower."""
    for number, model in enumerate(("fcn", "unet"), start=1):
        for digit, data in enumerate(("pets", "camvid"), start=1):
            for seed in (0, 2):
                score = 0.1 * number + 0.01 * digit + 0.001 * seed
                make_run(
                    tmp_path / f"{model}-{data}-{seed}",
                    {"model.name": model, "data.name": data, "seed.init": seed},
                    [{"mIoU": score}, {"mIoU": score - 0.05}],
                )
    return fold(find_runs([str(tmp_path)]))


def test_each_group_has_a_row(grid):
    table = tables.summarise(grid, "val/mIoU", price=2.5)
    assert table.header[:5] == ("run", "seeds", "state", "data", "model")
    assert table.header[5:] == ("best val/mIoU", "last val/mIoU", "hours", "device-hours", "cost", "images/s", "PFLOP")
    assert len(table.rows) == 4
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["seeds"], row["state"], row["model"], row["data"]) == (2, "done", "fcn", "camvid")
    assert row["best val/mIoU"].mean == pytest.approx(0.121) and row["last val/mIoU"].mean == pytest.approx(0.071)
    # Two values differ by 0.002, so half the interval is 12.7062 * 0.001.
    assert row["best val/mIoU"].half == pytest.approx(0.0127062, rel=1e-5)
    assert (row["hours"].mean, row["device-hours"].mean, row["cost"].mean, row["PFLOP"].mean) == (2, 8, 20, 0.08)


def test_states_are_counted(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", {"seed.init": 1, "train.steps": 10}, scores=[])
    (group,) = fold(find_runs([str(tmp_path)]))
    assert tables.summarise([group], "val/mIoU").rows[0][:3] == (group.name, 2, "1 done, 1 unfinished")


def test_a_pivot_table_has_the_best_or_last_values(grid):
    table = tables.pivot(grid, "val/mIoU", ["model.name"], ["data.name"], last=False)
    assert table.header == ("model.name", "camvid", "pets")
    means = {row[0]: [round(cell.mean, 3) for cell in row[1:]] for row in table.rows}
    assert means == {"fcn": [0.121, 0.111], "unet": [0.221, 0.211]}
    last = tables.pivot(grid, "val/mIoU", ["model.name"], ["data.name"], last=True)
    assert round(last.rows[0][1].mean, 3) == 0.071
    partly = tables.pivot(grid[:3], "val/mIoU", ["model.name"], ["data.name"], last=False)
    assert partly.rows[1][2] is None


def test_two_groups_in_one_cell_are_an_error(grid):
    with pytest.raises(UserError, match="share the cell fcn, all: they differ in data.name; add a field to --rows"):
        tables.pivot(grid, "val/mIoU", ["model.name"], [], last=False)
    with pytest.raises(UserError, match="no run has the field 'model.nam'"):
        tables.pivot(grid, "val/mIoU", ["model.nam"], [], last=False)


def test_a_missing_field_is_a_dash(tmp_path):
    make_run(tmp_path / "a", {"model.width": 8})
    make_run(tmp_path / "b", {"model.name": "fcn"}, [{"mIoU": None}])
    groups = fold(find_runs([str(tmp_path)]))
    table = tables.pivot(groups, "val/mIoU", ["model.name", "model.width"], [], last=False)
    assert tables.write_csv(table).splitlines() == ['"model.name, model.width",all', '"unet, 8",0.5', '"fcn, -",']


def test_differing_fields_have_rows(grid):
    assert tables.has_few_fields(grid)
    assert tables.list_differences(grid[:2]).rows == [("data.name", "camvid", "pets"), ("model.name", "fcn", "fcn")]


CELLS = [("plain", 3, Spread(0.5, 0.4, 0.6, 2)), ("a,b", None, Spread(1234.5, float("nan"), float("nan"), 1))]


def test_text_is_aligned():
    assert tables.write_text(Table(("run", "seeds", "score"), CELLS)).splitlines() == [
        "run    seeds  score",
        "plain  3      0.5000 ± 0.1000",
        "a,b    -      1234",
    ]


def test_csv_has_all_digits_and_the_ends_of_the_interval():
    rows = list(csv.reader(io.StringIO(tables.write_csv(Table(("run", "seeds", "score"), CELLS)))))
    assert rows[0] == ["run", "seeds", "score", "score low", "score high"]
    assert rows[1:] == [["plain", "3", "0.5", "0.4", "0.6"], ["a,b", "", "1234.5", "", ""]]


def test_latex_is_escaped_and_uses_booktabs():
    assert tables.write_latex(Table(("run_1", "score"), [("50% & more", Spread(0.5, 0.4, 0.6, 2))])).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run\_1 & score \\",
        r"\midrule",
        r"50\% \& more & 0.5000 $\pm$ 0.1000 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_hostile_names_are_harmless_in_terminals_and_spreadsheets():
    table = Table(("run",), [("=cmd()",), ("a\x1b[31m\nb",), ("-0.5",)])
    assert tables.write_text(table).splitlines()[1:] == ["=cmd()", "a?[31m?b", "-0.5"]
    assert tables.write_csv(table).splitlines() == ["run", "'=cmd()", "a?[31m?b", "-0.5"]
    header = Table(("a\x1b[31m\nb",), [("-",)])
    assert tables.write_text(header).splitlines() == ["a?[31m?b", "-"]
    assert tables.write_csv(header).splitlines() == ["a?[31m?b", "-"]
    assert tables.write_latex(header).splitlines()[2] == r"a?[31m?b \\"
