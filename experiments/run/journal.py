"""The journal of a run, which is metrics.jsonl, evidence.json and the results of evaluations.

Process 0 writes. All processes must call every method except `close`. A failed write is an error in all processes.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.run.directory import lead, writes
from experiments.run.evaluator import Evaluation, write_result
from experiments.run.evidence import Evidence
from experiments.run.metrics_file import MetricsFile


class Journal:
    """The journal of the run in `workdir`, from its start or resume at a step to its end."""

    _metrics: MetricsFile  # only in process 0, as is _evidence
    _evidence: Evidence

    def __init__(
        self, workdir: pathlib.Path, *, last_row: int, mark: Mapping | None, accept_lost: bool, step: int, **session
    ):
        """Drop the rows that the restored checkpoint does not cover, and begin a session at `step`.

        `last_row`, `mark` and `accept_lost` go to MetricsFile.cut. `session` holds the other arguments of Evidence.
        """
        self.workdir = workdir

        def open_files() -> None:
            self._metrics = MetricsFile(workdir / "metrics.jsonl")
            self._metrics.cut(last_row, mark, accept_lost)
            self._evidence = Evidence(workdir, step=step, **session)

        lead(open_files)

    def rows(self) -> list[dict]:
        """Return every row of metrics.jsonl, in order."""
        return lead(lambda: list(self._metrics.rows()))

    def append(self, step: int, values: Mapping[str, object]) -> None:
        """Append the row of a step to metrics.jsonl."""
        lead(lambda: self._metrics.append(step, values))

    def sync(self) -> dict[str, Any]:
        """Flush every row to disk, and return the mark of the rows.

        Call it before a checkpoint is saved, which may only cover rows that are on disk.
        """

        def sync() -> dict[str, Any]:
            self._metrics.sync()
            return self._metrics.mark

        return lead(sync)

    def keep(self, step: int, result: Evaluation) -> dict[str, str]:
        """Write an evaluation's records, table and pictures, and return the paths of the last two for the step's row."""
        places = lead(lambda: write_result(self.workdir, f"val-{step:07d}", result, records="val"))
        return {f"val/{kind}": place for kind, place in places.items()}

    def measure(self, **measured) -> None:
        """Write the session's measurements so far. They are the arguments of Evidence.update."""
        lead(lambda: self._evidence.update(**measured))

    def close(self) -> None:
        """Close the files.

        This waits for no other process, so it may be called after a failure of this process alone.
        """
        if writes():
            self._metrics.close()
