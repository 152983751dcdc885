"""The run as W&B shows it: opened, described and fed with the rows of metrics.jsonl, by the follower's process.

Every row is in W&B once, however often the run is killed and resumed, and W&B out of reach. wandb/cursor.json holds the
newest step that was sent and the offline file that it went to. After a kill that file may lack the last rows, or have one
that the cursor does not know of yet: the next session goes on after the newest row that the file really holds. An offline
session is a folder of its own, and no two of them hold the same step.

Of a run online the server knows: a session begins after the newest row that the server names, and has ended well only when
the server names the last one. What was handed to the wandb package in between counts for nothing.
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

from errors import UserError
from experiments.run.sessions import read_sessions
from files import leads_out, read_bytes, read_json, read_text, write_atomically
from limits import RECORDS

POLL_SECONDS = 1.0  # between two looks at metrics.jsonl, and what a power cut can lose of an offline run
LINGER_SECONDS = 600  # a follower lives no longer than this after the run it follows
EXIT_CODES = {"finished": 0, "stopped": os.EX_TEMPFAIL, "failed": 1}  # how a run can end, and what W&B hears of it
EVIDENCE = ("git", "parameters", "devices", "packages")  # of evidence.json, shown next to the config
RETRIES = 7 * 24 * 60  # of a request, a minute apart: a week. The package's own limit is 20 for all but the rows
PATIENCE = (0.5, 1, 2, 4, 8)  # seconds between questions to the server, which may take a moment to count what came
HEADER = 7  # bytes before a .wandb file's first record, and of each record: CRC-32, size, kind
BLOCK = 32768  # bytes of a .wandb file; no record's header crosses the end of one


class Dashboard:
    """One session of a W&B run. `sent` is the newest step that was sent, in this session or before."""

    def __init__(self, workdir: Path, config: dict, run_id: str, mode: str):
        """Opens the run, new or resumed; `mode` is that of choose_mode. Raises whatever W&B raises."""
        self.workdir, self._cursor = workdir, workdir / "wandb" / "cursor.json"
        self._evidence = _read_evidence(workdir)
        if self._cursor.exists():
            time.sleep(1.1)  # an offline folder is named by the second, and no two sessions may share one
        self._run = _open_run(workdir, config, run_id, mode, self._evidence)
        self._project = f"{config['wandb']['entity']}/{config['wandb']['project']}"
        self._noted = _read_cursor(workdir, self._cursor)
        is_same_project = self._noted.get("project", self._project) == self._project
        if not is_same_project:
            self._noted = {"step": -1}  # another project has nothing of the run yet
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
        """The charts' x axis is the step of training; a summary is the last value, but of the score of train.best the best."""
        self._run.define_metric("step", hidden=True)
        for section in ("train", "val", "time"):
            self._run.define_metric(f"{section}/*", step_metric="step")
        if self._best_name:
            self._run.define_metric(self._best_name, step_metric="step", summary=self._choose.__name__)

    def send(self, rows: list[dict]) -> None:
        """Sends those of the rows that W&B does not have, and notes how far that goes. Rows come from the first on."""
        for row in rows:
            is_new = row["step"] > self.sent
            if is_new:
                # Committed, or W&B would keep it back until the next one comes, and lose it with a kill.
                self._run.log(_payload(self.workdir, row), step=row["step"], commit=True)
                self.sent = row["step"]
            score = row.get(self._best_name)
            if score is not None:
                self._best = score if self._best is None else self._choose(self._best, score)
                if is_new:  # W&B's own best is that of this session alone
                    self._run.summary.update({self._best_name: {self._choose.__name__: self._best}})
        if self._file is not None:
            self._note()

    def _note(self) -> None:
        cursor = {"step": self.sent, "file": self._file, "before": self._before, "project": self._project}
        if cursor != self._noted:
            write_atomically(self._cursor, json.dumps(cursor).encode())
            self._noted = cursor

    def finish(self, outcome: str) -> None:
        """Ends the session, and waits until W&B has it all. `outcome` is a key of EXIT_CODES.

        Raises NotArrived where the server lacks a row, and what W&B raises.
        """
        if outcome == "stopped":
            self._run.mark_preempting()  # W&B then shows it as preempted, not as failed
        self._run.finish(exit_code=EXIT_CODES[outcome])
        if self._file is None:
            self._confirm()
            self._note()
        forget_wandb()  # the offline file is whole only when W&B's service has ended, and the next session reads it

    def _confirm(self) -> None:
        """Asks the server what it has, and uploads the pictures and tables it lacks.

        The package gives up on a row or a file that is refused once for good, such as by a proxy, and does not report it.
        """
        import wandb

        run = wandb.Api().run(self._run.path)
        if self.sent > self._before:
            self._confirm_rows(run)
        # Of all sessions: one may have died over its uploads.
        kept = {path.relative_to(folder).as_posix(): folder for folder, path in _media_files(self.workdir)}
        if kept:
            uploaded = {file.name for file in run.files(per_page=500) if file.size}
            for name in sorted(kept.keys() - uploaded):
                run.upload_file(str(kept[name] / name), root=str(kept[name]))

    def _confirm_rows(self, run) -> None:
        for seconds in PATIENCE:
            found = run.lastHistoryStep
            if found >= self.sent:
                return
            time.sleep(seconds)
        raise NotArrived(f"W&B has the steps up to {found}, of {self.sent}")


class NotArrived(Exception):
    """Rows that were sent are not at the server."""


def forget_wandb() -> None:
    """Ends W&B's service, and waits for it. It may be what died: this may fail, and even ask to exit with its code."""
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()


def _media_files(workdir: Path) -> Iterator[tuple[Path, Path]]:
    """Yields the pictures and tables that sessions online have sent, each after the folder that its name is relative to."""
    for folder in workdir.glob("wandb/run-*/files"):
        yield from ((folder, path) for path in folder.glob("media/**/*") if path.is_file())


def choose_mode(config: dict) -> str:
    """Returns `online` or `offline`. Asked before a run is opened: afterwards wandb.login has no answer."""
    import wandb

    asked = config["wandb"]["mode"]
    mode = os.environ.get("WANDB_MODE", "auto") if asked == "auto" else asked
    if mode == "auto":
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    return mode


def _open_run(workdir: Path, config: dict, run_id: str, mode: str, evidence: dict):
    """Opens the W&B run. An account out of reach raises after seconds: wandb.init would take a minute and a half."""
    import wandb

    asked = config["wandb"]
    if mode == "online":
        wandb.Api(timeout=10)  # asks whose account it is
    return wandb.init(
        id=run_id,
        resume="allow",
        mode=mode,
        dir=str(workdir),
        config=config | {"evidence": {name: evidence[name] for name in EVIDENCE if name in evidence}},
        **{"name": workdir.name} | {name: value for name, value in asked.items() if name != "mode" and value},
        settings=wandb.Settings(
            console="off",
            quiet=True,
            x_stats_pid=os.getppid(),  # the machine's figures are those of the training process
            x_transaction_log_flush_interval=POLL_SECONDS,
            x_graphql_retry_max=RETRIES,
            x_file_transfer_retry_max=RETRIES,
            finish_timeout=LINGER_SECONDS - 60,
            finish_timeout_raises=True,
        ),
    )


def _mark_uploaded(workdir: Path) -> None:
    """Marks the offline folders as uploaded: the rows go online from metrics.jsonl, and `wandb sync` would append them again."""
    for file in (workdir / "wandb").glob("offline-run-*/*.wandb"):
        file.with_suffix(".wandb.synced").touch()


def _read_evidence(workdir: Path) -> dict:
    """What evidence.json says of the newest session; nothing of a run that has none."""
    sessions = read_sessions(workdir / "evidence.json")
    return sessions[-1] if sessions else {}


def _read_cursor(workdir: Path, path: Path) -> dict:
    """What was noted of earlier sessions. Of a damaged one, the newest step that any of their files holds."""
    try:
        noted = read_json(path)
        numbers, file = (noted.get("step"), noted.get("before", -1)), noted.get("file")
        if all(type(number) is int for number in numbers) and isinstance(file, str | None):
            return noted
    except FileNotFoundError:
        return {"step": -1}
    except UserError as error:
        print(error)
    print(f"{path} is damaged: the offline files say what has been sent")
    files = (workdir / "wandb").glob("offline-run-*/run-*.wandb")
    return {"step": max((step for file in files for step in stored_steps(file)), default=-1)}


def _sent_before(workdir: Path, cursor: dict) -> int:
    """The newest step of earlier sessions. The offline file decides, unless it was removed after an upload."""
    file = cursor.get("file")
    if file is None or not (workdir / file).exists():
        return cursor["step"]
    return max(stored_steps(workdir / file), default=cursor["before"])


def stored_steps(path: Path) -> Iterator[int]:
    """Yields the step of each row in a .wandb file: protobuf records in LevelDB's log format. A torn end is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

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
        if kind in (1, 4):  # a whole record, or the last part of one
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                yield record.history.step.num


def _payload(workdir: Path, row: dict) -> dict:
    """What W&B gets of one row: the same names as in metrics.jsonl, pictures and tables in place of their paths."""
    return {name: _media(workdir, value) for name, value in row.items() if value is not None}


def _media(workdir: Path, value):
    if isinstance(value, list):
        return [_media(workdir, item) for item in value]
    if not (isinstance(value, str) and value.endswith((".png", ".csv"))):
        return value
    import wandb

    try:
        if leads_out(value):
            raise UserError("it leads out of the run's directory")
        if value.endswith(".csv"):
            names, *rows = csv.reader(read_text(workdir / value).splitlines())
            data = [[row[0], *(float(cell) if cell else math.nan for cell in row[1:])] for row in rows]
            return wandb.Table(columns=names, data=data)
        return wandb.Image(str(workdir / value))
    except Exception as error:
        print(f"{value}: sent as a name only, for it cannot be read: {error}")
        return value
