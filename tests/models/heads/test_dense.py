import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.heads.dense import Tower, classifier, flatten, predictor
from tests.models.drawn import draw, put

MADE = dict(momentum=0.5, dtype="float32")


def random_maps(*sizes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal((2, *size, 8)).astype(np.float32) for size in sizes]


@nnx.jit(static_argnames="train")
def compiled(tower, maps, train):
    return tower(maps, train=train)


def run(tower, maps, train=False):
    return [np.asarray(x) for x in compiled(tower, maps, train)]


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_levels_share_all_layers_except_batch_norm(norm):
    tower = draw(lambda: Tower(8, 2, levels=2, norm=norm, **MADE, rngs=nnx.Rngs(0)))
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(tower, nnx.Param))}
    norms = {"none": [], "group": ["norm_1", "norm_2"], "batch": ["norm_1/0", "norm_1/1", "norm_2/0", "norm_2/1"]}
    expected = {f"conv_{number}/{name}" for number in (1, 2) for name in ("kernel", "bias")}
    assert names == expected | {f"{own}/{name}" for own in norms[norm] for name in ("scale", "bias")}

    small, large = random_maps((3, 4), (6, 5))
    outputs = run(tower, [small, large], train=False)
    assert [x.shape for x in outputs] == [small.shape, large.shape] and all((x >= 0).all() for x in outputs)
    swapped = run(tower, [large, small], train=False)  # untrained statistics are the same for all levels
    for a, b in zip(outputs, swapped[::-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    run(tower, [small, 3 * large], train=True)
    if norm == "batch":
        first, second = (np.asarray(tower.norm_1[level].var[...]) for level in (0, 1))
        assert (np.abs(first - second) > 1e-6).all()


def test_mirrored_kernels_on_a_mirrored_image_give_the_mirrored_output():
    tower = draw(lambda: Tower(8, 2, levels=1, norm="group", **MADE, rngs=nnx.Rngs(0)))
    (x,) = random_maps((5, 6))
    (expected,) = run(tower, [x])
    for conv in (tower.conv_1, tower.conv_2):
        put(conv.kernel, np.asarray(conv.kernel[...])[:, ::-1])
    (found,) = run(tower, [x[:, :, ::-1]])
    np.testing.assert_allclose(found[:, :, ::-1], expected, rtol=1e-4, atol=1e-6)


def test_initial_values_equal_the_paper():
    made = dict(dtype="float32", rngs=nnx.Rngs(0))
    tower = Tower(32, 1, levels=1, norm="none", momentum=0.9, **made)
    boxes, classes = predictor(32, 36, **made), classifier(32, 60, **made)
    for conv in (tower.conv_1, boxes, classes):
        np.testing.assert_allclose(np.std(conv.kernel[...]), 0.01, rtol=0.05)
    assert not np.any(tower.conv_1.bias[...]) and not np.any(boxes.bias[...])
    np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(classes.bias[...]))), 0.01, rtol=1e-5)


def test_flat_maps_are_ordered_by_row_column_and_shape():
    x = np.arange(2 * 3 * 4 * 10).reshape(2, 3, 4, 10)
    flat = flatten(jnp.asarray(x, jnp.bfloat16), 5)
    assert flat.shape == (2, 3 * 4 * 2, 5) and flat.dtype == jnp.float32
    flat = np.asarray(flatten(jnp.asarray(x), 5))
    for row, i, j, k in np.ndindex(2, 3, 4, 2):
        np.testing.assert_array_equal(flat[row, (i * 4 + j) * 2 + k], x[row, i, j, 5 * k : 5 * k + 5])
