"""The command `python -m experiments.compare`."""

import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.compare import __main__ as compare
from experiments.compare.__main__ import main
from tests.conftest import ROOT
from tests.experiments.compare.synthetic import label_records, make_run
from tests.test_docs import commands_of


@pytest.fixture
def sweep(tmp_path):
    hard = np.linspace(-0.05, 0.05, 50)
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            records = label_records(2 * lr + 0.002 * seed + hard)  # their mIoU is half of the mean share
            scores = [{"mIoU": lr + 0.01 * seed}, {"mIoU": lr + 0.001 * seed}]
            make_run(tmp_path / f"lr={lr},seed={seed}", {"optim.lr": lr, "seed.init": seed}, scores, records)
    return tmp_path


def test_a_sweep_has_a_table_and_verdicts(sweep, capsys):
    assert main([str(sweep), "--price=1"]) == 0
    out, err = capsys.readouterr()
    table, verdicts = out.split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:4] == ["run", "seeds", "state", "lr"] and "cost" in rows[0]
    assert rows[1][:7] == ["lr=0.1", "2", "done", "0.1", "0.1050", "±", "0.0635"]
    assert verdicts.splitlines()[0] == "50 images of the last evaluation, 1000 draws, over images and seeds:"
    assert verdicts.splitlines()[1].startswith("mIoU: lr=0.2 is better; lr=0.1 minus lr=0.2 is -") and not err


def test_other_scores_are_tested_if_the_records_lack_the_metric(sweep, capsys):
    main([str(sweep), "--metric=train/loss"])
    table, verdicts = capsys.readouterr().out.split("\n\n")
    assert "best train/loss" in table and verdicts.splitlines()[1].startswith("mIoU: ")


def test_records_are_chosen_by_name(sweep, capsys):
    for place in sweep.glob("*/records/val.jsonl"):
        place.rename(place.with_name("test-best-ema-10.jsonl"))
    main([str(sweep), "--records=test-best-ema-10"])
    assert "50 images of the records test-best-ema-10, 1000 draws" in capsys.readouterr().out


def test_a_warning_names_runs_with_equal_seeds(sweep, capsys):
    shutil.copytree(sweep / "lr=0.1,seed=1", sweep / "copy")
    main([str(sweep)])
    assert "warning: copy and lr=0.1,seed=1 have equal configs and equal seeds" in capsys.readouterr().err


def test_a_closed_pipe_does_not_stop_the_command(sweep, tmp_path):
    page = tmp_path / "a.html"
    command = f"{sys.executable} -m experiments.compare {sweep} --html={page} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == f"page: {page}\n" and page.exists()


def test_two_seeds_are_compared_as_two_runs(sweep, capsys):
    main([str(sweep / "lr=0.1,seed=0"), str(sweep / "lr=0.1,seed=1")])
    out = capsys.readouterr().out
    assert "over images alone: a difference of these two runs, which another seed may change" in out
    assert len(out.split("\n\n")[0].splitlines()) == 3


def test_pivot_table_is_written_in_latex(sweep, capsys):
    main([str(sweep), "--rows=model.name", "--columns=optim.lr", "--latex"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == r"model.name & 0.1 & 0.2 \\" and lines[4].startswith("unet & 0.1050 $\\pm$ 0.0635 & 0.2050")


def test_csv_has_all_digits(sweep, capsys):
    main([str(sweep), "--csv"])
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith("run,seeds,state,lr,best val/mIoU,best val/mIoU low,best val/mIoU high,")
    assert first.startswith("lr=0.1,2,done,0.1,0.105")


def test_damaged_runs_are_reported_and_do_not_stop_the_others(sweep, capsys):
    (sweep / "lr=0.2,seed=1/config.json").write_text("{")
    main([str(sweep)])
    out, err = capsys.readouterr()
    assert "warning: lr=0.2,seed=1: config.json is not JSON" in err
    assert len(out.split("\n\n")[0].splitlines()) == 4 and "name two of them" in out


@pytest.mark.parametrize("table", [[], ["--csv"]])
def test_a_page_is_written_in_addition_to_the_table(sweep, tmp_path, capsys, table):
    page = tmp_path / "pages" / "a.html"
    assert main([str(sweep), f"--html={page}", "--price=1", *table]) == 0
    out, err = capsys.readouterr()
    assert f"page: {page}" in err and "page" not in out
    assert "lr=0.2 is better" in page.read_text() and "device-hours times 1" in page.read_text()


def test_runs_without_records_are_compared_without_a_verdict(tmp_path, capsys):
    for name in ("a", "b"):
        make_run(tmp_path / name, {"model.name": name})
    assert main([str(tmp_path)]) == 0
    assert "the significance of the difference is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric=val/mIuO"], "--metric=val/mIuO: no run has it; choose one of val/mIoU"),
        (["--rows=optim.rl"], "no run has the field 'optim.rl'"),
        (["--rows=model.name"], "share the cell unet, all: they differ in optim.lr"),
        (["--draws=10"], "--draws=10 must be 100 or more"),
        (["--price=-1"], "--price=-1.0 must be 0 or more"),
        (["--last"], "--last needs --rows or --columns"),
        (["--rows=seed.init"], "runs that differ only in seed.init are one row"),
        (["--html=/proc/none/a.html"], "/proc/none/a.html: cannot be written"),
        (["--html=/"], "--html=/ is a folder; name a file in it"),
        (["--report=mine"], "--report=mine must be ENTITY/PROJECT"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_invalid_flags_print_a_one_line_error(sweep, flags, message):
    with pytest.raises(SystemExit) as error:
        main([str(sweep), *flags])
    assert str(error.value).startswith("error: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_with_different_metrics_need_the_flag(sweep):
    make_run(sweep / "detector", {"train.best": "val/AP"}, [{"AP": 0.5}])
    with pytest.raises(
        SystemExit, match="choose their best checkpoint by val/AP and val/mIoU; choose one with --metric"
    ):
        main([str(sweep)])


@pytest.mark.parametrize("page", ["docs/compare.md", "README.md"])
def test_the_commands_of_a_page_run(tmp_path, capsys, monkeypatch, page):
    """They run unchanged, but a report is not sent to W&B."""
    for name in ("unet", "fcn"):
        make_run(tmp_path / "runs" / name, {"model.name": name}, records=label_records(np.linspace(0.5, 0.9, 20)))
        for data in ("pets", "camvid"):
            make_run(tmp_path / "runs/grid" / f"{name}-{data}", {"model.name": name, "data.name": data})
    for seed in (0, 1):
        make_run(tmp_path / "runs/rates" / f"seed={seed}", {"seed.init": seed})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "write_report", lambda place, *_: f"https://wandb.ai/{place}")
    lines = [shlex.split(line) for line in commands_of(page) if "experiments.compare" in line]
    assert lines
    for words in lines:
        assert main(words[3:]) == 0 and capsys.readouterr().out
    assert (tmp_path / "comparison.html").stat().st_size > 10_000
