"""Modules shared by all models. Parameters are float32.

`dtype` names the dtype of the computation.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from fields import Range
from models.ops import convolution
from models.ops.convolution import Padding

Initializer = Callable[..., jax.Array]
Norm = Literal["batch", "group", "frozen"]
NormOrNone = Literal["none", "batch", "group", "frozen"]
Momentum = Annotated[float, Range(0, 1)]  # of running statistics
Rate = Annotated[float, Range(0, 1, open="high")]  # of dropout
KEPT = "kept"  # the mark of `keep`
SAMPLED = 8  # a channel's rough mean is taken from every 8th row and column


def he_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return a kernel [height, width, in, out] that keeps the variance of a ReLU's outputs (He et al. 2015, 2.2).

    The variance is 2 / fan-in, which is right for depthwise kernels [height, width, 1, channels] too.
    """
    count = math.prod(shape)
    # XLA takes a quarter of a second to compile a draw of a new size, so all draws have one of a few sizes, powers of four.
    drawn = _draw(key, 1 << ((count - 1).bit_length() + 1) // 2 * 2)
    return _take(drawn, math.sqrt(2 / math.prod(shape[:-1])), shape)


@partial(jax.jit, static_argnums=1)
def _draw(key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,))


@partial(jax.jit, static_argnums=2)
def _take(drawn: jax.Array, scale: float, shape: tuple[int, ...]) -> jax.Array:
    return scale * drawn[: math.prod(shape)].reshape(shape)


def draw_key(rngs: nnx.Rngs) -> jax.Array:
    """Return the next key of a model's initial values, which is that of `rngs.params()`.

    `rngs.params()` assigns to `count[...]`, which queries the sharding of a traced array: a third of `nnx.eval_shape`'s time.
    """
    stream = rngs["params"]
    key = jax.random.fold_in(stream.key[...], stream.count[...])
    stream.count.set_value(stream.count[...] + 1)
    return key


def scale_channels(channels: int, width: float) -> int:
    """Return `channels * width`, rounded to a multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def keep(x: jax.Array) -> jax.Array:
    """Return x, marked to be stored for the backward pass of a training step with `train.remat`.

    The backward pass computes everything between two marks again (Chen et al. 2016, "Training Deep Nets with Sublinear
    Memory Cost").
    """
    return checkpoint_name(x, KEPT)


def relu6(x: jax.Array) -> jax.Array:
    """Return min(max(x, 0), 6) per element.

    Its gradient is a mask; that of jax.nn.relu6 splits ties with a division.
    """
    return jax.lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


class Conv(nnx.Module):
    """Convolution [B,H,W,in] -> [B,H',W',out] with a square kernel.

    `padding` is "SAME", "VALID" or ((top, bottom), (left, right)); `groups` equal to the channels makes it depthwise;
    `dilation` spreads the kernel's taps (atrous convolution).
    1x1 and depthwise convolutions use the forms of models.ops.convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        kernel_init: Initializer = he_normal,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(draw_key(rngs), (size, size, in_channels // groups, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else nnx.data(None)
        self.stride, self.padding, self.dtype = stride, padding, dtype
        self.groups, self.dilation = groups, dilation

    def __call__(self, x: jax.Array) -> jax.Array:
        # An export has numpy arrays for variables.
        x, kernel = jnp.asarray(x, self.dtype), jnp.asarray(self.kernel[...], self.dtype)
        if self.groups > 1 and self.groups == x.shape[-1] == kernel.shape[-1]:
            y = convolution.depthwise(x, kernel, self.stride, self.padding, self.dilation)
        elif kernel.shape[:2] == (1, 1) and self.groups == self.stride == 1 and self.padding == "SAME":
            y = convolution.pointwise(x, kernel)
        else:
            y = convolution.convolve(x, kernel, self.stride, self.padding, self.groups, self.dilation)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def classifier(in_channels: int, num_classes: int, *, dtype: str, rngs: nnx.Rngs) -> Conv:
    """Return the 1x1 convolution that makes logits, with Glorot's variance instead of He's as no ReLU follows."""
    init = nnx.initializers.glorot_uniform()
    return Conv(in_channels, num_classes, 1, bias=True, kernel_init=init, dtype=dtype, rngs=rngs)


class ConvTranspose(nnx.Module):
    """Transposed convolution [B,H,W,in] -> [B,stride*H,stride*W,out], the gradient of a SAME convolution.

    It is aligned like Keras's Conv2DTranspose(padding="same"); see models.ops.convolution.transpose.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int,
        bias: bool = False,
        kernel_init: Initializer = he_normal,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(draw_key(rngs), (size, size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else nnx.data(None)
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = convolution.transpose(
            jnp.asarray(x, self.dtype), jnp.asarray(self.kernel[...], self.dtype), self.stride
        )
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015), with statistics in float32.

    A run can set `frozen` after the model is built. The layer then normalises by its running statistics and does not change
    them, even in training. Under jit the statistics are those of the global batch on all devices ("synchronised" elsewhere).
    """

    def __init__(self, channels: int, *, momentum: float, epsilon: float, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
        self.momentum, self.epsilon, self.dtype, self.frozen = momentum, epsilon, dtype, False

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        mean, var = self.mean[...], self.var[...]
        if train and not self.frozen:
            axes, wide = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
            # One pass gives mean and variance, but the difference of squares cancels where the mean is large. So a rough mean
            # is subtracted first. It needs no gradient, because the variance does not depend on it.
            shift = jax.lax.stop_gradient(wide[:, *[slice(None, None, SAMPLED)] * (x.ndim - 2)].mean(axes))
            shifted = wide - shift
            rest = shifted.mean(axes)
            batch_mean = shift + rest
            batch_var = jnp.maximum((shifted * shifted).mean(axes) - rest * rest, 0)
            # An assignment to [...] would query the sharding of a traced array, which takes half of the tracing time.
            self.mean.set_value(self.momentum * mean + (1 - self.momentum) * batch_mean)
            self.var.set_value(self.momentum * var + (1 - self.momentum) * batch_var)
            mean, var = batch_mean, batch_var
        return _normalise(x, mean, var, self.scale[...], self.bias[...], self.epsilon).astype(self.dtype)


class FrozenBatchNorm(nnx.Module):
    """Batch normalisation that never learns.

    Scale and bias are statistics too, which only published weights set.
    """

    def __init__(self, channels: int, *, epsilon: float, dtype: str):
        self.scale, self.bias = nnx.BatchStat(jnp.ones(channels)), nnx.BatchStat(jnp.zeros(channels))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        arrays = (self.mean[...], self.var[...], self.scale[...], self.bias[...])
        return _normalise(x, *arrays, self.epsilon).astype(self.dtype)


def _normalise(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    # One product and one sum per value. Subtracting the mean first would add a reduction to the backward pass.
    scale = scale * jax.lax.rsqrt(var + epsilon)
    return x * scale + (bias - mean * scale)


class GroupNorm(nnx.Module):
    """Group normalisation over each example's pixels and the channels of a group (Wu and He 2018), without state."""

    def __init__(self, channels: int, *, groups: int, epsilon: float, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups, self.epsilon, self.dtype = groups, epsilon, dtype

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean, var = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
        normalised = ((grouped - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (normalised * self.scale[...] + self.bias[...]).astype(self.dtype)


def norm(
    name: str, channels: int, *, momentum: float, epsilon: float, dtype: str
) -> BatchNorm | GroupNorm | FrozenBatchNorm:
    """Return the normalisation `name` ("batch", "frozen" or "group") of `channels` features.

    `momentum` is that of the running statistics of "batch". The number of groups is the largest divisor of the channels up
    to 32, the paper's number.
    """
    if name == "batch":
        return BatchNorm(channels, momentum=momentum, epsilon=epsilon, dtype=dtype)
    if name == "frozen":
        return FrozenBatchNorm(channels, epsilon=epsilon, dtype=dtype)
    groups = next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)
    return GroupNorm(channels, groups=groups, epsilon=epsilon, dtype=dtype)


class ConvNorm(nnx.Module):
    """Convolution without bias, then the normalisation that `norm` makes for a number of channels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        groups: int = 1,
        dilation: int = 1,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            size,
            stride=stride,
            padding=padding,
            groups=groups,
            dilation=dilation,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)
