"""The base class of models of regions, from R-CNN to Mask R-CNN, with an image's features and a head for each region."""

import abc
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.backbones.weights import match_vgg_head
from models.heads.box import RegionHead
from models.heads.dense import pyramid_of
from models.registry import Model, build_backbone
from models.weights import Weights

Features = dict[int, jax.Array]


class RegionModel(Model, abc.ABC):
    """A model of images [B,H,W,3] in stages that the task calls, `features` of whole images and `classify` of their regions.

    `__call__` runs the first stage. A subclass makes `box_head` and adds `extract`, which returns the head's inputs.
    """

    produces = "regions"
    published = "backbone"
    box_head: RegionHead

    def make_backbone(self, backbone: dict, strides: tuple[int, ...], *, dtype: str, rngs: nnx.Rngs) -> int:
        """Make the backbone, and return the channels of its features at the `strides`, or at all strides if there are none.

        Raises UserError for a stride that the backbone does not have, and for channels that differ.
        """
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.strides, width = pyramid_of(self.backbone, backbone["name"], strides)
        return width

    def __call__(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> Features | dict[str, tuple[jax.Array, ...]]:
        return self.features(images, train=train, rngs=rngs)

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Return the features `{stride: [B,h,w,C]}` of images [B,H,W,3]."""
        return self.backbone(images, train=train, rngs=rngs)

    @abc.abstractmethod
    def extract(self, features: Features, regions: jax.Array) -> jax.Array:
        """Return the head's inputs [B*R,h,w,C] for regions [B,R,4], yxyx pixels."""

    def classify(
        self, features: Features, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """Return the `logits` [B,R,1+C], background first, and `offsets` [B,R,1+C,4] of regions [B,R,4], yxyx pixels."""
        logits, offsets = self.box_head(self.extract(features, regions), train=train, rngs=rngs)
        shape = regions.shape[:2]
        return {
            "logits": logits.reshape(*shape, *logits.shape[1:]),
            "offsets": offsets.reshape(*shape, *offsets.shape[1:]),
        }

    def describe(self, features: Features, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the inputs of later training stages for regions [B,R,4].

        They are the head's inputs, flat, [B,R,h*w*C], and its fc7 [B,R,fc], both float32.
        """
        pooled = self.extract(features, regions)
        hidden = self.box_head.connect(pooled, train=False)
        inputs, fc7 = (found.reshape(*regions.shape[:2], -1).astype(jnp.float32) for found in (pooled, hidden))
        return inputs, fc7

    def geometry(self, size: Sequence[int]) -> Mapping[str, np.ndarray | tuple[np.ndarray, ...]]:
        """Return the fixed boxes of an image of `size` (height, width), none if regions come from outside."""
        return {}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair the backbone's arrays with those of a backbone's file.

        On a single level, a file of VGG also gives its fc6 and fc7 to a head of their size (Girshick 2015, "Fast R-CNN",
        section 2.2).
        """
        weights = super().pretrained(frozenset(keys))
        if len(self.strides) > 1:
            return weights
        return weights.joined(match_vgg_head(weights.unused, self.box_head.fc6.kernel.shape[2:]).below("box_head"))
