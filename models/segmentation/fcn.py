"""Fully convolutional networks FCN-32s, FCN-16s and FCN-8s (Long et al. 2015, Shelhamer et al. 2017)."""

from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fields import Count, Named
from models.backbones.vgg import Classifier
from models.layers import Conv, Rate
from models.ops import convolution
from models.ops.pooling import max_pool
from models.registry import BACKBONES, NAMED_BACKBONE, Dtype, Model, build_backbone

PAD = 100  # of the first convolution in the released networks
# The backbones with fc6 and fc7.
VGGS = Named("model.backbone", {"vgg": BACKBONES["vgg"]}, NAMED_BACKBONE.given)
WITH_CLASSIFIER = Annotated[dict, VGGS]


def bilinear(factor: int) -> np.ndarray:
    """Return the 2 * factor weights whose outer product with themselves interpolates between pixels `factor` apart."""
    return 1 - np.abs(np.arange(2 * factor) - (factor - 0.5)) / factor


class Upsample(nnx.Module):
    """Transposed convolution [B,h,w,C] -> [B,factor*h,factor*w,C] whose kernel is twice its stride, `factor`.

    The kernel starts as bilinear interpolation of each channel by itself, zero between channels. It is a parameter if it is
    `learned`. The map is padded with zeros, so interpolation fades within half a pixel of the border.
    """

    def __init__(self, channels: int, factor: int, *, learned: bool, dtype: str):
        kernel = np.multiply.outer(bilinear(factor), bilinear(factor))[:, :, None, None] * np.eye(channels)
        self.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32)) if learned else nnx.data(None)
        self.factor, self.dtype = factor, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        if self.kernel is not None:
            return convolution.transpose(x, self.kernel[...].astype(self.dtype), self.factor)
        # A fixed kernel is one small matrix for the rows and one for the columns.
        rows, columns = (jnp.asarray(_interpolation(size, self.factor), self.dtype) for size in x.shape[1:3])
        x = jnp.einsum("bhwc,vh->bvwc", x, rows, preferred_element_type=jnp.float32).astype(self.dtype)
        return jnp.einsum("bhwc,vw->bhvc", x, columns, preferred_element_type=jnp.float32).astype(self.dtype)


def _interpolation(size: int, factor: int) -> np.ndarray:
    """Return the matrix [factor * size, size] that an Upsample applies to each row and each column."""
    place = np.arange(factor * size)[:, None] - factor * np.arange(size) + factor // 2  # in the kernel
    inside = (place >= 0) & (place < 2 * factor)
    return np.where(inside, bilinear(factor)[place.clip(0, 2 * factor - 1)], 0)


class FCN(Model):
    """Images [B,H,W,3] of any size to logits [B,H,W,num_classes], float32.

    `backbone` has a VGG's fields for `registry.build_backbone`; `fc` is the number of channels of its fc6 and fc7, `dropout`
    the rate after both. `stride` 32, 16 or 8 chooses the network: fc7 alone, or also pool4, or also pool4 and pool3. Each
    has a score layer (1x1), which starts at zero, and sums are taken at the finer stride. A finer network has the parameters
    of a coarser one at the same paths. Initialised from the coarser network, it computes the same at first, because it adds
    only a score layer of zeros and a bilinear upsampling by two. Only a learned last upsampling is not shared.

    `padding` "paper" pads the first convolution by 100 and fc6 by nothing, and crops every map as the released networks do;
    pooling rounds sizes up, as theirs does. "same" keeps every map aligned with the image instead, and computes much less on
    small images. `upsampling` "paper" learns the upsamplings by two and fixes the last one; "learned" and "fixed" apply to
    all. `skip_scales` are factors on pool4 and pool3 before their scores: (1, 1), or (0.01, 0.0001) as in the released
    network that trains all scores at once (2017, section 4.2).
    """

    produces = "pixel logits"
    published = "backbone"

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: WITH_CLASSIFIER,
        stride: Literal[32, 16, 8],
        fc: Count,
        dropout: Rate,
        padding: Literal["paper", "same"],
        upsampling: Literal["paper", "learned", "fixed"],
        skip_scales: tuple[float, float],
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        paper = padding == "paper"
        self.backbone = build_backbone(
            backbone,
            padding=((PAD, PAD), (PAD, PAD)) if paper else "SAME",
            classifier=Classifier(fc, dropout, "VALID" if paper else "SAME"),
            dtype=dtype,
            rngs=rngs,
        )
        channels = self.backbone.channels
        score = partial(Conv, size=1, bias=True, kernel_init=_zeros, dtype=dtype, rngs=rngs)
        upsample = partial(Upsample, num_classes, dtype=dtype)
        self.score_fc7 = score(channels[32], num_classes)
        if stride < 32:
            self.score_pool4 = score(channels[8], num_classes)
            self.upsample_fc7 = upsample(2, learned=upsampling != "fixed")
        if stride < 16:
            self.score_pool3 = score(channels[4], num_classes)
            self.upsample_pool4 = upsample(2, learned=upsampling != "fixed")
        # Named by its factor, because the last upsampling of another network has another shape.
        setattr(self, f"upsample_{stride}", upsample(stride, learned=upsampling == "learned"))
        self.stride, self.paper, self.skip_scales = stride, paper, tuple(skip_scales)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        scores, start = self.scores(images, train=train, rngs=rngs)
        logits = getattr(self, f"upsample_{self.stride}")(scores)
        bottom, right = (size - start for size in images.shape[1:3])
        return logits[:, -start:bottom, -start:right].astype(jnp.float32)

    def scores(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, int]:
        """Return the fused scores [B,h,w,num_classes] at `stride`, and the row (and column) of the image where they start.

        Pixel i of a map with stride s covers rows start + s * i to start + s * (i + 1) of the image.
        """
        features = self.backbone(images, train=train, rngs=rngs)
        # Padding by 100 starts the maps 99 pixels outside the image, because the convolution itself uses one of them. The
        # unpadded fc6 starts three of its pixels further in.
        pool_start = 1 - PAD if self.paper else 0
        scores, start = self.score_fc7(features[32]), pool_start + (3 * 32 if self.paper else 0)
        skips = (
            (16, features[8], "upsample_fc7", "score_pool4"),
            (8, features[4], "upsample_pool4", "score_pool3"),
        )
        for (stride, before_pool, upsample, score), scale in zip(skips, self.skip_scales, strict=True):
            if stride < self.stride:
                break
            if self.paper:
                # The released networks keep the half pixel that a transposed convolution adds on each side.
                scores = jnp.pad(scores, ((0, 0), (1, 1), (1, 1), (0, 0)))
                scores, start = getattr(self, upsample)(scores)[:, 1:-1, 1:-1], start - stride
            else:
                scores = getattr(self, upsample)(scores)
            skip = getattr(self, score)(max_pool(before_pool, 2, 2, "SAME") * scale)
            crop = (start - pool_start) // stride
            skip = skip[:, crop : crop + scores.shape[1], crop : crop + scores.shape[2]]
            # At odd sizes the doubled map is a pixel larger than the skip.
            scores = scores[:, : skip.shape[1], : skip.shape[2]] + skip
        return scores, start


def _zeros(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.zeros(shape)
