"""What models of regions share, from R-CNN to Mask R-CNN: an image's features, and a head for each of its regions."""

import abc
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.backbones.weights import match_vgg_head
from models.heads.dense import pyramid_of
from models.registry import Model, build_backbone
from models.weights import Weights

Features = dict[int, jax.Array]


class RegionModel(Model, abc.ABC):
    """Images [B,H,W,3] in stages, which the task calls: `features` of a whole image, then `classify` of its regions.

    `__call__` is the first stage. A model's own class makes `box_head` and adds `extract`, what the head sees of a region.
    """

    produces = "regions"
    published = "backbone"

    def make_backbone(self, backbone: dict, strides: tuple[int, ...], *, dtype: str, rngs: nnx.Rngs) -> int:
        """Makes the backbone; `strides` are those of its features that are used, all where it is empty. Returns their channels.

        Raises UserError for a stride that the backbone does not have, and for channels that differ.
        """
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.strides, width = pyramid_of(self.backbone, backbone["name"], strides)
        return width

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        return self.features(images, train=train, rngs=rngs)

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Features {stride: [B,h,w,C]} of images [B,H,W,3]."""
        return self.backbone(images, train=train, rngs=rngs)

    @abc.abstractmethod
    def extract(self, features: Features, regions: jax.Array) -> jax.Array:
        """What the head sees of regions [B,R,4], yxyx pixels: [B*R,h,w,C]."""

    def classify(
        self, features: Features, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """`logits` [B,R,1+C] of regions [B,R,4], yxyx pixels, background first, and `offsets` [B,R,1+C,4] from the regions."""
        logits, offsets = self.box_head(self.extract(features, regions), train=train, rngs=rngs)
        shape = regions.shape[:2]
        return {
            "logits": logits.reshape(*shape, *logits.shape[1:]),
            "offsets": offsets.reshape(*shape, *offsets.shape[1:]),
        }

    def describe(self, features: Features, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What later stages of training learn from of regions [B,R,4]: what the head sees of each, flat, and its fc7.

        [B,R,h*w*C] and [B,R,fc], float32.
        """
        pooled = self.extract(features, regions)
        hidden = self.box_head.connect(pooled, train=False)
        flat = (found.reshape(*regions.shape[:2], -1).astype(jnp.float32) for found in (pooled, hidden))
        return tuple(flat)

    def geometry(self, size: tuple[int, int]) -> dict[str, np.ndarray | tuple[np.ndarray, ...]]:
        """Boxes that stand somewhere in an image of `size` (height, width): none, where regions come from elsewhere."""
        return {}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pairs the backbone's arrays with those of a backbone's file.

        A file of VGG gives its fc6 and fc7 to the head of a single level too, where that has their size (Girshick 2015, "Fast
        R-CNN", section 2.2).
        """
        weights = super().pretrained(frozenset(keys))
        if len(self.strides) > 1:
            return weights
        return weights.joined(match_vgg_head(weights.unused, self.box_head.fc6.kernel.shape[2:]).below("box_head"))
