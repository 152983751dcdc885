"""The head of two-stage detectors that tells a region's class and its box (Girshick 2015, "Fast R-CNN", section 2)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import Conv


class BoxHead(nnx.Module):
    """Regions [N,h,w,channels] to logits [N,1+num_classes] float32, background first, and offsets [N,1+num_classes,4].

    Two fully connected layers of `fc` outputs, each with a ReLU and `dropout`, then one for each of the two. As published
    the background has offsets too, which nobody reads. The last two layers start from a normal distribution of deviation
    0.01 and 0.001 (section 2.3).
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        fc: int,
        dropout: float = 0.0,
        num_classes: int,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        connected = partial(Conv, size=1, bias=True, dtype=dtype, rngs=rngs)
        inputs, columns = size[0] * size[1] * channels, 1 + num_classes
        self.fc6, self.fc7 = connected(inputs, fc), connected(fc, fc)
        self.dropout = nnx.Dropout(dropout)
        self.logits = connected(fc, columns, kernel_init=nnx.initializers.normal(0.01))
        self.offsets = connected(fc, 4 * columns, kernel_init=nnx.initializers.normal(0.001))

    def __call__(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        x = regions.reshape(len(regions), 1, 1, -1)
        for fc in (self.fc6, self.fc7):
            x = self.dropout(jax.nn.relu(fc(x)), deterministic=not train, rngs=rngs)
        logits, offsets = (layer(x)[:, 0, 0].astype(jnp.float32) for layer in (self.logits, self.offsets))
        # The coordinate before the class, so that classes are the last axis of a layer everywhere.
        return logits, offsets.reshape(len(regions), 4, -1).swapaxes(1, 2)
