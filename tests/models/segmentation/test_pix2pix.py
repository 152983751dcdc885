import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from tests.models.drawn import draw, put
from tests.models.segmentation.calls import call, pixels

PAPER = dict(width=64, depth=8, norm="batch", momentum=0.9, dropout=0.5, discriminator=64, dtype="float32")
TINY = PAPER | dict(width=4, depth=3, discriminator=4)


def build(num_classes=3, **fields):
    return registry.build("pix2pix", rngs=nnx.Rngs(0), num_classes=num_classes, **fields)


def count(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def tiny():
    return draw(lambda: build(**TINY))


def test_parameter_count_equals_the_paper():
    model = nnx.eval_shape(lambda: build(**PAPER))
    # Section 6.1.1, from RGB to three outputs. A decoder block reads the block below it and its skip.
    encoder = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 4 * 512 * 512
    decoder = 512 * 512 + 3 * 1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64 + 128 * 3
    normalised = 128 + 256 + 5 * 512 - 512 + 4 * 512 + 256 + 128 + 64
    biases = 64 + 512 + 3  # the first, innermost and last layers have no normalisation
    generator = 16 * (encoder + decoder) + 2 * normalised + biases
    # Section 6.1.2, on an image and a map of three classes.
    discriminator = 16 * (6 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 2 * (128 + 256 + 512) + 64 + 1
    assert (generator, discriminator) == (54_414_531, 2_768_705)
    assert count(nnx.state(model.discriminator, nnx.Param)) == discriminator
    assert count(nnx.state(model, nnx.Param)) == generator + discriminator
    alone = nnx.eval_shape(lambda: build(**PAPER | dict(discriminator=0)))
    assert count(nnx.state(alone, nnx.Param)) == generator


@pytest.mark.parametrize("fields, size", [(PAPER, (256, 256)), (TINY, (64, 48)), (TINY, (37, 22)), (TINY, (1, 5))])
def test_logits_have_the_size_of_the_image(fields, size):
    model = nnx.eval_shape(lambda: build(num_classes=5, **fields))
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
    assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


def test_six_levels_reduce_64_pixels_to_one():
    model = nnx.eval_shape(lambda: build(**PAPER | dict(depth=6)))
    assert [block.conv.kernel.shape[-1] for block in model.encoder] == [64, 128, 256, 512, 512, 512]
    assert [block.conv.kernel.shape[-1] for block in model.decoder] == [512, 512, 256, 128, 64]
    assert [block.dropout.rate for block in model.decoder] == [0.5, 0.5, 0.5, 0, 0]
    assert [block.norm is None for block in model.encoder] == [True, False, False, False, False, True]
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def innermost(model, images):
        for block in model.encoder:
            images = block(images, train=False)
        return images

    assert nnx.eval_shape(innermost, model, images).shape == (1, 1, 1, 512)


def test_initial_kernels_have_a_standard_deviation_of_0_02():
    state = nnx.to_flat_state(nnx.state(build(**TINY), nnx.Param))
    kernels = [np.asarray(value[...]) for path, value in state if path[-1] == "kernel"]
    for kernel in kernels:
        assert np.std(kernel) == pytest.approx(0.02, rel=4 / np.sqrt(2 * kernel.size))
    assert np.concatenate([kernel.ravel() for kernel in kernels]).mean() == pytest.approx(0, abs=1e-3)


def test_innermost_features_are_kept_for_a_batch_of_one(tiny):
    """If a 1x1 map were normalised over one example, it would be the same for every image."""
    widest = nnx.clone(tiny)
    for layer in (*(block.conv for block in widest.decoder[1:]), widest.head):
        kernel = np.array(layer.kernel[...])
        kernel[:, :, kernel.shape[2] // 2 :] = 0  # the skips, so that only the innermost features count
        put(layer.kernel, kernel)
    first, second = (call(widest, pixels(1, 8, 8, 3, seed=seed), True, 0) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-2


def test_dropout_acts_in_training_only(tiny):
    images = pixels(1, 8, 8, 3)
    np.testing.assert_array_equal(call(tiny, images, seed=0), call(tiny, images, seed=1))
    first, again, other = (call(tiny, images, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2 * np.abs(first).max()


def test_discriminator_patches_have_a_receptive_field_of_70_pixels():
    model = draw(lambda: build(num_classes=2, **TINY))

    def patch(images, maps, row, column):
        return model.discriminate(images, maps, train=False)[0, row, column, 0]

    images, maps = pixels(1, 128, 104, 3), pixels(1, 128, 104, 2, seed=1)
    assert jax.eval_shape(lambda *x: model.discriminate(*x, train=False), images, maps).shape == (1, 14, 11, 1)
    seen = jax.jit(jax.grad(patch, argnums=(0, 1)))
    for row, column in ((6, 5), (5, 5)):
        for gradient in map(np.asarray, seen(images, maps, row, column)):
            # Patches are 8 pixels apart. Because of padding, the first one starts 1 + 2 + 4 + 8 + 8 pixels outside.
            top, left = 8 * row - 23, 8 * column - 23
            support = np.abs(gradient[0]).max(-1) > 0
            expected = np.zeros((128, 104), bool)
            expected[max(top, 0) : top + 70, max(left, 0) : left + 70] = True
            np.testing.assert_array_equal(support, expected)


def test_generator_does_not_use_the_discriminator(tiny):
    images = pixels(1, 8, 8, 3)
    bare = nnx.clone(tiny)
    for name in tiny.training_only:
        setattr(bare, name, None)
    assert not any("discriminator" in path for path, _ in nnx.to_flat_state(nnx.state(bare)))
    np.testing.assert_array_equal(call(bare, images), call(tiny, images))


def test_missing_discriminator_and_small_image_raise_a_user_error():
    model = nnx.eval_shape(lambda: build(**TINY | dict(discriminator=0)))
    with pytest.raises(UserError, match="model.discriminator is 0"):
        model.discriminate(pixels(1, 32, 32, 3), pixels(1, 32, 32, 3), train=False)
    with pytest.raises(UserError, match="24 pixels per side, not 32x23"):
        nnx.eval_shape(lambda: build(**TINY)).discriminate(pixels(1, 32, 23, 3), pixels(1, 32, 23, 3), train=False)
