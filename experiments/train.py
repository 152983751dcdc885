"""`--mode=train`: trains a run, or resumes it."""

import contextlib

from experiments.command_line import Command
from experiments.datacheck import before_training
from experiments.run import directory as run_directory
from experiments.run.follower import Follower
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer

FOLLOWER_SECONDS = 15.0  # that the end of a run waits for W&B, before it leaves the follower to finish by itself


def train(command: Command) -> int:
    """Train, or resume, the run in --workdir with the config of --config=FILE. Returns the process's exit code."""
    config, workdir = command.experiment(), command.directory()
    run_directory.check_resumable(workdir, config)
    # A second Ctrl-C does not wait for what the first one asked for: the newest checkpoint stands.
    with contextlib.suppress(KeyboardInterrupt), Preemption(config.train.max_minutes) as stop:
        trainer = Trainer(config, workdir, command.data_dir, stop)
        with run_directory.claim(workdir, config):
            trainer.restore()
            run_directory.lead(lambda: before_training(config, trainer.task, trainer.source, workdir))
            follower = Follower(workdir, config.wandb, FOLLOWER_SECONDS)
            # Only now: the follower must not send lines that the restore takes back.
            with follower if run_directory.writes() else contextlib.nullcontext():
                trainer.run(workdir / "profile" if command.profile and run_directory.writes() else None)
                if stop.signal or not stop.finished:
                    follower.close(timeout=1.0, outcome="finished" if stop.finished else "stopped")
    return stop.exit_code
