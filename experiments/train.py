"""`--mode=train`, which trains or resumes a run, or with config.members several runs together."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence

from experiments.command_line import Command
from experiments.datacheck import before_training
from experiments.run import directory as run_directory
from experiments.run.follower import Follower
from experiments.run.members import Members, split
from experiments.run.out_of_memory import explain_training
from experiments.run.preemption import Preemption
from experiments.run.screen import describe_run
from experiments.run.trainer import Trainer
from terminal import print_rows

FOLLOWER_SECONDS = 15.0  # for which the end of a run waits for W&B; then the follower goes on alone


def train(command: Command) -> int:
    """Train or resume the run in --workdir with the config of --config=FILE. Returns the exit code of the process.

    With config.members greater than 1, --workdir is a directory of runs.
    """
    config, workdir = command.experiment(), command.directory()
    places = {workdir: config} | (split(config, workdir) if config.members > 1 else {})
    for place, own in places.items():
        run_directory.check_resumable(place, own)
    with Preemption(config.train.max_minutes) as stop, explain_training(config):
        trainer = (Members if config.members > 1 else Trainer)(config, workdir, command.data_dir, stop)
        with contextlib.ExitStack() as claims:
            for place, own in places.items():
                claims.enter_context(run_directory.claim(place, own))
            trainer.restore(command.accept_lost_rows)
            reports = [
                run_directory.lead(lambda run=run: before_training(run.config, run.task, run.source, run.workdir))
                for run in trainer.runs
            ]
            print_rows(describe_run(trainer.runs, workdir, trainer.words, reports[0]))
            # Only now: followers must not send rows that the restore removes.
            with _follow(trainer.runs) as close:
                trainer.run(workdir / "profile" if command.profile and run_directory.writes() else None)
                if stop.signal or not stop.finished:
                    close(1.0, "finished" if stop.finished else "stopped")
    return stop.exit_code


@contextlib.contextmanager
def _follow(runs: Sequence[Trainer]) -> Iterator[Callable[[float, str], None]]:
    """Send the runs to W&B. Yields a function that ends this early, with the arguments of Follower.close."""
    followers = [Follower(run.workdir, run.config.wandb, FOLLOWER_SECONDS) for run in runs]
    followers = followers if run_directory.writes() else []

    def close(timeout: float, outcome: str) -> None:
        with concurrent.futures.ThreadPoolExecutor() as pool:  # they wait at the same time
            list(pool.map(lambda follower: follower.close(timeout, outcome), followers))

    for follower in followers:
        follower.start()
    outcome = "failed"
    try:
        yield close
        outcome = "finished"
    finally:
        close(FOLLOWER_SECONDS, outcome)
