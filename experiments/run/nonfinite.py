"""A loss or gradient that is not finite."""

import collections
from collections.abc import Callable

import jax
import numpy as np

from errors import UserError


class NonFinite:
    """Stops the run at a loss or gradient that is NaN or infinite; looks a few steps late, so that devices need not wait."""

    def __init__(self, name: Callable[[int], str], label: str = "", depth: int = 2):
        """`name` gives the name of an image by its index, `label` begins the message.

        `depth` steps may be under way before one is looked at.
        """
        self.name, self.label, self.depth = name, label, depth
        self.pending: collections.deque = collections.deque()

    def push(self, step: int, logs: dict[str, jax.Array], image_ids: np.ndarray) -> None:
        """Note a step's logs. Raises UserError for an earlier step whose loss or gradient is not finite."""
        self.pending.append((step, {"loss": logs["loss"], "gradient's norm": logs["grad_norm"]}, image_ids))
        while len(self.pending) > self.depth:
            self._check()

    def drain(self) -> None:
        """Check all the steps noted, waiting for the devices."""
        while self.pending:
            self._check()

    def _check(self) -> None:
        step, values, image_ids = self.pending.popleft()
        for what, value in values.items():
            if not np.isfinite(value):
                images = ", ".join(f"{index} ({self.name(index)})" for index in image_ids.tolist())
                raise UserError(
                    f"{self.label}the {what} of step {step} is {float(value)}; the images of its batch: {images}. Nothing of it "
                    "was saved: check these images, or start in a new --workdir with a lower optim.lr or with optim.clip"
                )
