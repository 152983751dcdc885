"""`--mode=train`: trains a run, or resumes it."""

import pathlib

from ml_collections import ConfigDict

from experiments.datacheck import before_training
from experiments.run import configuration
from experiments.run import directory as run_directory
from experiments.run.follower import Follower
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer

FOLLOWER_SECONDS = 15.0  # that the end of a run waits for W&B, before it leaves the follower to finish by itself


def train(config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, profile: bool) -> int:
    """`--mode=train`: trains, or resumes, the run in `workdir`. Returns the process's exit code."""
    configuration.check(config)
    if (workdir / "config.json").exists():
        run_directory.check_same(workdir, config)
    with Preemption() as stop:
        trainer = Trainer(config, workdir, data_dir, stop)
        with run_directory.claim(workdir, config):
            trainer.restore()
            before_training(config, trainer.task, trainer.source, workdir)
            run_id = run_directory.wandb_id(workdir, config)
            # Only now: the follower must not send lines that the restore takes back.
            with Follower(workdir, config.wandb, run_id, FOLLOWER_SECONDS) as follower:
                trainer.run(workdir / "profile" if profile else None)
                if stop.signal:
                    follower.close(timeout=1.0, finished=False)
    return stop.exit_code
