import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from tests.models.drawn import draw, put
from tests.models.segmentation.calls import call, pixels

MOBILENET = dict(name="mobilenet_v2", width=1.0, depth=1.0, variant="keras", norm="batch", momentum=0.9)
RESNET = dict(name="resnet", layers=34, width=1.0, norm="batch", momentum=0.9, output_stride=32)
FULL = dict(backbone=MOBILENET, decoder=(128, 64, 32, 16), norm="batch", momentum=0.9, dropout=0.1, dtype="float32")
TINY = FULL | dict(backbone=RESNET | dict(layers=10, width=0.1), decoder=(8, 8, 8, 8))


def build(num_classes=3, **fields):
    return registry.build("unet_backbone", rngs=nnx.Rngs(0), num_classes=num_classes, **fields)


def count(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def tiny():
    return draw(lambda: build(**TINY))


def expected(channels, decoder, num_classes):
    """Count the parameters of the decoder and the classifier. A block has two 3x3 convolutions with scale and shift."""
    *skips, below = channels
    total = 0
    for skip, out in zip(reversed(skips), decoder, strict=True):
        total += 9 * (below + skip) * out + 9 * out * out + 2 * 2 * out
        below = out
    return total + below * num_classes + num_classes


@pytest.mark.parametrize(
    "backbone, channels, parameters",
    [(MOBILENET, (96, 144, 192, 576, 320), 1_811_072), (RESNET, (64, 64, 128, 256, 512), 21_284_672)],
    ids=["mobilenet_v2", "resnet34"],
)
def test_parameter_count_follows_the_channels_of_the_backbone(backbone, channels, parameters):
    model = nnx.eval_shape(lambda: build(**FULL | dict(backbone=backbone)))
    assert count(nnx.state(model.backbone, nnx.Param)) == parameters
    assert count(nnx.state(model, nnx.Param)) - parameters == expected(channels, FULL["decoder"], 3)


@pytest.mark.parametrize("backbone", [MOBILENET | dict(width=0.1, depth=0.1), TINY["backbone"] | dict(output_stride=8)])
def test_logits_have_the_size_of_the_image(backbone):
    fields = TINY | dict(backbone=backbone)
    strides = nnx.eval_shape(lambda: registry.build_backbone(backbone, dtype="float32", rngs=nnx.Rngs(0))).channels
    model = nnx.eval_shape(lambda: build(**fields | dict(decoder=(8,) * (len(strides) - 1))))
    for size in ((97, 70), (1, 31)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
        assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


def test_parameters_and_logits_are_float32():
    model = nnx.eval_shape(lambda: build(**TINY | dict(dtype="bfloat16")))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
    assert logits.dtype == jnp.float32


def test_decoder_of_the_wrong_length_raises_a_user_error():
    with pytest.raises(UserError, match="model.decoder: needs 4 channel counts, one per skip, not 3"):
        nnx.eval_shape(lambda: build(**TINY | dict(decoder=(8, 8, 8))))


class Pyramid(nnx.Module):
    """A backbone that only averages, with features at strides 1, 2 and 4. It shows which pixels a block reads."""

    channels = {1: 3, 2: 3, 4: 3}

    def __call__(self, images, *, train, rngs=None):
        def shrink(x):
            return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))

        return {1: images, 2: shrink(images), 4: shrink(shrink(images))}


@pytest.fixture
def pyramid(monkeypatch):
    monkeypatch.setattr("models.segmentation.unet_backbone.build_backbone", lambda *_, **__: Pyramid())
    return draw(lambda: build(**FULL | dict(decoder=(4, 4), dropout=0.0)))


def select(kernel, row, column, source, target):
    """Set a kernel that copies channel `source` to channel `target` at one tap."""
    value = np.zeros(kernel.shape)
    value[row, column, source, target] = 1
    put(kernel, value)


def test_upsampling_does_not_shift_a_ramp(pyramid):
    """The blocks only copy one map. The deepest map keeps its place, because upsampling has no shift."""
    for block in pyramid.decoder:
        for part in (block.first, block.second):
            select(part.conv.kernel, 1, 1, 0, 0)
            part.norm.epsilon = 0.0
    select(pyramid.head.kernel, 0, 0, 0, 1)
    rows, columns = np.mgrid[:32, :24]
    ramp = np.stack([100.0 + rows - 2 * columns] * 3, -1)[None].astype(np.float32)
    logits = call(pyramid, ramp)
    # Averaging and linear interpolation do not change a ramp, except at the border.
    np.testing.assert_allclose(logits[0, 4:-4, 4:-4, 1], ramp[0, 4:-4, 4:-4, 0], rtol=1e-5)


def test_skips_enter_the_block_of_their_stride(pyramid):
    """The inputs of a block are [deeper map, skip]. Only the skip of the last block has stride 1."""
    for block in pyramid.decoder:
        select(block.first.conv.kernel, 1, 1, 0, 0)
        select(block.second.conv.kernel, 1, 1, 0, 0)
        block.first.norm.epsilon = block.second.norm.epsilon = 0.0
    select(pyramid.decoder[-1].first.conv.kernel, 1, 1, 4, 0)  # channels 0 to 3 come from below
    select(pyramid.head.kernel, 0, 0, 0, 2)
    images = np.abs(pixels(1, 16, 12, 3))
    np.testing.assert_allclose(call(pyramid, images)[..., 2], images[..., 0], rtol=1e-5)


def test_examples_are_independent_in_evaluation_but_not_in_training(tiny):
    images = pixels(4, 37, 32, 3)
    other = images * np.array([1, 0.5, 0.5, 0.5], np.float32)[:, None, None, None]
    for train in (False, True):
        ours, theirs = (call(tiny, x, train, 0) for x in (images, other))
        same = np.allclose(ours[0], theirs[0], atol=1e-5)
        assert same != train


def test_dropout_acts_in_training_only(tiny):
    images = pixels(4, 37, 32, 3)
    np.testing.assert_array_equal(call(tiny, images, seed=0), call(tiny, images, seed=1))
    assert not np.allclose(call(tiny, images, True, 0), call(tiny, images, True, 1), atol=1e-3)
