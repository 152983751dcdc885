"""Convolutions that XLA's CPU backend runs or differentiates slowly, in forms that it runs fast.

Features are [batch, height, width, channels]; kernels are [height, width, in, out]. Each function computes the same as lax:
on the CPU by other operations, elsewhere by lax itself. The platform is chosen when the program is lowered, so a program
compiled on a CPU for a TPU has the TPU's form. The backward passes are written by hand, because JAX's derivatives of the CPU
forms would again be slow mixtures of paddings and copies.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = str | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], ...]  # (before, after) of height and width
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _in d"],
    stride: int,
    padding: Padding,
    groups: int,
    dilation: int = 1,
) -> Float[Array, "b _h _w d"]:
    """Run lax's own convolution, which is as fast as other libraries on the CPU unless it is 1x1 or depthwise.

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
    """Return the gradients that JAX derives for `function(x, kernel)`, as a function of (x, kernel, gradient of y)."""
    return lambda x, kernel, dy: jax.vjp(function, x, kernel)[1](dy)


def _matmul(a: jax.Array, b: jax.Array, contract: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
    """Multiply matrices over axis `contract[0]` of a and `contract[1]` of b, with sums in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32).astype(dtype)


# A 1x1 convolution is a matrix product of pixels and channels.


@jax.custom_vjp
def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c d"]) -> Float[Array, "b h w d"]:
    """Run a 1x1 convolution."""
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


# A depthwise convolution is a sum of shifted products over an input that is padded once.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads, dilation: int) -> jax.Array:
    native, fast = (partial(form, stride, pads, dilation) for form in (_native_depthwise, _shifted_sum))
    return lax.platform_dependent(x, kernel, cpu=fast, default=native)


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, padding: Padding, dilation: int = 1
) -> Float[Array, "b _h _w c"]:
    """Convolve each channel with its own kernel.

    `padding` is that of `convolve`.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], _reach(kernel, dilation), (stride, stride), padding)
    return _depthwise(x, kernel, stride, tuple(map(tuple, padding)), dilation)


def _native_depthwise(stride, pads, dilation, x, kernel):
    return convolve(x, kernel, stride, pads, x.shape[-1], dilation)


def _reach(kernel: jax.Array, dilation: int) -> tuple[int, ...]:
    """Return the rows and columns that a kernel covers when `dilation` spreads its taps."""
    return tuple((taps - 1) * dilation + 1 for taps in kernel.shape[:2])


def _pad(x: jax.Array, pads: Pads, dilation: int = 1) -> jax.Array:
    """Pad x with zeros around it and `dilation - 1` zeros between its pixels.

    A negative pad crops.
    """
    # Without the barrier XLA fuses the padding into each of its readers, and tests every index for the border.
    config = ((0, 0, 0), *((before, after, dilation - 1) for before, after in pads), (0, 0, 0))
    return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), config))


def _windows(
    x: jax.Array, size: tuple[int, int], stride: int, shape: tuple[int, int], dilation: int = 1
) -> list[jax.Array]:
    """Return the pixels [B,*shape,C] of x under each tap of a kernel of `size`, row by row."""
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
    return jnp.asarray(sum(window * weight for window, weight in zip(windows, weights, strict=True)), x.dtype)


def _depthwise_gradients(stride, pads, dilation, x, kernel, dy):
    reach, shape = _reach(kernel, dilation), dy.shape[1:3]
    # dx is a convolution of stride 1 of dy, spread by the stride, with the mirrored kernel.
    before = [span - 1 - pad[0] for span, pad in zip(reach, pads, strict=True)]
    spread = [(count - 1) * stride + 1 for count in shape]
    after = [x.shape[1 + i] + reach[i] - 1 - before[i] - spread[i] for i in range(2)]
    padded = _pad(dy, tuple(zip(before, after, strict=True)), dilation=stride)
    dx = _shifted_sum(1, ((0, 0), (0, 0)), dilation, padded, kernel[::-1, ::-1]).astype(x.dtype)
    # One reduction with an output for each tap reads dy once, and XLA runs it without storing the products. It works on
    # one image at a time: an image fits the cache, and the threads share the images.
    dy = dy.astype(jnp.float32)
    windows = _windows(_pad(x, pads), kernel.shape[:2], stride, shape, dilation)
    products = [window * dy for window in windows]
    zeros = [jnp.zeros((), jnp.float32)] * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: [p + q for p, q in zip(a, b, strict=True)], (1, 2))
    return dx, jnp.stack(sums).sum(1).reshape(kernel.shape).astype(kernel.dtype)


def _depthwise_forward(x, kernel, stride, pads, dilation):
    return _depthwise(x, kernel, stride, pads, dilation), (x, kernel)


def _depthwise_backward(stride, pads, dilation, saved, dy):
    native = partial(_native_depthwise, stride, pads, dilation)
    fast = partial(_depthwise_gradients, stride, pads, dilation)
    return lax.platform_dependent(*saved, dy, cpu=fast, default=_backward(native))


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


# Transposed convolution. If the stride divides the kernel's size, the kernel has n x n blocks of stride x stride taps, and a
# pixel adds each block to a whole cell of the output. Otherwise XLA's forward pass is fast, but its gradients are slow.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def transpose(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int
) -> Float[Array, "b {stride}*h {stride}*w d"]:
    """Run a transposed convolution with a square kernel.

    It is the gradient of a SAME convolution, like Keras's Conv2DTranspose(padding="same"). With p = max(k - stride, 0)
    // 2, pixel i of x adds x[i] kernel[j] to pixel i*stride + j - p of the output. `lax.conv_transpose` mirrors the kernel
    unless `transpose_kernel=True`, so weights from Keras or PyTorch would give wrong results there.
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
    """Return the pixels to cut before and after the full output.

    A negative number adds zeros instead.
    """
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
    # One row for each pixel of x, as in `_window_gradients`, but in the order of blocks.
    patches = jnp.stack(blocks, 3).reshape(batch * height * width, -1)
    weights = kernel.reshape(count, stride, count, stride, channels, -1).transpose(0, 2, 1, 3, 5, 4)
    dx = _matmul(patches, weights.reshape(-1, channels), (1, 0), x.dtype).reshape(x.shape)
    dkernel = _matmul(x.reshape(-1, channels), patches, (0, 0), kernel.dtype)
    dkernel = dkernel.reshape(channels, count, count, stride, stride, -1).transpose(1, 3, 2, 4, 0, 5)
    return dx, dkernel.reshape(kernel.shape)


def _window_gradients(stride, x, kernel, dy):
    size, shape = kernel.shape[:2], x.shape[1:3]
    pads = _output_pads(size[0], stride)
    # One row for each pixel of x, with the outputs that it added to, tap by tap. Each gradient is then a matrix product.
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
