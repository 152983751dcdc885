"""R-CNN (Girshick et al. 2014, "Rich feature hierarchies ..."), where the whole network runs once for each region."""

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from fields import Count, Natural
from models.detection.regions import Features, RegionModel
from models.heads.box import HEADS, Classifier
from models.layers import Rate
from models.ops.warp import warp
from models.registry import BACKBONE, Dtype


class RCNN(RegionModel):
    """A RegionModel that runs the network on each region separately, warped to `size` pixels.

    `context` pixels of a warped region show its surroundings (appendix A). The network is the `backbone` up to `stride`, and
    Fast R-CNN's head with `fc` outputs per layer. It is the variant with a softmax that Fast R-CNN compares with (Girshick
    2015, section 5.4). `chunk` regions of an image go through the network at a time.

    Raises UserError for a stride that the backbone does not have, for a size that is not a multiple of it, for a context of
    half the size or more, and for batch normalisation, whose statistics would cover only a part of the regions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        stride: Count,
        size: Count,
        context: Natural,
        chunk: Count,
        fc: Count,
        dropout: Rate = 0.0,
        head: Classifier = "softmax",
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        if size % stride or 2 * context >= size:
            raise UserError(
                f"config.model.size={size} must be a multiple of model.stride={stride} and more than twice "
                f"model.context={context}; change one of them"
            )
        if backbone.get("norm") == "batch":
            raise UserError(
                "config.model.backbone.norm='batch' is not supported by rcnn; choose 'group', 'frozen' or 'none'"
            )
        width = self.make_backbone(backbone, (stride,), dtype=dtype, rngs=rngs)
        self.size, self.context, self.chunk = size, context, chunk
        cells = (size // stride, size // stride)
        self.box_head = HEADS[head](
            width, cells, fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs
        )

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Return the images themselves, `{1: [B,H,W,3]}`, as regions share no features."""
        return {1: images}

    def extract(self, features: Features, regions: jax.Array) -> jax.Array:
        """Return the features [B*R,h,w,C] of regions [B,R,4], each by a run of the backbone."""
        images, (batch, count), (stride,) = features[1], regions.shape[:2], self.strides
        size = min(self.chunk, count)
        chunks = -(-count // size)
        padded = jnp.pad(regions, ((0, 0), (0, chunks * size - count), (0, 0)))

        @jax.checkpoint  # the layers' outputs of all regions do not fit into memory
        def run(boxes):
            windows = warp(images, boxes, size=self.size, context=self.context)
            return self.backbone(windows.reshape(-1, *windows.shape[2:]), train=False)[stride]

        parts = padded.reshape(batch, chunks, size, 4).swapaxes(0, 1)
        # On a CPU the body of a loop runs on one thread.
        found = run(parts[0])[None] if chunks == 1 else jax.lax.map(run, parts)
        found = found.reshape(chunks, batch, size, *found.shape[2:]).swapaxes(0, 1)
        return found.reshape(batch, -1, *found.shape[3:])[:, :count].reshape(-1, *found.shape[3:])
