"""Convolutions that XLA's CPU backend runs or differentiates slowly, in forms that it runs fast.

Everything is [batch, height, width, channels]; kernels are [height, width, in, out]. Each function computes what lax
computes: on the CPU by other operations, elsewhere by lax itself. The platform is chosen when the program is lowered,
so a program compiled here for a TPU is the TPU's. The backward passes are written out, because differentiating the
CPU forms would give as slow a mixture of paddings and copies as they avoid.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of height and width
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int, dilation: int = 1
) -> jax.Array:
    """lax's own convolution: level with other libraries on the CPU where it is neither 1x1 nor depthwise.

    `padding` is "SAME", "VALID" or ((top, bottom), (left, right)).
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def _backward(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """The gradients that JAX derives for `function` of (x, kernel), as a function of (x, kernel, gradient of y)."""
    return lambda x, kernel, dy: jax.vjp(function, x, kernel)[1](dy)


def _matmul(a: jax.Array, b: jax.Array, contract: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
    """Matrix product over axis `contract[0]` of a and `contract[1]` of b, summed in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32).astype(dtype)


# 1x1 convolution: a matrix product of pixels and channels.


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution of x [B,H,W,in] with kernel [1,1,in,out]."""
    return lax.platform_dependent(x, kernel, cpu=_pointwise, default=_native_pointwise)


def _native_pointwise(x, kernel):
    return convolve(x, kernel, 1, "VALID", 1)


def _pointwise(x, kernel):
    y = _matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0], (1, 0), x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def _pointwise_gradients(x, kernel, dy):
    pixels, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = _matmul(dy, kernel[0, 0], (1, 1), x.dtype).reshape(x.shape)
    return dx, _matmul(pixels, dy, (0, 0), kernel.dtype)[None, None]


def _pointwise_forward(x, kernel):
    return pointwise(x, kernel), (x, kernel)


def _pointwise_backward(saved, dy):
    return lax.platform_dependent(*saved, dy, cpu=_pointwise_gradients, default=_backward(_native_pointwise))


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


# Depthwise convolution: a sum of shifted products over an input that is padded once.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    native, fast = (partial(form, stride, pads, dilation) for form in (_native_depthwise, _shifted_sum))
    return lax.platform_dependent(x, kernel, cpu=fast, default=native)


def depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, dilation: int = 1) -> jax.Array:
    """Convolution of each channel of x [B,H,W,C] by itself with kernel [h,w,1,C]; the rest as in `convolve`."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], _reach(kernel, dilation), (stride, stride), padding)
    return _depthwise(x, kernel, stride, tuple(map(tuple, padding)), dilation)


def _native_depthwise(stride, pads, dilation, x, kernel):
    return convolve(x, kernel, stride, pads, x.shape[-1], dilation)


def _reach(kernel: jax.Array, dilation: int) -> tuple[int, ...]:
    """Rows and columns from a kernel's first position to its last, when `dilation` spreads them."""
    return tuple((taps - 1) * dilation + 1 for taps in kernel.shape[:2])


def _pad(x: jax.Array, pads: Pads, dilation: int = 1) -> jax.Array:
    """x with zeros around it, and `dilation - 1` between its pixels; a negative pad crops."""
    # Without the barrier XLA would fuse the padding into each of its readers, and test every index for the border.
    config = ((0, 0, 0), *((before, after, dilation - 1) for before, after in pads), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), config))


def _windows(
    x: jax.Array, size: tuple[int, int], stride: int, shape: tuple[int, int], dilation: int = 1
) -> list[jax.Array]:
    """For every position in a kernel of `size`, row by row, the pixels [B,*shape,C] of x that it meets."""
    height, width = ((count - 1) * stride + 1 for count in shape)
    return [
        x[:, top : top + height : stride, left : left + width : stride]
        for top in range(0, size[0] * dilation, dilation)
        for left in range(0, size[1] * dilation, dilation)
    ]


def _shifted_sum(stride, pads, dilation, x, kernel):
    padded, reach = _pad(x, pads), _reach(kernel, dilation)
    shape = tuple((length - span) // stride + 1 for length, span in zip(padded.shape[1:3], reach, strict=True))
    weights = kernel.reshape(-1, x.shape[-1]).astype(jnp.float32)
    windows = _windows(padded, kernel.shape[:2], stride, shape, dilation)
    return sum(window * weight for window, weight in zip(windows, weights, strict=True)).astype(x.dtype)


def _depthwise_gradients(stride, pads, dilation, x, kernel, dy):
    reach, shape = _reach(kernel, dilation), dy.shape[1:3]
    # dx is a convolution of stride 1 of dy, spread by the stride, with the mirrored kernel.
    before = [span - 1 - pad[0] for span, pad in zip(reach, pads, strict=True)]
    spread = [(count - 1) * stride + 1 for count in shape]
    after = [x.shape[1 + i] + reach[i] - 1 - before[i] - spread[i] for i in range(2)]
    padded = _pad(dy, tuple(zip(before, after, strict=True)), dilation=stride)
    dx = _shifted_sum(1, ((0, 0), (0, 0)), dilation, padded, kernel[::-1, ::-1]).astype(x.dtype)
    # One reduction with an output for each position in the kernel reads dy once, and XLA runs it without storing the
    # products. It works on one image at a time: they fit the cache, and the threads share them out.
    dy = dy.astype(jnp.float32)
    windows = _windows(_pad(x, pads), kernel.shape[:2], stride, shape, dilation)
    products = [window * dy for window in windows]
    zeros = [jnp.zeros((), jnp.float32)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (1, 2))
    return dx, jnp.stack(sums).sum(1).reshape(kernel.shape).astype(kernel.dtype)


def _depthwise_forward(x, kernel, stride, pads, dilation):
    return _depthwise(x, kernel, stride, pads, dilation), (x, kernel)


def _depthwise_backward(stride, pads, dilation, saved, dy):
    native, fast = (partial(form, stride, pads, dilation) for form in (_native_depthwise, _depthwise_gradients))
    return lax.platform_dependent(*saved, dy, cpu=fast, default=_backward(native))


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


# Transposed convolution: where the stride divides the kernel's size, the kernel is n x n blocks of stride x stride, and
# a pixel adds each of them to a whole cell of the output. Otherwise XLA's forward pass is fast, its gradients are not.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def transpose(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Transposed convolution of x [B,H,W,in] with a square kernel [k,k,in,out] to [B,stride*H,stride*W,out].

    It is the gradient of a SAME convolution, as Keras's Conv2DTranspose(padding="same"): with p = max(k - stride, 0)
    // 2, pixel i of x adds x[i] kernel[j] to pixel i*stride + j - p of the output. `lax.conv_transpose` mirrors the
    kernel unless `transpose_kernel=True`: weights from Keras or PyTorch would come out wrong.
    """
    native = partial(_native_transpose, stride)
    if kernel.shape[0] % stride:
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(_overlap_add, stride), default=native)


def _native_transpose(stride, x, kernel):
    before, after = _output_pads(kernel.shape[0], stride)
    size = kernel.shape[0]
    pad = (size - 1 - before, size - 1 - after)
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), (pad, pad), lhs_dilation=(stride, stride), dimension_numbers=LAYOUT
    )


def _output_pads(size: int, stride: int) -> tuple[int, int]:
    """Pixels of the full output before and after those that are kept; below zero where zeros are added instead."""
    before = max(size - stride, 0) // 2
    return before, size - stride - before


def _overlap_add(stride, x, kernel):
    batch, height, width, channels = x.shape
    count = kernel.shape[0] // stride
    weights = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = lax.dot_general(x, weights, (((3,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    products = products.reshape(batch, height, width, count, stride, count, stride, -1)
    zero = jnp.zeros((), jnp.float32)
    total = zero
    for i in range(count):
        for j in range(count):
            rows, columns = (i, count - 1 - i, 0), (j, count - 1 - j, 0)
            cells = products[:, :, :, i, :, j].transpose(0, 1, 3, 2, 4, 5)
            total += lax.pad(cells, zero, ((0, 0, 0), rows, (0, 0, 0), columns, (0, 0, 0), (0, 0, 0)))
    full = total.reshape(batch, (height + count - 1) * stride, (width + count - 1) * stride, -1)
    before, _ = _output_pads(kernel.shape[0], stride)
    return full[:, before : before + height * stride, before : before + width * stride].astype(x.dtype)


def _block_gradients(stride, x, kernel, dy):
    batch, height, width, channels = x.shape
    count, pads = kernel.shape[0] // stride, _output_pads(kernel.shape[0], stride)
    full = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), (*pads, 0), (*pads, 0), (0, 0, 0)))
    cells = full.reshape(batch, height + count - 1, stride, width + count - 1, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    blocks = [cells[:, i : i + height, j : j + width] for i in range(count) for j in range(count)]
    # A row for every pixel of x, as in `_window_gradients`, but in the order of blocks.
    patches = jnp.stack(blocks, 3).reshape(batch * height * width, -1)
    weights = kernel.reshape(count, stride, count, stride, channels, -1).transpose(0, 2, 1, 3, 5, 4)
    dx = _matmul(patches, weights.reshape(-1, channels), (1, 0), x.dtype).reshape(x.shape)
    dkernel = _matmul(x.reshape(-1, channels), patches, (0, 0), kernel.dtype)
    dkernel = dkernel.reshape(channels, count, count, stride, stride, -1).transpose(1, 3, 2, 4, 0, 5)
    return dx, dkernel.reshape(kernel.shape)


def _window_gradients(stride, x, kernel, dy):
    size, shape = kernel.shape[:2], x.shape[1:3]
    pads = _output_pads(size[0], stride)
    # A row for every pixel of x: what it added to, position by position. Both gradients are then a matrix product.
    windows = _windows(_pad(dy, (pads, pads)), size, stride, shape)
    patches = jnp.concatenate(windows, -1).reshape(-1, len(windows) * dy.shape[-1])
    weights = kernel.swapaxes(2, 3).reshape(-1, x.shape[-1])
    dx = _matmul(patches, weights, (1, 0), x.dtype).reshape(x.shape)
    dkernel = _matmul(x.reshape(-1, x.shape[-1]), patches, (0, 0), kernel.dtype)
    return dx, dkernel.reshape(x.shape[-1], *size, -1).transpose(1, 2, 0, 3)


def _transpose_forward(x, kernel, stride):
    return transpose(x, kernel, stride), (x, kernel)


def _transpose_backward(stride, saved, dy):
    gradients = _window_gradients if saved[1].shape[0] % stride else _block_gradients
    native, fast = partial(_native_transpose, stride), partial(gradients, stride)
    return lax.platform_dependent(*saved, dy, cpu=fast, default=_backward(native))


transpose.defvjp(_transpose_forward, _transpose_backward)
