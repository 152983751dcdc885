"""The head of Mask R-CNN that predicts an object's pixels in a region (He et al. 2017, "Mask R-CNN", section 3)."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import Conv, ConvTranspose


class MaskHead(nnx.Module):
    """Regions [N,h,w,channels] to logits [N,2h,2w,1+num_classes] float32 of a mask for each class, background first.

    It has `depth` 3x3 convolutions, a transposed 2x2 convolution that doubles the sides, all with a ReLU, and a 1x1
    convolution (figure 4, on an FPN). As published, the background has a mask too, which is not used.
    """

    def __init__(self, channels: int, *, depth: int, width: int, num_classes: int, dtype: str, rngs: nnx.Rngs):
        conv = partial(Conv, bias=True, dtype=dtype, rngs=rngs)
        self.depth = depth
        for number in range(1, depth + 1):
            setattr(self, f"conv_{number}", conv(channels if number == 1 else width, width, 3))
        self.upsample = ConvTranspose(width, width, 2, stride=2, bias=True, dtype=dtype, rngs=rngs)
        self.logits = conv(width, 1 + num_classes, 1)

    def __call__(self, regions: jax.Array) -> jax.Array:
        x = regions
        for number in range(1, self.depth + 1):
            x = jax.nn.relu(getattr(self, f"conv_{number}")(x))
        return self.logits(jax.nn.relu(self.upsample(x))).astype(jnp.float32)
