import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.segmentation.unet import margin, output_size
from tests.models.drawn import draw, put
from tests.models.segmentation.calls import call, pixels

PAPER = dict(depth=4, width=64, padding="valid", norm="none", momentum=0.9, dropout=0.5, dtype="float32")
VALID = PAPER | dict(depth=2, width=4)
SAME = PAPER | dict(width=4, padding="same", norm="batch")


def build(num_classes=2, **fields):
    return registry.build("unet", rngs=nnx.Rngs(0), num_classes=num_classes, **fields)


def randomised(model):
    """Return the model with biases that are not zero, so that the test finds a missing bias."""
    for number, (path, value) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.Param))):
        if path[-1] == "bias":
            put(value, 0.3 * pixels(*value.shape, seed=number))
    return model


@pytest.fixture(scope="module")
def unpadded():
    return randomised(draw(lambda: build(**VALID)))


def shape(fields, size):
    model = nnx.eval_shape(lambda: build(**fields))
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
    assert logits.dtype == jnp.float32
    return logits.shape


def test_published_network_maps_572_pixels_to_388():
    assert shape(PAPER, (572, 572)) == (2, 388, 388, 2)
    assert shape(PAPER, (188, 204)) == (2, 4, 20, 2)
    assert margin(4) == (572 - 388) / 2 == 92


def test_parameter_count_equals_figure_1():
    def level(before, after):
        return 9 * before * after + after + 9 * after * after + after

    down = level(3, 64) + level(64, 128) + level(128, 256) + level(256, 512) + level(512, 1024)
    up = sum(4 * 2 * c * c + c + level(2 * c, c) for c in (512, 256, 128, 64))
    expected = down + up + 64 * 2 + 2
    # With the paper's one input channel, the first convolution has 9 * 2 * 64 fewer weights.
    assert expected == 31_031_810 and expected - 9 * 2 * 64 == 31_030_658
    state = nnx.state(nnx.eval_shape(lambda: build(**PAPER)))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected
    normalised = nnx.state(nnx.eval_shape(lambda: build(**PAPER | dict(norm="batch"))), nnx.Param)
    convolutions = 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024  # a bias becomes a scale and a shift
    assert sum(leaf.size for leaf in jax.tree.leaves(normalised)) == expected + convolutions


def walk(size, depth):
    """Return the size of the output, computed operation by operation.

    Return None if a map has an odd size or no pixels.
    """
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
    return size if size > 0 else None


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_valid_sizes_have_even_maps_at_every_level(depth):
    sizes = {size: walk(size, depth) for size in range(1, 700)}
    valid = [size for size, expected in sizes.items() if expected]
    for size in range(1, valid[-1]):
        if size in valid:
            assert output_size(size, depth) == sizes[size] == size - 2 * margin(depth)
            continue
        below, above = [v for v in valid if v < size], [v for v in valid if v > size]
        nearest = f"{below[-1]} or {above[0]}" if below else f"{above[0]}"
        with pytest.raises(UserError, match=f"^[^\\n]* {size} pixels[^\\n]*; take {nearest}$"):
            output_size(size, depth)


def test_invalid_sizes_and_padding_raise_a_user_error():
    with pytest.raises(UserError, match="570 pixels.*take 556 or 572"):
        shape(PAPER, (572, 570))
    with pytest.raises(UserError, match="'full'"):
        build(**VALID | dict(padding="full"))


@pytest.mark.parametrize("size", [(64, 48), (37, 22), (1, 5)])
def test_same_padding_keeps_any_image_size(size):
    assert shape(SAME, size) == (2, *size, 2)


def convolve(x, module):
    kernel, bias = np.asarray(module.kernel[...], np.float64), np.asarray(module.bias[...])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwcij,ijco->hwo", windows, kernel) + bias


def reference(model, image):
    """Run the unpadded network on one image [H,W,3], in numpy."""

    def level(x, module):
        for part in (module.first, module.second):
            x = np.maximum(convolve(x, part.conv), 0)
        return x

    x, skips = image, []
    for number, module in enumerate(model.contracting):
        if number:
            x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
        x = level(x, module)
        skips.append(x)
    for up, module, skip in zip(model.upsampling, model.expanding, skips[-2::-1], strict=True):
        kernel = np.asarray(up.kernel[...], np.float64)
        x = np.einsum("hwc,ijco->hiwjo", x, kernel).reshape(2 * x.shape[0], 2 * x.shape[1], -1) + up.bias[...]
        top, left = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (0, 1))
        skip = skip[top : top + x.shape[0], left : left + x.shape[1]]
        x = level(np.concatenate([skip, x], -1), module)
    return convolve(x, model.head)


def test_unpadded_network_equals_figure_1(unpadded):
    images = pixels(1, 48, 44, 3)
    expected = reference(unpadded, np.asarray(images[0], np.float64))
    np.testing.assert_allclose(call(unpadded, images)[0], expected, rtol=1e-4, atol=1e-5)


def test_padding_changes_the_border_only():
    # At depth 1 both networks pool the same 2x2 squares. So they agree at pixels that do not read the padding.
    same, valid = (
        randomised(draw(lambda padding=padding: build(**VALID | dict(depth=1, padding=padding))))
        for padding in ("same", "valid")
    )
    images = pixels(2, 24, 28, 3)
    inner, logits = call(valid, images), call(same, images)
    assert inner.shape == (2, 8, 12, 2) and logits.shape == (2, 24, 28, 2)
    np.testing.assert_allclose(logits[:, 8:-8, 8:-8], inner, atol=1e-5)
    assert not np.allclose(logits[:, 7:-9, 8:-8], inner, atol=1e-3)


def test_tile_equals_its_part_of_the_whole_image(unpadded):
    """The overlap-tile strategy (section 2) needs this. It holds only for shifts by multiples of 2^depth."""
    whole = call(unpadded, pixels(1, 76, 76, 3))
    for top, left, equal in ((0, 0, True), (8, 4, True), (16, 12, True), (2, 0, False), (0, 1, False), (4, 6, False)):
        tile = call(unpadded, pixels(1, 76, 76, 3)[:, top : top + 60, left : left + 60])
        part = whole[:, top : top + 20, left : left + 20]
        difference = np.abs(tile - part).max()
        assert difference < 1e-5 if equal else difference > 1e-2, (top, left)


def test_initial_kernels_preserve_the_variance():
    model = build(**VALID | dict(depth=1, width=24))
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "kernel" and value.size > 4000:
            height, width, incoming, _ = value.shape
            # Per channel, an output pixel of an up-convolution reads one pixel, and one of a convolution reads nine.
            count = incoming if path[0] == "upsampling" else height * width * incoming
            assert np.std(value[...]) == pytest.approx(np.sqrt(2 / count), rel=0.05), path


def test_dropout_acts_in_the_two_deepest_levels_in_training_only(unpadded):
    images = pixels(1, 44, 44, 3)
    evaluated = call(unpadded, images, seed=0)
    np.testing.assert_array_equal(evaluated, call(unpadded, images, seed=1))
    first, again, other = (call(unpadded, images, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3) and not np.allclose(first, evaluated, atol=1e-3)
    # At rate 1 the two levels output zeros, and the level above them does not.
    everything, silent = nnx.clone(unpadded), nnx.clone(unpadded)
    everything.dropout.rate = 1.0
    for level in silent.contracting[1:]:
        for variable in (level.second.conv.kernel, level.second.conv.bias):
            put(variable, np.zeros(variable.shape))
    logits = call(everything, images, True, 0)
    np.testing.assert_allclose(logits, call(silent, images, seed=0), atol=1e-6)
    assert np.std(logits, axis=(1, 2)).max() > 1e-2
