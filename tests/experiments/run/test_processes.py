"""Two processes train one run. Only process 0 writes its directory, and the numbers equal those of one process."""

import fcntl
import json
import pathlib
import re
import shutil
import signal
import sys

import pytest

from experiments.run.checkpoints import Checkpoints
from tests.processes import run_together, start_main
from tests.test_resume import wait_for

PROGRAM = """
import pathlib

workdir, data_dir, fields = {workdir!r}, {data_dir!r}, {fields!r}
written = set()


def note(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not (flags & 3 or "w" in str(mode) or "a" in str(mode)):
            return
        paths = [path]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = arguments[:2]
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime"):
        paths = arguments[:1]
    else:
        return
    for path in map(str, paths):
        if path.startswith(workdir):
            written.add(path[len(workdir):].lstrip("/"))


sys.addaudithook(note)

from errors import UserError
from experiments import evaluate, train
from experiments.command_line import Command
from tests import small_unet

config = small_unet.get_config()
config.optim.update(name="sgd", lr=0.05)  # adam amplifies the rounding of small gradients
config.update_from_flattened_dict(fields)
command = Command(config, True, workdir, data_dir, "last", "auto", None, None, False)
try:
    code = train.train(command)
    evaluate.evaluate(command)
    print(json.dumps([code, sorted(written)]))
except UserError as error:
    print(json.dumps([str(error), sorted(written)]))
"""


def launch(count: int, workdir: pathlib.Path, data_dir: str, **fields) -> list:
    """Run processes, and return two things for each.

    The first is train's exit code or error, the second the paths in `workdir` that its Python code has changed.
    """
    fields = {name.replace("__", "."): value for name, value in fields.items()}
    return run_together(PROGRAM.format(workdir=str(workdir), data_dir=data_dir, fields=fields), count)


def rows(workdir: pathlib.Path) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]


PIXELS = re.compile(r"accuracy|IoU|Dice")


def assert_close(found: list[dict], expected: list[dict]) -> None:
    """Compare rows up to rounding. A pixel whose two best logits are nearly equal may change its class."""
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for left, right in zip(found, expected, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            tolerance = dict(abs=1e-3) if PIXELS.search(name) else dict(rel=1e-5)
            number = isinstance(value, int | float)
            assert value == (pytest.approx(right[name], **tolerance) if number else right[name]), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    launch(1, workdir, data_dir)
    return workdir


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory, data_dir) -> tuple[pathlib.Path, list]:
    workdir = tmp_path_factory.mktemp("together") / "run"
    return workdir, launch(2, workdir, data_dir)


def test_only_process_0_writes(together):
    workdir, ((code, first), (other_code, second)) = together
    assert code == other_code == 0
    assert {path for path in second if not path.startswith("checkpoints")} == set()
    for name in (".lock", "config.json.tmp", "wandb_id.tmp", "metrics.jsonl", "evidence.json.tmp"):
        assert name in first
    for name in (
        "config.json",
        "wandb_id",
        "evidence.json",
        "records/val.jsonl",
        "records/validation[:24]-last-auto-6.json",
    ):
        assert (workdir / name).is_file()
    assert (workdir / "predictions" / "val-0000003-examples.png").is_file()
    assert sorted(path.name for path in (workdir / "checkpoints" / "last").iterdir()) == ["3", "6"]


def test_the_numbers_equal_those_of_one_process(alone, together):
    assert_close(rows(together[0]), rows(alone))


@pytest.mark.slow
def test_a_resumed_run_ends_the_same(together, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(together[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "last" / "6")
    (_, first), (_, second) = launch(2, workdir, data_dir)
    assert second == [] and "metrics.jsonl.tmp" in first, "process 0 has cut the rows after step 3"
    assert rows(workdir) == rows(together[0])
    evidence = json.loads((workdir / "evidence.json").read_text())["sessions"]
    assert [(session["first_step"], session["last_step"]) for session in evidence] == [(0, 6), (3, 6)]
    for kind in ("last", "best"):
        (_, left), (_, right) = (Checkpoints(place, read_only=True).read(kind) for place in (workdir, together[0]))
        for notes in (left, right):
            notes.pop("rows")  # the rows contain times
        assert left == right and left["sha256"]


def test_a_failure_of_process_0_is_raised_in_every_process(alone, data_dir):
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    said = launch(2, alone, data_dir, optim__lr=0.5)
    for message, written in said:
        assert "optim.lr is 0.05 there, 0.5 now" in message and not written
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("*")} == before


CLAIM = """
import pathlib
from errors import UserError
from experiments.run import directory
from tests import small_unet

try:
    with directory.claim(pathlib.Path({workdir!r}), small_unet.get_config()):
        print(json.dumps(directory.lead(lambda: ["process", rank])))
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_all_processes_wait_for_the_claim_and_get_its_result(tmp_path):
    workdir = tmp_path / "run"
    assert run_together(CLAIM.format(workdir=str(workdir)), 2) == [["process", 0]] * 2
    with open(workdir / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        messages = run_together(CLAIM.format(workdir=str(workdir)), 2)
    assert messages[0] == messages[1] and "another process is training in" in messages[0]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the child")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_guards_child_starts_is_a_stop(tmp_path, number):
    """The child has no signal handler yet, and dies of the signal that the guard passes on."""
    guard, other = start_main(2, 1, "--config=tests/small_unet.py", f"--workdir={tmp_path / 'run'}")
    other.kill()
    other.communicate()
    children = pathlib.Path(f"/proc/{guard.pid}/task/{guard.pid}/children")

    seen = []

    def begins() -> bool:
        """Return whether the child has become main.py, whose interpreter now starts."""
        if child := children.read_text().strip():
            seen.append(b"child.py" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes())
        return True in seen and not seen[-1]

    wait_for(begins, guard)
    guard.send_signal(number)
    _, said = guard.communicate(timeout=60)
    assert guard.returncode == 75 and said.splitlines() == ["stopped: start the same command again"]
