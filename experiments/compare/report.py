"""The W&B report of a comparison, with the parts of the page that W&B can draw, from the runs in W&B."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from errors import UserError
from experiments.compare.contents import summarise
from experiments.compare.groups import Group
from experiments.compare.runs import Run, is_smaller_better
from experiments.compare.significance import Verdict
from files import read_text
from wording import escape_markdown

INSTALL = "`.venv/bin/pip install -r requirements-report.txt`"
LOG_SPAN = 50  # an axis is logarithmic if its largest value is this many times its smallest
PICTURES = ("val/examples", "val/precision_recall", "val/confusion")
Box = tuple[int, int, int, int]  # x, y, width, height of a panel; a report is 24 wide


def write_report(
    target: str, groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None
) -> str:
    """Save the report in `target`, ENTITY/PROJECT, and return its URL. The other arguments are those of `write_page`.

    Raise UserError if a library, an account or the network is missing, or if no run has been sent to W&B.
    """
    report = make_report(target, groups, metric, verdicts, price)
    try:
        report.save()
        return report.url
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise UserError(
            f"--report={target}: W&B did not accept the report: {reason}; check the network and `wandb login`"
        ) from error


def make_report(
    target: str, groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None
) -> Any:
    """Make the Report of wandb_workspaces, without the network. Files `wandb_id` name the runs in W&B."""
    entity, slash, project = target.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError(f"--report={target} must be ENTITY/PROJECT, such as --report=my-team/my-project")
    wr = _import_library()
    runsets = [_make_runset(group, wr) for group in groups if any(map(read_id, group.runs))]
    if not runsets:
        raise UserError(f"--report={target}: no run has a file wandb_id; train with --config.wandb.mode=online")
    missing = [run.name for group in groups for run in group.runs if read_id(run) is None]
    text = write_summary(groups, metric, verdicts, price)
    if missing:
        text += f"\n\nNot in the charts, because they were not sent to W&B: {', '.join(map(escape_markdown, missing))}"
    charts = wr.PanelGrid(runsets=runsets, panels=_make_panels(groups, metric, wr), hide_run_sets=False)
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Comparison by {metric}",
        blocks=[wr.MarkdownBlock(text), charts],
        width="fluid",
    )


def read_id(run: Run) -> str | None:
    """Return the id of a run in W&B, or None."""
    try:
        return read_text(run.workdir / "wandb_id").strip() or None
    except UserError:
        return None


def write_summary(groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None) -> str:
    """Return the summary and the verdicts in Markdown, with every name as plain text."""
    found = summarise(groups, metric, price)
    lines = [
        [title for title, _ in found["columns"]],
        ["---"] * len(found["columns"]),
        *([escape_markdown(text) for text, _ in row] for row in found["rows"]),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *(f"* {escape_markdown(verdict.describe())}" for verdict in verdicts)])


def _import_library() -> Any:
    """Return the library's module of reports. Its types are not used, because they take seconds to check."""
    try:
        import wandb_workspaces.reports.v2.interface as wr
    except ImportError as error:
        raise UserError(f"--report needs wandb-workspaces ({error}); run {INSTALL}") from None
    return wr


def _make_runset(group: Group, wr: Any) -> Any:
    """Make the run set of a group. W&B draws its seeds as one line, because a field with one value groups them."""
    field = next(iter(group.fields), "train.best")
    return wr.Runset(  # entity and project default to the report's; naming them would need the network
        name=group.name,
        filters=[wr.expr.Metric("ID").isin([own for own in map(read_id, group.runs) if own])],
        groupby=[f"config.{field}"] if len(group.runs) > 1 else [],
    )


def _make_panels(groups: Sequence[Group], metric: str, wr: Any) -> list[Any]:
    runs = [run for group in groups for run in group.runs]
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    places = (wr.Layout(x, y, 12, 8) for y in itertools.count(0, 8) for x in (0, 12))
    panels: list[Any] = [
        wr.LinePlot(
            title=name,
            x="Step",
            y=[name],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=len(runs),
            layout=next(places),
        )
        for name in dict.fromkeys([metric, "train/loss", "val/loss", "time/images_per_second"])
        if name in names
    ]
    fields = list(dict.fromkeys(field for group in groups for field in group.fields))
    best = wr.SummaryMetric(f"{metric}.{'min' if is_smaller_better(metric) else 'max'}")
    if fields:
        columns = [_make_axis(field, [group.fields.get(field) for group in groups], wr) for field in fields]
        columns.append(wr.ParallelCoordinatesPlotColumn(metric=best, display_name=f"best {metric}"))
        panels.append(wr.ParallelCoordinatesPlot(columns=columns, layout=next(places)))
    for kind, own in itertools.groupby(
        sorted(name for name in names if _is_of_class(name)), lambda name: name.split("/")[1]
    ):
        panels.append(
            wr.BarPlot(title=f"{kind} of classes", metrics=list(own), groupby_aggfunc="mean", layout=next(places))
        )
    keys = [key for key in PICTURES if any(key in row for run in runs for row in run.rows[-1:])]
    if keys:
        panels.append(wr.MediaBrowser(title="Newest evaluation", media_keys=keys, layout=next(places)))
    panels.append(wr.RunComparer(diff_only="split", layout=next(places)))
    return panels


def _make_axis(field: str, values: Sequence[Any], wr: Any) -> Any:
    numbers = [value for value in values if type(value) in (int, float)]
    log = len(numbers) == len(values) and min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_SPAN
    return wr.ParallelCoordinatesPlotColumn(metric=wr.Config(field), display_name=field, log=log)


def _is_of_class(name: str) -> bool:
    return name.startswith("val/") and name.count("/") > 1
