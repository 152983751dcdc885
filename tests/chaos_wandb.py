"""An outage of W&B, as a fault of chaos.py. The run continues, and everything arrives once when W&B is back."""

import os
import pathlib
import subprocess
import sys

from experiments.run.metrics_file import read_rows
from tests.chaos_faults import Round, draw_moment
from tests.conftest import ROOT
from tests.wandb_server import OUTAGES, WandbServer

LONGEST = 400  # seconds until an orphaned follower has tried again, on a busy machine


def lose_wandb(run: Round) -> str:
    """Start online with an outage of any kind at any moment, and kill half of these starts during it."""
    outage, (name, moment) = run.rng.choice(OUTAGES), draw_moment(run)
    is_killed = run.rng.random() < 0.5
    with WandbServer() as server:
        running = run.start("--config.wandb.mode=online", environment=server.environment)
        running.wait_for(moment)
        server.outage = outage
        if is_killed:
            more = run.rows() + 2
            running.wait_for(lambda: run.rows() >= more)
            run.kill(running)
        else:
            code, said = running.finish()
            assert code == 0, (code, said)
        server.outage = None
        for own in run.scenario.runs(run.workdir):
            if (own / "wandb_id").exists() and (own / "metrics.jsonl").exists():
                _check_arrivals(own, server)
    return f"W&B: {outage} {name}{', SIGKILL' if is_killed else ''}"


def _check_arrivals(workdir: pathlib.Path, server: WandbServer) -> None:
    """Run the command of the warning, and check that the server has each row once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run.follower", workdir],
        cwd=ROOT,
        env=environment | server.environment,
        input=b"finished\n",
        capture_output=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    steps = server.run((workdir / "wandb_id").read_text().strip()).steps
    expected = [row["step"] for row in read_rows(workdir / "metrics.jsonl")]
    assert steps == expected, (steps, expected)
