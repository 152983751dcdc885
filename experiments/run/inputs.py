"""The data of a run, opened once. These are both splits and the training batches."""

import jax
from ml_collections import ConfigDict

from errors import UserError, print_lines, warn
from experiments.tasks.registry import find_task
from input_pipeline.loader import TrainLoader
from input_pipeline.relabelling import relabel
from input_pipeline.sources import Source, open_source
from input_pipeline.truths import make_truth
from wording import count_being


class Inputs:
    """The splits that a config trains and evaluates on. They do not depend on seed.init, so runs can share them."""

    def __init__(self, config: ConfigDict, data_dir: str | None, white: int = 0):
        """Open both splits. `white` is the white level that a resumed run has stored, 0 of a new run.

        Raises UserError where a split cannot be used, or where the evaluation split has classes of its own.
        """
        needs = find_task(config.task.name).needs
        self.truth = make_truth(needs, config.data)
        data = config.data.copy_and_resolve_references()
        data.white_level = data.white_level or white
        self.source = open_source(data, data.train_split, data_dir, self.truth.source_keys)
        data.white_level = self.source.white
        if not self.source.class_names:
            raise UserError(
                f"{data.train_split} of {data.name} has neither objects nor class names; choose data with annotations"
            )
        held_out = open_source(data, data.eval_split, data_dir, needs)
        self.eval_source = relabel(held_out, self.source.class_names, data.eval_split)
        self.fingerprints = {"train": self.source.fingerprint, "eval": self.eval_source.fingerprint}

    def load(self, config: ConfigDict) -> TrainLoader:
        """Start the loader of training batches at the first one."""
        return TrainLoader(
            self.source,
            self.truth,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.seed.data,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def introduce(self, config: ConfigDict) -> None:
        """Print how the splits are read, and warn about files and classes that are missing."""
        for split, part in ((config.data.train_split, self.source), (config.data.eval_split, self.eval_source)):
            say(split, part)
        if self.source.absent:
            warn(
                f"{config.data.train_split} has no pixel of {', '.join(self.source.absent)}: such a class cannot be learned, "
                "and the mean scores leave it out unless it is predicted"
            )


def say(split: str, source: Source) -> None:
    """Print which files a split leaves out, and remarks on how it is read."""
    if source.dropped:
        left_out = count_being(len(source.dropped), "file")
        warn(f"{split}: {left_out} left out, because decoding failed: {', '.join(source.dropped)}")
    for line in filter(None, [source.layout, *source.remarks]):
        print_lines(f"{split}: {line}")
