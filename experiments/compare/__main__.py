"""The command that compares runs.

It prints a table of scores and costs, or the table of a paper, writes a page, and tests whether a difference is significant.

    .venv/bin/python -m experiments.compare runs/lr
    .venv/bin/python -m experiments.compare runs/unet runs/fcn --metric=val/boundary_IoU --html=comparison.html
    .venv/bin/python -m experiments.compare runs/lr --rows=model.name --columns=optim.lr --latex

Each argument is the directory of a run or of a sweep. Runs that differ only in their seeds are one row, with the mean and its
95 % interval. For two rows, or two runs, the command reports whether their difference is significant.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from errors import UserError, warn
from experiments.arguments import Parser
from experiments.compare import tables
from experiments.compare.groups import Group, fold, list_repeated
from experiments.compare.page import write_page
from experiments.compare.report import write_report
from experiments.compare.runs import Run, find_runs
from experiments.compare.significance import Verdict, judge
from wording import count


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. End the process with one line for a mistake."""
    parser = Parser(prog="python -m experiments.compare", description="Compare runs.", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="directories of runs or sweeps")
    parser.add_argument("--metric", help="such as val/mIoU; config.train.best by default")
    parser.add_argument("--rows", help="fields whose values are the rows of a table of best values")
    parser.add_argument("--columns", help="fields whose values are its columns")
    parser.add_argument(
        "--last", action="store_true", help="with --rows or --columns: use the last values, not the best"
    )
    parser.add_argument("--price", type=float, help="price of a device-hour, for a column of costs")
    parser.add_argument("--records", default="val", metavar="NAME", help="test the difference on records/NAME.jsonl")
    parser.add_argument(
        "--draws", type=int, default=1000, help="bootstrap samples of the images for this test, 100 or more"
    )
    parser.add_argument("--html", type=pathlib.Path, help="also write a page to this file")
    parser.add_argument("--report", metavar="ENTITY/PROJECT", help="also make a W&B report in this project")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print the table as CSV, with all digits")
    form.add_argument("--latex", action="store_true", help="print the table in LaTeX")
    flags = parser.parse_args(argv)
    if flags.draws < 100:
        parser.error(f"--draws={flags.draws} must be 100 or more")
    if flags.price is not None and not flags.price >= 0:
        parser.error(f"--price={flags.price} must be 0 or more")
    if flags.last and not (flags.rows or flags.columns):
        parser.error("--last needs --rows or --columns; without them the table has both values")
    if flags.html is not None and flags.html.is_dir():
        parser.error(f"--html={flags.html} is a folder; name a file in it")
    return flags


def find_metric(runs: Sequence[Run], asked: str | None) -> str:
    """Return the metric that compares the runs. Raise UserError if their configs name different ones or no run has it."""
    chosen = list(dict.fromkeys(run.metric for run in runs if run.config))
    if asked is None and len(chosen) != 1:
        raise UserError(
            f"the runs choose their best checkpoint by {' and '.join(chosen) or 'no metric'}; choose one with --metric"
        )
    metric = asked or chosen[0]
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    if names and metric not in names:
        means = [name for name in names if name.startswith("val/") and name.count("/") == 1]
        raise UserError(f"--metric={metric}: no run has it; choose one of {', '.join(means or names)}")
    return metric


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group the runs that differ only in their seeds. Two runs always stay two groups."""
    groups = fold(runs, seeds=len(runs) != 2)
    for group in groups:
        if repeated := list_repeated(group):
            warn(
                f"{' and '.join(repeated)} have equal configs and equal seeds, but count as several seeds: the interval of "
                f"{group.name} is too narrow; remove one"
            )
    return groups


def find_verdicts(groups: Sequence[Group], metric: str, flags: argparse.Namespace) -> list[Verdict]:
    """Test the difference of two groups. Return no verdicts for another number of groups, or with a warning on an error."""
    if len(groups) != 2:
        return []
    first, second = groups
    try:
        return judge(first, second, metric, flags.draws, records=flags.records)
    except UserError as error:
        warn(f"the significance of the difference is unknown: {error}")
        return []


def main(argv: Sequence[str]) -> int:
    """Compare the runs that the command line names. Return the exit code of the process."""
    flags = read_flags(argv)
    try:
        runs = find_runs(flags.runs)
        for run in runs:
            for problem in run.problems:
                warn(f"{run.name}: {problem}")
        metric = find_metric(runs, flags.metric)
        groups = group_runs(runs)
        rows, columns = (text.split(",") if text else [] for text in (flags.rows, flags.columns))
        if rows or columns:
            table = tables.pivot(groups, metric, rows, columns, flags.last)
        else:
            whole = flags.csv or flags.latex or tables.has_few_fields(groups)
            table = tables.summarise(groups, metric, flags.price, fields=whole)
        write = tables.write_csv if flags.csv else tables.write_latex if flags.latex else tables.write_text
        _print(write(table))
        plain = not (flags.csv or flags.latex or rows or columns)
        verdicts = find_verdicts(groups, metric, flags) if plain or flags.html or flags.report else []
        if plain:
            _explain(groups, verdicts, flags.records)
        if flags.html:
            write_page(flags.html, groups, metric, verdicts, flags.price)
            print(f"page: {flags.html}", file=sys.stderr)
        if flags.report:
            print(f"report: {write_report(flags.report, groups, metric, verdicts, flags.price)}", file=sys.stderr)
    except UserError as error:
        sys.exit(f"error: {error}")
    return 0


def _print(text: str) -> None:
    """Print text. A reader such as `head` may close the pipe early, and the page is still written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(groups: Sequence[Group], verdicts: Sequence[Verdict], records: str) -> None:
    """Print the fields that do not fit into the table, and the verdicts."""
    if not tables.has_few_fields(groups):
        _print(f"\n{tables.write_text(tables.list_differences(groups))}")
    if verdicts:
        first, source = verdicts[0], "the last evaluation" if records == "val" else f"the records {records}"
        _print(f"\n{count(first.images, 'image')} of {source}, {first.draws} draws, {_name_spreads(first)}:")
        _print("\n".join(verdict.describe() for verdict in verdicts))
    elif len(groups) > 2:
        _print("\nname two of them to test whether their difference is significant")


def _name_spreads(verdict: Verdict) -> str:
    """Return the spreads that a verdict's interval contains, as text."""
    if verdict.seeds:
        return "over images and seeds"
    return "over images alone: a difference of these two runs, which another seed may change"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
