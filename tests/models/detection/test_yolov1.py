from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.detection.yolov1 import ConvLeakyRelu
from tests.models.drawn import draw, put

FULL = dict(
    layers=24,
    width=1.0,
    depth=1.0,
    stride=64,
    grid=7,
    boxes=2,
    head="connected",
    connected=4096,
    dropout=0.5,
    norm="none",
    momentum=0.9,
    dtype="float32",
)
LIGHT = FULL | dict(layers=9, width=0.05, depth=0.3, stride=16, grid=0, head="convolution", connected=8)


def build(fields=LIGHT, num_classes=3, **changed):
    return registry.build("yolov1", rngs=nnx.Rngs(0), num_classes=num_classes, **fields | changed)


def abstract(fields=FULL, num_classes=20, **changed):
    return nnx.eval_shape(lambda: build(fields, num_classes, **changed))


def outputs_of(model, *shape):
    images = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    return nnx.eval_shape(lambda model, images: model(images, train=False), model, images)


def count(model):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@nnx.jit
def compiled(model, images):
    return model(images, train=False)


def call(model, images):
    return {name: np.asarray(values) for name, values in compiled(model, images).items()}


def random_images(*shape):
    return np.random.default_rng(1).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def test_parameter_count_equals_figure_3():
    kernels = 7 * 7 * 3 * 64 + 9 * 64 * 192
    kernels += 192 * 128 + 9 * 128 * 256 + 256 * 256 + 9 * 256 * 512
    kernels += 4 * (512 * 256 + 9 * 256 * 512) + 512 * 512 + 9 * 512 * 1024
    kernels += 2 * (1024 * 512 + 9 * 512 * 1024) + 4 * 9 * 1024 * 1024
    biases = 64 + 192 + (128 + 256 + 256 + 512) + 4 * (256 + 512) + (512 + 1024) + 2 * (512 + 1024) + 4 * 1024
    connected = (7 * 7 * 1024 + 1) * 4096 + (4096 + 1) * 7 * 7 * 30
    model = abstract()
    assert count(model) == kernels + biases + connected == 271_703_550
    assert sum(isinstance(module, ConvLeakyRelu) for _, module in nnx.iter_modules(model)) == 24 + 1
    # A normalised convolution has a scale and a shift in place of its bias. The fully connected layers do not change.
    assert count(abstract(norm="batch")) == kernels + 2 * biases + connected


def test_parameter_count_equals_fast_yolo():
    channels = (3, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024)
    convolutions = sum((9 * a + 1) * b for a, b in pairwise(channels))
    connected = (7 * 7 * 1024 + 1) * 256 + (256 + 1) * 4096 + (4096 + 1) * 7 * 7 * 30
    assert count(abstract(layers=9)) == convolutions + connected == 45_089_374


def test_convolution_head_has_the_expected_parameter_count():
    layers = dict(layers=9, width=0.25, depth=0.3, head="convolution", grid=0, connected=96, norm="batch")
    channels = (3, 8, 8, 16, 32, 64, 128, 256, 96)  # one convolution of 1024 * width is left; the last is the head's
    expected = sum((9 * a + 2) * b for a, b in pairwise(channels)) + (96 + 1) * (3 * 5 + 20)
    assert count(abstract(**layers, boxes=3)) == expected


@pytest.mark.parametrize(("layers", "sizes"), [(9, [(448, 448), (64, 192), (100, 131), (1, 17)]), (24, [(100, 131)])])
@pytest.mark.parametrize("stride", [64, 32, 16])
def test_grid_is_the_image_size_divided_by_the_stride(layers, sizes, stride):
    model = abstract(layers=layers, stride=stride, grid=0, head="convolution", boxes=3, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    for size in sizes:
        rows, columns = (-(-side // stride) for side in size)
        assert model.grid(size) == (rows, columns)
        outputs = outputs_of(model, 2, *size)
        shapes = {name: (2, rows, columns, *last) for name, last in SHAPES.items()}
        assert {name: value.shape for name, value in outputs.items()} == shapes
        assert {value.dtype for value in outputs.values()} == {jnp.dtype("float32")}


SHAPES = {"boxes": (3, 4), "confidence": (3,), "classes": (20,)}


def test_fully_connected_layers_support_a_grid_that_is_not_square():
    for layers in (24, 9):
        model = abstract(layers=layers, grid=(3, 5), boxes=3)
        outputs = outputs_of(model, 2, 192, 320)
        assert {name: value.shape[1:] for name, value in outputs.items()} == {
            name: (3, 5, *last) for name, last in SHAPES.items()
        }


def test_image_that_does_not_match_the_grid_raises_a_one_line_error():
    model = abstract()
    with pytest.raises(UserError) as caught:
        outputs_of(model, 1, 448, 512)
    assert str(caught.value) == (
        "model.grid: an image of 448x512 has 7x8 cells at model.stride=64, not 7x7; "
        "take config.data.image_size and canvases of (448, 448), or model.grid=(7, 8)"
    )
    with pytest.raises(UserError, match=r"not 2x3; .* of \(32, 48\), or take model\.grid=0$"):
        abstract(LIGHT, grid=(2, 3)).grid((32, 32))


def test_invalid_fields_raise_a_one_line_error():
    for field, value, message in (
        ("layers", 19, r"model\.layers=19 .* 24 or 9$"),
        ("stride", 8, r"model\.stride=8 .* 64 or 32 or 16$"),
        ("head", "dense", r"model\.head='dense' .* 'connected' or 'convolution'$"),
        ("norm", "layer", r"model\.norm='layer' .* 'none' or 'batch' or 'group' or 'frozen'$"),
        ("width", 0.0, r"model\.width=0\.0 .* above 0$"),
        ("boxes", 0, r"model\.boxes=0 .* 1 or more$"),
        ("grid", -7, r"model\.grid=-7 .* 2 values, each a whole number, 1 or more$"),
        ("grid", (7, 7, 3), r"model\.grid=\(7, 7, 3\) is not valid; .* 2 values"),
        ("grid", 7.5, r"model\.grid=7\.5 is not valid; .* a whole number"),
        ("grid", 0, r"model\.grid=0, for images of any size, needs config\.model\.head='convolution'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            build(FULL, **{field: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", ["connected", "convolution"])
def test_outputs_are_linear_and_ordered_by_cell(head):
    """If the last kernel is zero, every cell outputs the bias of the last layer unchanged."""
    model = draw(lambda: build(head=head, grid=(2, 3), boxes=2))
    put(model.output.kernel, np.zeros(model.output.kernel.shape))
    numbers = np.arange(model.output.bias.shape[0]) - 5.0
    put(model.output.bias, numbers)
    outputs = call(model, random_images(1, 32, 48))
    cells = np.broadcast_to(numbers.reshape(-1, 13), (6, 13)).reshape(2, 3, 13)
    np.testing.assert_array_equal(outputs["boxes"][0].reshape(2, 3, 8), cells[..., :8])
    np.testing.assert_array_equal(outputs["confidence"][0], cells[..., 8:10])
    np.testing.assert_array_equal(outputs["classes"][0], cells[..., 10:])


def test_convolution_head_is_translation_equivariant_and_local():
    model, images = draw(build), np.zeros((2, 256, 256, 3), np.float32)
    images[0, 112:128, 128:144] = images[1, 128:144, 112:128] = random_images(16, 16)
    for values in call(model, images).values():
        assert np.abs(values[0, 7, 8]).max() > 0.01
        np.testing.assert_allclose(values[0, :-1, 1:], values[1, 1:, :-1], rtol=1e-4, atol=1e-6)
        assert not np.abs(values[:, [0, -1]]).any()


def test_fully_connected_cells_depend_on_the_whole_image():
    model = draw(lambda: build(head="connected", grid=(4, 4)))
    image = random_images(1, 64, 64)
    other = image.copy()
    other[0, :8, :8] += 2.0
    before, after = call(model, image), call(model, other)
    for name in before:
        assert np.abs(after[name] - before[name])[0, -1, -1].max() > 1e-4


def test_block_equals_a_convolution_and_a_leaky_relu():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    for size, stride, pooled in ((1, 1, False), (3, 2, False), (3, 1, True), (7, 2, True)):
        fields = dict(stride=stride, pooled=pooled, norm="none", momentum=0.9, dtype="float32")
        block = draw(lambda size=size, fields=fields: ConvLeakyRelu(2, 3, size, **fields, rngs=nnx.Rngs(0)))
        bias = np.array([0.1, -0.2, 0.3], np.float32)
        put(block.conv.bias, bias)
        kernel, padded = np.asarray(block.conv.kernel[...]), np.pad(x[0], ((size // 2,) * 2,) * 2 + ((0, 0),))
        expected = np.empty((-(-5 // stride), -(-6 // stride), 3))
        for row, column in np.ndindex(expected.shape[:2]):
            window = padded[row * stride : row * stride + size, column * stride : column * stride + size]
            expected[row, column] = np.tensordot(window, kernel, 3) + bias
        expected = np.where(expected > 0, expected, 0.1 * expected)
        if pooled:  # incomplete windows at the end are kept
            rows, columns = expected.shape[:2]
            odd = ((0, rows % 2), (0, columns % 2), (0, 0))
            expected = np.pad(expected, odd, constant_values=-np.inf)
            expected = expected.reshape(-(-rows // 2), 2, -(-columns // 2), 2, 3).max((1, 3))
        y = nnx.jit(lambda block, x: block(x, train=True))(block, x)
        np.testing.assert_allclose(np.asarray(y)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["connected", "convolution"])
def test_dropout_acts_in_training_only(head):
    model, images = draw(lambda: build(head=head, grid=1, connected=64)), random_images(1, 16, 16)

    @nnx.jit(static_argnames="train")
    def classes(model, key, train):
        return model(images, train=train, rngs=nnx.Rngs(dropout=key))["classes"]

    keys = [jax.random.key(seed) for seed in (0, 1)]
    first, second = (classes(model, key, train=True) for key in keys)
    assert not np.allclose(first, second)
    first, second = (classes(model, key, train=False) for key in keys)
    np.testing.assert_array_equal(first, second)


def test_every_parameter_has_a_gradient():
    graphdef, params = nnx.split(draw(lambda: build(head="connected", grid=(1, 2))))

    @jax.jit
    def gradient(params):
        def total(params):
            model = nnx.merge(graphdef, params, copy=True)
            outputs = model(random_images(2, 16, 32), train=True, rngs=nnx.Rngs(0))
            return sum(jnp.sum(values**2) for values in outputs.values())

        return jax.grad(total)(params)

    for path, leaf in nnx.to_flat_state(gradient(params)):
        assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path
