"""Modules shared by all models. Parameters are float32; `dtype` names the dtype of the computation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from models.ops import convolution
from models.ops.convolution import Padding
from models.registry import ModelError

Initializer = Callable[..., jax.Array]
# Half of a ReLU's inputs are lost, hence the gain of 2 (He et al. 2015). The fan-in is right for depthwise kernels too:
# they are stored as [size, size, 1, channels], where the fan-out would count every channel as an output of every input.
HE = nnx.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class Conv(nnx.Module):
    """Convolution [B,H,W,in] -> [B,H',W',out] with a square kernel.

    `padding` is "SAME" or ((top, bottom), (left, right)).
    `groups` equal to the channels makes it depthwise. 1x1 and depthwise convolutions take the forms of models.ops.
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
        bias: bool = False,
        kernel_init: Initializer = HE,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, in_channels // groups, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else nnx.data(None)
        self.stride, self.padding, self.groups, self.dtype = stride, padding, groups, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.groups > 1 and self.groups == x.shape[-1] == kernel.shape[-1]:
            y = convolution.depthwise(x, kernel, self.stride, self.padding)
        elif kernel.shape[:2] == (1, 1) and self.groups == self.stride == 1:
            y = convolution.pointwise(x, kernel)
        else:
            y = convolution.convolve(x, kernel, self.stride, self.padding, self.groups)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class ConvTranspose(nnx.Module):
    """Transposed convolution [B,H,W,in] -> [B,stride*H,stride*W,out], the gradient of a SAME convolution.

    Aligned as Keras's Conv2DTranspose(padding="same"); see models.ops.convolution.transpose.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int,
        bias: bool = False,
        kernel_init: Initializer = HE,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if bias else nnx.data(None)
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolution.transpose(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015), with statistics in float32.

    `frozen` is set by a run after the model is built: the layer then normalises by its running statistics and leaves
    them as they are, in training too. Under jit the statistics are those of the global batch on all devices.
    """

    def __init__(self, channels: int, *, momentum: float, epsilon: float, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
        self.momentum, self.epsilon, self.dtype, self.frozen = momentum, epsilon, dtype, False

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        mean, var = self.mean[...], self.var[...]
        if train and not self.frozen:
            axes, wide = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
            batch_mean = wide.mean(axes)
            batch_var = jnp.maximum((wide * wide).mean(axes) - batch_mean * batch_mean, 0)
            self.mean[...] = self.momentum * mean + (1 - self.momentum) * batch_mean
            self.var[...] = self.momentum * var + (1 - self.momentum) * batch_var
            mean, var = batch_mean, batch_var
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return (x * scale + (self.bias[...] - mean * scale)).astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018): over each example's pixels and the channels of a group. It has no state."""

    def __init__(self, channels: int, *, groups: int, epsilon: float, dtype: str):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.groups, self.epsilon, self.dtype = groups, epsilon, dtype

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean, var = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
        normalised = ((grouped - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (normalised * self.scale[...] + self.bias[...]).astype(self.dtype)


def norm(name: str, channels: int, *, momentum: float, epsilon: float, dtype: str) -> BatchNorm | GroupNorm:
    """The normalisation `name` ("batch" or "group") of `channels` features; `momentum` keeps the running statistics.

    Groups are the largest divisor of the channels up to 32, the paper's number.
    """
    if name == "batch":
        return BatchNorm(channels, momentum=momentum, epsilon=epsilon, dtype=dtype)
    if name == "group":
        groups = next(groups for groups in range(min(32, channels), 0, -1) if channels % groups == 0)
        return GroupNorm(channels, groups=groups, epsilon=epsilon, dtype=dtype)
    raise ModelError(f"model.norm: {name!r} is no normalisation; take 'batch' or 'group'")


class ConvNorm(nnx.Module):
    """Convolution without bias, then normalisation: `norm` makes the latter from a number of channels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        groups: int = 1,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels, out_channels, size, stride=stride, padding=padding, groups=groups, dtype=dtype, rngs=rngs
        )
        self.norm = norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)
