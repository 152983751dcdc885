"""W&B goes away and comes back, and the real package sends each row and picture once to a server that counts them.

The times are short here, and stand for hours, because only the server causes waits. The package gives up after 20 attempts at
a picture, or at once after a refusal. The outages with a final refusal cover both limits.
"""

import contextlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from configs.common import get_config
from experiments.pictures.png import write_png
from experiments.run.metrics_file import MetricsFile
from tests.conftest import ROOT
from tests.wandb_server import WandbServer

ID = "0123456789abcdef"
FOLLOW = """
import pathlib, sys
from experiments.run import dashboard, follower
follower.RETRY_SECONDS, follower.RETRY_SECONDS_AT_END = (0.2, 1.0), 0.2
dashboard.POLL_SECONDS = follower.POLL_SECONDS = 0.2
dashboard.LINGER_SECONDS = follower.LINGER_SECONDS = int(sys.argv[2])
sys.exit(follower.follow(pathlib.Path(sys.argv[1])))
"""
WAITS = {
    "TRANSMIT_INTERVAL": 0.2,
    "RETRY_WAIT_MIN_SECONDS": 0.1,
    "RETRY_WAIT_MAX_SECONDS": 0.5,
}  # settings of the package


class OnlineRun:
    """A growing run directory and its followers."""

    def __init__(self, workdir, server: WandbServer):
        self.workdir, self.server, self.step = workdir, server, 0
        workdir.mkdir()
        config = get_config()
        config.wandb.mode = "online"
        (workdir / "config.json").write_text(json.dumps(config.to_dict()))
        (workdir / "wandb_id").write_text(f"{ID}\n")
        (workdir / "log").touch()
        self._metrics, self._started = MetricsFile(workdir / "metrics.jsonl"), []

    def start(self, linger: int = 120) -> subprocess.Popen:
        with open(self.workdir / "log", "ab") as log:
            command = [sys.executable, "-c", FOLLOW, str(self.workdir), str(linger)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT)
        self._started.append(process)
        return process

    def train(self, steps: int = 3) -> None:
        """Write rows, of which the first has a picture and a table."""
        name = f"predictions/{self.step + 1}"
        write_png(self.workdir / f"{name}.png", np.full((4, 6, 3), self.step, np.uint8))
        (self.workdir / f"{name}.csv").write_text(f"class,IoU\nsky,{self.step / 100}\n")
        media = {"val/examples": f"{name}.png", "val/classes": f"{name}.csv"}
        for number in range(steps):
            self.step += 1
            self._metrics.append(self.step, {"train/loss": 1 / self.step} | (media if number == 0 else {}))

    def end(self, follower: subprocess.Popen) -> int:
        with contextlib.suppress(BrokenPipeError):
            follower.communicate(b"finished\n", timeout=100)
        return follower.returncode

    def by_hand(self) -> None:
        """Run the command that the warning gives."""
        command = [sys.executable, "-m", "experiments.run.follower", str(self.workdir)]
        done = subprocess.run(command, cwd=ROOT, input=b"finished\n", capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr.decode()

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            process.stdin.close()

    def wait_for(self, step: int) -> None:
        end = time.monotonic() + 60
        while step not in self.arrived().steps:
            assert time.monotonic() < end, (self.workdir / "log").read_text()
            time.sleep(0.05)

    def arrived(self):
        return self.server.run(ID)

    def assert_all_arrived_once(self, pictures: int) -> None:
        log = (self.workdir / "log").read_text()
        assert self.arrived().steps == list(range(1, self.step + 1)), log
        media = [name for name, size in self.arrived().uploads.items() if name.startswith("media/") and size]
        assert len(media) == 2 * pictures, log
        rows = [{name: value for name, value in row.items() if name[0] != "_"} for row in self.arrived().rows()]
        assert [row["train/loss"] for row in rows] == [1 / (step + 1) for step in range(self.step)]
        assert [("val/examples" in row, "val/classes" in row) for row in rows].count((True, True)) == pictures


@pytest.fixture
def online(tmp_path, no_account, monkeypatch):
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for part in ("FILE_STREAM", "GRAPHQL", "FILE_TRANSFER"):
            for name, value in WAITS.items():
                monkeypatch.setenv(f"WANDB_X_{part}_{name}", str(value))
        run = OnlineRun(tmp_path / "run", server)
        yield run
        run.stop()


def test_the_command_of_the_warning_sends_rows_pictures_and_tables(online):
    online.train()
    online.by_hand()
    online.assert_all_arrived_once(pictures=1)
    assert online.arrived().exit_code == 0


@pytest.mark.slow
def test_the_command_of_the_warning_sends_the_rows_of_an_outage_at_the_end(online):
    follower = online.start(linger=2)
    online.train()
    online.wait_for(3)  # the package sends every 15 s
    online.server.outage = "missing"
    online.train()
    assert online.end(follower) != 0
    assert "W&B did not receive all rows within 2 s; `echo finished | " in (online.workdir / "log").read_text()
    online.server.outage = None
    online.by_hand()
    online.assert_all_arrived_once(pictures=2)
    assert online.arrived().exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["refuse", "hang", "cut", "forbidden", "empty"])
def test_rows_arrive_once_despite_outages_at_any_time(online, outage):
    online.server.outage = outage
    follower = online.start()
    online.train()
    time.sleep(3)
    online.server.outage = None
    online.wait_for(3)  # without any command

    online.server.outage = outage
    online.train()
    time.sleep(3)
    online.server.outage = None
    online.train()
    time.sleep(1)
    online.server.outage = outage
    online.train()
    time.sleep(1)
    follower.kill()  # with rows that it has not sent
    follower.wait()

    follower = online.start(linger=4)  # for a resumed run, during the outage
    online.train()
    assert online.end(follower) != 0
    online.server.outage = None
    assert online.end(online.start()) == 0
    online.assert_all_arrived_once(pictures=5)
