"""The check for a loss or gradient that is not finite, and a guess at the cause."""

import collections
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from wording import name_some

LARGE = (
    1e4  # of a normalised pixel. Pixels of 0..255 become about 2 with the mean and deviation of images, and 255 without
)
GROWTH = 1e3  # of the loss, or of the gradient's norm, relative to its smallest value so far. It was diverging
NAMED = 8  # images of a batch that the error lists


class NonFinite:
    """A check that stops the run at a loss or gradient that is NaN or infinite.

    It checks each step a few steps later, so that devices need not wait.
    """

    def __init__(self, name: Callable[[int], str], config: ConfigDict, label: str = "", depth: int = 2):
        """Take a function that returns the `name` of an image by its index, and a `label` that begins the message.

        `depth` steps may be running before one is checked.
        """
        self.name, self.config, self.label, self.depth = name, config, label, depth
        self.pending: collections.deque = collections.deque()
        self._least: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def push(self, step: int, logs: dict[str, jax.Array], image_ids: np.ndarray) -> None:
        """Add a step's logs. Raises UserError if the loss or gradient of an earlier step is not finite."""
        self.pending.append((step, {"loss": logs["loss"], "gradient norm": logs["grad_norm"]}, image_ids))
        while len(self.pending) > self.depth:
            self._check()

    def drain(self) -> None:
        """Check all steps added so far, and wait for the devices."""
        while self.pending:
            self._check()

    def _check(self) -> None:
        step, values, image_ids = self.pending.popleft()
        values = {what: float(value) for what, value in values.items()}
        for what, value in values.items():
            if not np.isfinite(value):
                cause = self._explain_start() if step == 1 else self._explain(image_ids)
                raise UserError(
                    f"{self.label}the {what} of step {step} is {value}; {cause}. Nothing of this step was saved"
                )
        self._last = values
        self._least = {what: min(abs(value), self._least.get(what, np.inf)) for what, value in values.items()}

    def _explain_start(self) -> str:
        """Explain a fault of step 1. Pixels are integers from 0 to 255, so the settings or the initial weights cause it."""
        data = self.config.data
        ends = [max(mean, abs(255 - mean), -mean) / std for mean, std in zip(data.mean, data.std, strict=True)]
        if max(ends) > LARGE:
            return (
                f"config.data.mean={tuple(data.mean)} and config.data.std={tuple(data.std)} make pixels as large as "
                f"{max(ends):.2g}; set both near those of the images, such as 127.5"
            )
        loaded = [f"config.{field}={self.config[field]}" for field in ("pretrained", "init_from") if self.config[field]]
        return (
            "the images are finite and no step came before, so the settings or the initial weights cause it; check "
            f"{' and '.join([*loaded, 'the factors and weights of config.task'])}, and the ground truth with --mode=datacheck"
        )

    def _explain(self, image_ids: np.ndarray) -> str:
        optim = self.config.optim
        remedy = f"start in a new --workdir with a lower config.optim.lr={optim.lr:g}" + (
            "" if optim.clip else ", or with config.optim.clip"
        )
        before = ", ".join(f"the {what} {value:.3g}" for what, value in self._last.items())
        grown = any(abs(value) > GROWTH * max(self._least[what], 1.0) for what, value in self._last.items())
        if grown:
            return f"it was growing (one step before: {before}); {remedy}"
        names = name_some([f"{index} ({self.name(index)})" for index in image_ids.tolist()], NAMED)
        return f"{f'one step before: {before}; ' if before else ''}{remedy}, or check the images of this batch: {names}"
