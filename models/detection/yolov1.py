"""YOLO, version 1 (Redmon et al. 2016, `You Only Look Once: Unified, Real-Time Object Detection`)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from fields import Count, Natural, Positive, Size
from models import layers as modules
from models.layers import Conv, Momentum, NormOrNone, Rate, classifier, keep, scale_channels
from models.ops import anchors
from models.ops.pooling import max_pool
from models.registry import Dtype, Model


class Row(NamedTuple):
    """Convolutions of (size, channels), repeated `repeats` times. The last one may have stride 2, or a pooling after it."""

    convolutions: tuple[tuple[int, int], ...]
    repeats: int = 1
    strided: bool = False
    pooled: bool = False


# Figure 3, and Fast YOLO. For Fast YOLO the paper gives only 9 convolutions with fewer filters (section 2.2); these are
# from the authors' first published definition.
ROWS = {
    24: (
        Row(((7, 64),), strided=True, pooled=True),
        Row(((3, 192),), pooled=True),
        Row(((1, 128), (3, 256), (1, 256), (3, 512)), pooled=True),
        Row(((1, 256), (3, 512)), repeats=4),
        Row(((1, 512), (3, 1024)), pooled=True),
        Row(((1, 512), (3, 1024)), repeats=2),
        Row(((3, 1024), (3, 1024)), strided=True),
        Row(((3, 1024), (3, 1024))),
    ),
    9: (
        *(Row(((3, channels),), pooled=True) for channels in (16, 32, 64, 128, 256, 512)),
        Row(((3, 1024),), repeats=3),
    ),
}
BOTTLENECK = 256  # channels, without an activation, before the fully connected layer of Fast YOLO, from there too
EPSILON = 1e-5
leaky_relu = partial(jax.nn.leaky_relu, negative_slope=0.1)  # equation 2


class ConvLeakyRelu(nnx.Module):
    """Convolution [B,H,W,in] -> [B,ceil(H/stride),ceil(W/stride),out] and leaky ReLU.

    `pooled` adds a pooling that halves the size. `norm` is the normalisation before the activation, or "none" for a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int,
        pooled: bool,
        norm: str,
        momentum: float,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            size,
            stride=stride,
            padding="SAME" if stride == 1 else ((size // 2, size // 2),) * 2,
            bias=norm == "none",
            dtype=dtype,
            rngs=rngs,
        )
        make_norm = partial(modules.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        self.norm = nnx.data(None) if norm == "none" else make_norm(out_channels)
        self.pooled = pooled

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(x)
        x = leaky_relu(x if self.norm is None else self.norm(x, train=train))
        return keep(max_pool(x, 2, 2, "SAME")) if self.pooled else x


class YOLOv1(Model):
    """Images [B,H,W,3] to linear predictions of the R x C cells of a grid for the objects whose centres lie in them.

    They are {"boxes" [B,R,C,K,4] (y and x within the cell, 0 to 1; square roots of height and width as fractions of the image),
    "confidence" [B,R,C,K], "classes" [B,R,C,num_classes]} float32, of `boxes` K per cell.

    `layers` is 24 (figure 3) or 9 (Fast YOLO), with `norm` "none" as in the paper, "batch" or "group". `width` scales
    the channels, and `depth` the repeats of the rows that repeat, to at least one. `stride` is the paper's 64; 32 and 16
    omit the last halvings, for small images. The grid is the image's size divided by the stride, rounded up.

    `head` "connected" is the paper's: two fully connected layers, the first with `connected` channels and `dropout`. Every
    cell sees the whole image, which must have the one size that gives `grid`: a number of rows and columns, or (rows,
    columns). "convolution" has a 3x3 convolution of `connected` channels with dropout, then a 1x1 convolution. It has far
    fewer parameters, all cells learn from an object in any of them, and `grid` may be 0 for images of any size.

    Raises UserError for a grid that the head does not support, and for an image of another grid.
    """

    produces = "grid cells"

    def __init__(
        self,
        *,
        num_classes: int,
        layers: Literal[24, 9],
        width: Positive,
        depth: Positive,
        stride: Literal[64, 32, 16],
        grid: Natural | Size,
        boxes: Count,
        head: Literal["connected", "convolution"],
        connected: Count,
        dropout: Rate,
        norm: NormOrNone,
        momentum: Momentum,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.stride, self.wanted = stride, _pair_of(grid, head)
        self.boxes, self.num_classes = boxes, num_classes

        convolutions, channels = _plan(layers, depth, stride), 3
        block = partial(ConvLeakyRelu, momentum=momentum, dtype=dtype, rngs=rngs)
        for number, (size, base, by, pooled) in enumerate(convolutions, 1):
            out_channels = scale_channels(base, width)
            made = block(channels, out_channels, size, stride=by, pooled=pooled, norm=norm)
            setattr(self, f"conv_{number}", made)
            channels = out_channels
        self.depth = len(convolutions)

        outputs, cells = boxes * 5 + num_classes, 1
        self.reduce = nnx.data(None)
        if head == "convolution":
            self.connect = block(channels, connected, 3, stride=1, pooled=False, norm=norm)
        else:
            # Fully connected layers are 1x1 convolutions of one pixel, whose channels are all features.
            cells = math.prod(self.wanted or ())
            channels *= cells
            if layers == 9:
                reduced = scale_channels(BOTTLENECK, width)
                self.reduce = classifier(channels, reduced, dtype=dtype, rngs=rngs)
                channels = reduced
            self.connect = block(channels, connected, 1, stride=1, pooled=False, norm="none")
        self.head = head
        self.dropout = nnx.Dropout(dropout)
        self.output = classifier(connected, cells * outputs, dtype=dtype, rngs=rngs)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (rows, columns) of the cells of an image of `size`, or raise UserError if the model needs others."""
        grid = math.ceil(size[0] / self.stride), math.ceil(size[1] / self.stride)
        if self.wanted is not None and grid != self.wanted:
            height, width = (self.stride * count for count in self.wanted)
            rows, columns = self.wanted
            other = "or take model.grid=0" if self.head == "convolution" else f"or model.grid=({grid[0]}, {grid[1]})"
            raise UserError(
                f"model.grid: an image of {size[0]}x{size[1]} has {grid[0]}x{grid[1]} cells at model.stride="
                f"{self.stride}, not {rows}x{columns}; take config.data.image_size and canvases of "
                f"({height}, {width}), {other}"
            )
        return grid

    def geometry(self, size: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the `cells` [R,C,4] float32 in pixels of an image of `size`. Raises UserError as `grid`."""
        return {"cells": anchors.cells(size, self.grid(size))}

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        grid, x = self.grid(images.shape[1:3]), images
        for number in range(1, self.depth + 1):
            x = getattr(self, f"conv_{number}")(x, train=train)
        if self.head == "connected":
            x = x.reshape(x.shape[0], 1, 1, -1)
            x = x if self.reduce is None else self.reduce(x)
        x = self.dropout(self.connect(x, train=train), deterministic=not train, rngs=rngs)
        x = self.output(x).astype(jnp.float32).reshape(x.shape[0], *grid, -1)
        boxes, confidence, classes = jnp.split(x, (4 * self.boxes, 5 * self.boxes), axis=-1)
        return {"boxes": boxes.reshape(*boxes.shape[:3], -1, 4), "confidence": confidence, "classes": classes}


def _pair_of(grid: int | Size, head: str) -> tuple[int, int] | None:
    """Return `grid` as (rows, columns), None for any grid, which raises UserError if the head is connected."""
    if grid == 0 and head == "convolution":
        return None
    if grid == 0:
        raise UserError(
            "config.model.grid=0, for images of any size, needs config.model.head='convolution'; take a number of cells above 0 "
            "or (rows, columns)"
        )
    return (grid, grid) if isinstance(grid, int) else (grid[0], grid[1])


def _plan(layers: int, depth: float, stride: int) -> list[tuple[int, int, int, bool]]:
    """Return (size, channels, stride, whether a pooling follows) of each convolution of a network of total `stride`."""
    plan, total = [], 1
    for row in ROWS[layers]:
        convolutions = row.convolutions * (max(1, round(row.repeats * depth)) if row.repeats > 1 else 1)
        for number, (size, channels) in enumerate(convolutions, 1):
            last = number == len(convolutions)
            by = 2 if last and row.strided and total < stride else 1
            total *= by
            pooled = last and row.pooled and total < stride
            total *= 2 if pooled else 1
            plan.append((size, channels, by, pooled))
    return plan
