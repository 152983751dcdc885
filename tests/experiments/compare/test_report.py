"""The report equals the format that W&B stores. It is made without a network, and saving it is not tested."""

import json
import socket

import pytest

from errors import UserError
from experiments.compare.groups import fold
from experiments.compare.report import make_report, write_report
from experiments.compare.runs import find_runs
from experiments.compare.significance import Verdict
from tests.experiments.compare.synthetic import make_run
from wording import escape_markdown

pytest.importorskip("wandb_workspaces", reason="needs wandb-workspaces: pip install -r requirements-report.txt")


@pytest.fixture
def groups(tmp_path):
    for lr in (0.001, 0.1):
        for seed in (0, 1):
            fields = {"optim.lr": lr, "seed.init": seed}
            workdir = make_run(tmp_path / f"lr={lr},seed={seed}", fields, [{"mIoU": lr}, {"mIoU": lr / 2}])
            (workdir / "wandb_id").write_text(f"id{lr}{seed}\n")
    return fold(find_runs([str(tmp_path)]))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def make_spec(report):
    """Return a report's model, its blocks by type, and its panels by type."""
    model = json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))
    blocks = {block["type"]: block for block in model["spec"]["blocks"]}
    panels: dict[str, list] = {}
    for panel in blocks["panel-grid"]["metadata"]["panelBankSectionConfig"]["panels"]:
        panels.setdefault(panel["viewType"], []).append(panel["config"])
    return model, blocks, panels


def test_the_report_has_a_summary_and_charts(groups, no_network):
    groups[0].runs[0].rows[-1]["val/examples"] = "predictions/val-20-examples.png"
    verdict = Verdict("mIoU", "lr=0.001", "lr=0.1", -0.1, -0.2, -0.05, 0.004, 50, 1000, True)
    model, blocks, panels = make_spec(make_report("team/project", groups, "val/mIoU", [verdict], 2.0))
    assert (
        model["project"] == {"name": "project", "entityName": "team"}
        and model["displayName"] == "Comparison by val/mIoU"
    )
    text = blocks["markdown-block"]["content"]
    assert "| lr=0.001 | 2 | 0.0010 ± 0.0000 |" in text and "lr=0.1 is better" in text and "| cost |" in text
    assert [panel["metrics"] for panel in panels["Run History Line Plot"]] == [
        ["val/mIoU"], ["train/loss"], ["time/images_per_second"],
    ]  # fmt: skip
    assert all(
        panel["groupArea"] == "minmax" and panel["groupAgg"] == "mean" for panel in panels["Run History Line Plot"]
    )
    (coordinates,) = panels["Parallel Coordinates Plot"]
    axes = [(column["accessor"], column.get("log")) for column in coordinates["columns"]]
    assert axes == [("config:optim.value.lr", True), ("summary:val/mIoU.max", None)]
    assert panels["Bar Chart"][0]["metrics"] == ["val/IoU/circle", "val/IoU/square"]
    assert panels["Media Browser"][0]["mediaKeys"] == ["val/examples"] and len(panels["Run Comparer"]) == 1


def test_a_group_becomes_a_run_set_by_ids(groups, no_network):
    (groups[1].runs[1].workdir / "wandb_id").unlink()
    _, blocks, _ = make_spec(make_report("team/project", groups, "val/mIoU", [], None))
    runsets = blocks["panel-grid"]["metadata"]["runSets"]
    assert [own["name"] for own in runsets] == ["lr=0.001", "lr=0.1"]
    filters = [own["filters"]["filters"] for own in runsets]
    assert [[(part["key"], part["op"], part["value"]) for part in own] for own in filters] == [
        [({"section": "run", "name": "name"}, "IN", ["id0.0010", "id0.0011"])],
        [({"section": "run", "name": "name"}, "IN", ["id0.10"])],
    ]
    assert [own["grouping"] for own in runsets] == 2 * [[{"section": "config", "name": "optim.value.lr"}]]
    assert "were not sent to W&B: lr=0.1,seed=1" in blocks["markdown-block"]["content"]


@pytest.mark.parametrize("target", ["project", "team/", "/project", "a/b/c", ""])
def test_invalid_target_raises_an_error(groups, target):
    with pytest.raises(UserError, match="must be ENTITY/PROJECT"):
        make_report(target, groups, "val/mIoU", [], None)


def test_runs_that_were_never_sent_raise_an_error(groups):
    for group in groups:
        for run in group.runs:
            (run.workdir / "wandb_id").unlink()
    with pytest.raises(UserError, match="no run has a file wandb_id"):
        make_report("team/project", groups, "val/mIoU", [], None)


def test_report_without_an_account_raises_a_one_line_error(groups, monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="wandb login") as caught:
        write_report("team/project", groups, "val/mIoU", [], None)
    assert "\n" not in str(caught.value)


def test_names_become_plain_text_in_markdown():
    assert escape_markdown("a|b\n<img src=x> [x](y) `c` *d* &lt;") == (
        "a\\|b &lt;img src=x&gt; \\[x\\]\\(y\\) \\`c\\` \\*d\\* &amp;lt;"
    )
