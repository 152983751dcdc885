"""The W&B run, which the follower's process opens, describes and feeds with the rows of metrics.jsonl.

Each row reaches W&B once, however often the run is killed and resumed or W&B is out of reach. wandb/cursor.json stores the
newest step that was sent and the offline file that received it. After a kill that file may lack the last rows, or contain one
that is not in the cursor yet. The next session therefore continues after the newest row in the file. Each offline session is
a separate folder, and no two of them contain the same step.

For an online run the server decides. A session begins after the newest row that the server reports, and succeeds only when
the server reports the last one. Rows handed to the wandb package in between do not count.
"""

import contextlib
import csv
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import UserError
from experiments.run.sessions import read_sessions
from files import leads_out, read_bytes, read_json, read_text, write_atomically
from limits import RECORDS

POLL_SECONDS = 1.0  # between two reads of metrics.jsonl; a power cut can lose as much of an offline run
LINGER_SECONDS = 600  # a follower lives at most this long after the run
EXIT_CODES = {"finished": 0, "stopped": os.EX_TEMPFAIL, "failed": 1}  # the ends of a run, and their exit codes in W&B
EVIDENCE = ("git", "parameters", "devices", "packages")  # fields of evidence.json that W&B shows next to the config
RETRIES = 7 * 24 * 60  # of a request, one per minute for a week. The package retries 20 times, except for rows
PATIENCE = (0.5, 1, 2, 4, 8)  # seconds between requests to the server, which may take a moment to count new rows
HEADER = 7  # bytes of a .wandb file's header, and of each record's header: CRC-32, size, kind
BLOCK = 32768  # bytes of a block in a .wandb file; no record's header crosses the end of a block


class Dashboard:
    """One session of a W&B run. `sent` is the newest step that was sent in this or an earlier session."""

    def __init__(self, workdir: Path, config: dict, run_id: str, mode: str):
        """Open the run, new or resumed. `mode` comes from choose_mode. Raises the errors of W&B."""
        self.workdir, self._cursor = workdir, workdir / "wandb" / "cursor.json"
        self._evidence = _read_evidence(workdir)
        if self._cursor.exists():
            time.sleep(1.1)  # offline folders are named by the second, and sessions must not share one
        self._run = _open_run(workdir, config, run_id, mode, self._evidence)
        self._project = f"{config['wandb']['entity']}/{config['wandb']['project']}"
        self._noted = _read_cursor(workdir, self._cursor)
        is_same_project = self._noted.get("project", self._project) == self._project
        if not is_same_project:
            self._noted = {"step": -1}  # another project has no row of the run yet
        if self._run.offline:
            self._file = os.path.relpath(self._run.settings.sync_file, workdir)
            self.sent = _sent_before(workdir, self._noted)
        else:
            self._file, self.sent = None, self._run.starting_step - 1
            if is_same_project:
                _mark_uploaded(workdir)
        self._before = self.sent
        best = self._evidence.get("best", {"score": None, "smaller_is_better": False})
        self._best_name, self._choose = best["score"], min if best["smaller_is_better"] else max
        self._best: float | None = None
        self._define()
        self._note()

    def _define(self) -> None:
        """Set the training step as the charts' x axis, and the best value as the summary of the score of train.best."""
        self._run.define_metric("step", hidden=True)
        for section in ("train", "val", "time"):
            self._run.define_metric(f"{section}/*", step_metric="step")
        if self._best_name:
            self._run.define_metric(self._best_name, step_metric="step", summary=self._choose.__name__)

    def send(self, rows: list[dict]) -> None:
        """Send the rows that W&B lacks, and update the cursor. Call this with all rows in order, from the first one."""
        for row in rows:
            is_new = row["step"] > self.sent
            if is_new:
                # Without a commit W&B would hold the row until the next one comes, and lose it at a kill.
                self._run.log(_payload(self.workdir, row), step=row["step"], commit=True)
                self.sent = row["step"]
            score = row.get(self._best_name)
            if score is not None:
                self._best = score if self._best is None else self._choose(self._best, score)
                if is_new:  # W&B's own best covers this session only
                    self._run.summary.update({self._best_name: {self._choose.__name__: self._best}})
        if self._file is not None:
            self._note()

    def _note(self) -> None:
        cursor = {"step": self.sent, "file": self._file, "before": self._before, "project": self._project}
        if cursor != self._noted:
            write_atomically(self._cursor, json.dumps(cursor).encode())
            self._noted = cursor

    def finish(self, outcome: str) -> None:
        """End the session, and wait until W&B has all rows. `outcome` is a key of EXIT_CODES.

        Raises NotArrived if the server lacks a row, and the errors of W&B.
        """
        if outcome == "stopped":
            self._run.mark_preempting()  # W&B then shows the run as preempted, not as failed
        self._run.finish(exit_code=EXIT_CODES[outcome])
        if self._file is None:
            self._confirm()
            self._note()
        forget_wandb()  # the offline file, which the next session reads, is complete only after W&B's service has ended

    def _confirm(self) -> None:
        """Check that the server has all rows, and upload the pictures and tables that it lacks.

        The package drops a row or file after a final refusal, such as a proxy's, and does not report it.
        """
        import wandb

        run = wandb.Api().run(self._run.path)
        if self.sent > self._before:
            self._confirm_rows(run)
        # Of all sessions, because one may have died during its uploads.
        kept = {path.relative_to(folder).as_posix(): folder for folder, path in _media_files(self.workdir)}
        if kept:
            uploaded = {file.name for file in run.files(per_page=500) if file.size}
            for name in sorted(kept.keys() - uploaded):
                run.upload_file(str(kept[name] / name), root=str(kept[name]))

    def _confirm_rows(self, run) -> None:
        found = None
        for seconds in PATIENCE:
            found = run.lastHistoryStep
            if found >= self.sent:
                return
            time.sleep(seconds)
        raise NotArrived(f"W&B has only the steps up to {found} of {self.sent}")


class NotArrived(Exception):
    """The server lacks rows that were sent."""


def forget_wandb() -> None:
    """End W&B's service, and wait for its end.

    If the service has died, W&B may raise an error here, or even SystemExit. Both are ignored.
    """
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()


def _media_files(workdir: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (folder, path) of each picture and table of an online session. Its name in W&B is relative to the folder."""
    for folder in workdir.glob("wandb/run-*/files"):
        yield from ((folder, path) for path in folder.glob("media/**/*") if path.is_file())


def choose_mode(config: dict) -> str:
    """Return `online` or `offline`. Call this before a run is opened, because wandb.login fails afterwards."""
    import wandb

    asked = config["wandb"]["mode"]
    mode = os.environ.get("WANDB_MODE", "auto") if asked == "auto" else asked
    if mode == "auto":
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    return mode


def _open_run(workdir: Path, config: dict, run_id: str, mode: str, evidence: dict):
    """Open the W&B run.

    If the account is out of reach, this raises after seconds; wandb.init alone would take 90 seconds.
    """
    import wandb

    asked = config["wandb"]
    if mode == "online":
        wandb.Api(timeout=10)  # requests the account
    given: dict[str, Any] = {"name": workdir.name}
    given |= {name: value for name, value in asked.items() if value} | {"mode": mode}
    return wandb.init(
        id=run_id,
        resume="allow",
        dir=str(workdir),
        config=config | {"evidence": {name: evidence[name] for name in EVIDENCE if name in evidence}},
        **given,
        settings=wandb.Settings(
            console="off",
            quiet=True,
            x_stats_pid=os.getppid(),  # the system metrics are those of the training process
            x_transaction_log_flush_interval=POLL_SECONDS,
            x_graphql_retry_max=RETRIES,
            x_file_transfer_retry_max=RETRIES,
            finish_timeout=LINGER_SECONDS - 60,
            finish_timeout_raises=True,
        ),
    )


def _mark_uploaded(workdir: Path) -> None:
    """Mark the offline folders as uploaded.

    The rows go online from metrics.jsonl, and `wandb sync` would append them again.
    """
    for file in (workdir / "wandb").glob("offline-run-*/*.wandb"):
        file.with_suffix(".wandb.synced").touch()


def _read_evidence(workdir: Path) -> dict:
    """Return the newest session in evidence.json, {} if there is none."""
    sessions = read_sessions(workdir / "evidence.json")
    return sessions[-1] if sessions else {}


def _read_cursor(workdir: Path, path: Path) -> dict:
    """Return the cursor. If it is damaged, return the newest step in any offline file instead."""
    try:
        noted = read_json(path)
        numbers, file = (noted.get("step"), noted.get("before", -1)), noted.get("file")
        if all(type(number) is int for number in numbers) and isinstance(file, str | None):
            return noted
    except FileNotFoundError:
        return {"step": -1}
    except UserError as error:
        print(error)
    print(f"{path} is damaged; the newest sent step is read from the offline files")
    files = (workdir / "wandb").glob("offline-run-*/run-*.wandb")
    return {"step": max((step for file in files for step in stored_steps(file)), default=-1)}


def _sent_before(workdir: Path, cursor: dict) -> int:
    """Return the newest step of earlier sessions, from the offline file, or from the cursor if the file was removed."""
    file = cursor.get("file")
    if file is None or not (workdir / file).exists():
        return cursor["step"]
    return max(stored_steps(workdir / file), default=cursor["before"])


def stored_steps(path: Path) -> Iterator[int]:
    """Yield the step of each row in a .wandb file, without an incomplete last record.

    The file contains protobuf records in LevelDB's log format.
    """
    from wandb.proto.wandb_internal_pb2 import (
        Record,  # pyright: ignore[reportAttributeAccessIssue] - protobuf makes the class at run time
    )

    content, at, parts = read_bytes(path, RECORDS), HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        checksum, size, kind = (int.from_bytes(content[at + i : at + j], "little") for i, j in ((0, 4), (4, 6), (6, 7)))
        data = content[at + HEADER : at + HEADER + size]
        if len(data) < size or zlib.crc32(content[at + 6 : at + 7] + data) != checksum:
            return
        at, parts = at + HEADER + size, parts + data
        if kind in (1, 4):  # a complete record, or the last part of one
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                yield record.history.step.num


def _payload(workdir: Path, row: dict) -> dict:
    """Return a row for W&B, with the names of metrics.jsonl and with pictures and tables in place of their paths."""
    return {name: _media(workdir, value) for name, value in row.items() if value is not None}


def _media(workdir: Path, value):
    if isinstance(value, list):
        return [_media(workdir, item) for item in value]
    if not (isinstance(value, str) and value.endswith((".png", ".csv"))):
        return value
    import wandb

    try:
        if leads_out(value):
            raise UserError("its path leads out of the run directory")
        if value.endswith(".csv"):
            names, *rows = csv.reader(read_text(workdir / value).splitlines())
            data = [[row[0], *(float(cell) if cell else math.nan for cell in row[1:])] for row in rows]
            return wandb.Table(columns=[*names], data=data)
        return wandb.Image(str(workdir / value))
    except Exception as error:
        print(f"{value} cannot be read ({error}); W&B gets only its name")
        return value
