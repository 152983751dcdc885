"""Two processes that check each other, one with each kind of problem, and the parts that need one process."""

import json
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from configs import common
from experiments.preflight import pod
from experiments.preflight.board import Board
from tests.conftest import ROOT
from tests.processes import devices_of_cpu, find_port

FLAGS = ["--mode=preflight", "--topology=pod", "--config=configs/ssd_shapes.py:debug"]
PATCHED = """
import runpy, sys, time
from experiments.preflight import pod

sys.argv = ["main.py", *sys.argv[1:]]
PATCH
runpy.run_path("main.py", run_name="__main__")
"""
NOTHING = "pass"


def start(patches: list[str], *flags: str, last: tuple[str, ...] = ()) -> list[tuple[int, str, str]]:
    """Run a process for each patch. Return exit code, stdout and stderr of each. `last` are flags of the last one."""
    port = find_port()
    running = []
    for number, patch in enumerate(patches):
        own = [f"--coordinator=localhost:{port}", "--processes=2", f"--process={number}"]
        own += last if number == len(patches) - 1 else ()
        # The patch stays because main.py does not start itself again.
        environment = devices_of_cpu(2) | {"RUN_IS_GUARDED": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PATCHED.replace("PATCH", patch)]
        running.append(
            subprocess.Popen(
                [*command, *FLAGS, *flags, *own],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=200) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def lines(output: str) -> list[str]:
    """Return the lines of hosts and the verdict in the output of process 0."""
    return [line for line in output.splitlines() if line.startswith("host ") or " hosts are " in line]


@pytest.fixture
def flags(tmp_path, data_dir) -> list[str]:
    return [f"--workdir={tmp_path / 'run'}", f"--tfds_data_dir={data_dir}"]


@pytest.mark.slow
def test_two_good_hosts_are_ready_and_leave_no_files(tmp_path, flags):
    (code, said, _), (other, silent, _) = start([NOTHING, NOTHING], *flags)
    assert (code, other) == (0, 0), said
    first, second, verdict = lines(said)
    assert all(
        ": ready; 2 x cpu, jax " in line and "matchable" in line and "images/s" in line for line in (first, second)
    )
    assert verdict == "2 hosts are ready" and not lines(silent)
    assert not (tmp_path / "run").exists()


OTHER_VERSION = """
found = pod.environment
pod.environment = lambda: (lambda one: one | {"packages": one["packages"] | {"jax": "0.1"}})(found())
"""
OTHER_COMMIT = """
found = pod.environment
pod.environment = lambda: found() | {"git": {"commit": "abc", "dirty": False}}
"""
NO_REDUCTION = """
pod.REDUCTION, pod._reduce = 3.0, lambda: time.sleep(60)
"""
WRONG_SUM = """
reduce = pod._reduce
pod._reduce = lambda: (3.0, reduce()[1])
"""
SLOW_INPUT = """
measured = pod.measure_rate
pod.measure_rate = lambda *given: measured(*given) / 100
"""
NO_FOLDER = """
pod.Folder.__init__ = (lambda made: lambda self, board, workdir, config: made(self, board, workdir / "mine", config))(
    pod.Folder.__init__
)
"""
LATE = """
board = pod.Board
pod.Board.post = (lambda post: lambda self, topic, text: topic == "reduction" and time.sleep(60) or post(self, topic, text))(
    board.post
)
"""
SILENT = """
pod.SECONDS = 40.0
pod.load = lambda *given: time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "last", "wrong"),
    [
        (OTHER_VERSION, (), "jax is 0.1 here and "),
        (OTHER_COMMIT, (), "commit is abc here and "),
        (NOTHING, ("--config.optim.lr=0.5",), "config.optim.lr is 0.5 here and "),
        (NOTHING, ("--workdir=/tmp/elsewhere",), "workdir is /tmp/elsewhere here and "),
        (NO_FOLDER, (), "cannot see what process 0 writes into "),
        (NO_REDUCTION, (), "an all-reduce over all devices has not finished in 3 s"),
        (WRONG_SUM, (), "an all-reduce gave 3.0 instead of 4"),
        (SLOW_INPUT, (), "images/s, but the others "),
        (LATE, (), "no answer about all-reduce in "),
        (SILENT, (), "no answer about input in "),
    ],
)
def test_the_host_with_the_problem_is_named(flags, patch, last, wrong):
    hangs = patch == NO_REDUCTION
    first = "pod.REDUCTION = 3.0" if hangs else "pod.SECONDS = 40.0" if patch == SILENT else NOTHING
    began = time.monotonic()
    found = start([first, patch], *flags, last=last)
    (code, said, _), (other, _, _) = found
    assert code and (other or patch == SILENT), found
    good, bad, verdict = lines(said)
    assert bad.startswith("host 1 ") and "WRONG: " in bad and wrong in bad
    assert "hosts are wrong" in verdict and (hangs or "ready" in good)
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_a_problem_of_process_0(tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    found = start([NOTHING, NOTHING], f"--workdir={tmp_path / 'file' / 'run'}", f"--tfds_data_dir={data_dir}")
    first, second, _ = lines(found[0][1])
    assert "WRONG: " in first and "cannot be written (Not a directory)" in first and "ready" in second
    assert [code for code, _, _ in found] == [1, 1]


@pytest.mark.slow
def test_a_missing_host_is_named(flags):
    ((code, _, said),) = start([NOTHING], *flags)
    assert code == 1 and "error: process 1 of 2 is missing after 30 s (present: 0 on " in said


class Notes:
    """A board for threads of one process."""

    def __init__(self, number: int, texts: dict):
        self.number, self.count, self._texts = number, 2, texts

    def post(self, topic: str, text: str) -> None:
        self._texts[topic, self.number] = text

    def read(self, topic: str, seconds: float, number: int) -> str | None:
        end = time.monotonic() + seconds
        while (topic, number) not in self._texts and time.monotonic() < end:
            time.sleep(0.01)
        return self._texts.get((topic, number))


def test_a_folder_on_another_file_system_is_a_problem(tmp_path):
    texts, found = {}, {}

    def check(number: int, name: str) -> None:
        folder = pod.Folder(Notes(number, texts), tmp_path / name, common.get_config())
        found[number] = folder.check()
        texts["end", number] = ""
        Notes(number, texts).read("end", 20, 1 - number)
        folder.clear()

    for names in (("shared", "shared"), ("one", "another")):
        texts.clear()
        threads = [threading.Thread(target=check, args=(number, name)) for number, name in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found[0] == {}
        if names[0] == names[1]:
            assert found[1] == {}
        else:
            assert "cannot see what process 0 writes into" in found[1]["wrong"][0]
    assert not list(tmp_path.iterdir())


def test_a_difference_is_a_problem_of_the_minority():
    said = [{"same": {"jax": "1", "commit": "a"}}, {"same": {"jax": "2", "commit": "a"}}, None, {"same": {"jax": "2"}}]
    assert pod.compare(said) == [["jax is 1 here and 2 elsewhere"], [], [], []]
    assert pod.compare(said[:2]) == [[], ["jax is 2 here and 1 elsewhere"]], "the first of two counts as right"


def test_a_host_slower_than_half_of_the_others_is_a_problem():
    assert pod.find_slow([100.0, 90.0, None, 40.0]) == [[], [], [], ["loads 40.0 images/s, but the others 90.0"]]
    assert pod.find_slow([10.0, 100.0]) == [["loads 10.0 images/s, but the others 100.0"], []]
    assert pod.find_slow([None]) == [[]]


def test_a_measured_need_precedes_an_estimate(tmp_path):
    assert pod.find_need(tmp_path) == (None, False)
    (tmp_path / "preflight.json").write_text(json.dumps({"roofline": {"images_per_second": 800.0}, "chips": 4}))
    assert pod.find_need(tmp_path) == (200.0 * jax.device_count(), False)
    session = {"devices": {"kind": jax.devices()[0].device_kind, "count": 2}}
    measured = {"images_per_second": 60.0, "train/input_wait": 0.4}
    (tmp_path / "evidence.json").write_text(json.dumps({"sessions": [session | measured, session]}))
    assert pod.find_need(tmp_path) == (pytest.approx(100.0 / 2 * jax.device_count()), True)


def test_hosts_check_different_examples():
    class Source:
        advice = "same"

        def __len__(self) -> int:
            return 4000

        def objects(self, index: int) -> int:
            return index

    samples = [pod.Sample(Source(), number, 2) for number in range(2)]
    seen = [[sample.objects(index) for index in range(len(sample))] for sample in samples]
    assert all(len(own) == pod.SAMPLE and np.ptp(own) > 3900 for own in seen) and not set(seen[0]) & set(seen[1])
    assert samples[0].advice == "same"


def test_a_board_works_in_a_single_process():
    board = Board(time.monotonic() + 1)
    assert board.read("topic", 1, 0) is None
    board.post("topic", "text")
    assert board.read_all("topic", 1) == ["text"]
