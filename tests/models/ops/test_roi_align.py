"""RoIAlign and its gradients equal known answers, plain loops and torchvision, in both implementations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import roi_align as module
from models.ops.roi_align import assign_levels, roi_align, roi_align_pyramid

FORMS = list(module.FORMS)
BOXES = np.array(  # yxyx: inside, across two borders, far outside, a line, a point, reversed, whole image
    [[3, 4, 17, 21], [-9, -7, 12, 60], [90, 90, 99, 99], [5, 5, 5, 20], [7, 7, 7, 7], [9, 9, 5, 5], [0, 0, 28, 36]],
    np.float32,
)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Make every platform use this implementation."""
    monkeypatch.setattr(module, "FORMS", dict.fromkeys(FORMS, module.FORMS[request.param]))
    return request.param


find_levels = jax.jit(assign_levels, static_argnums=1)


def run(align, pixels, dy):
    """Return the values, and the gradient of <dy, values>."""

    @jax.jit
    def compiled(pixels, dy):
        found, transpose = jax.vjp(align, pixels)
        return found, transpose(dy)[0]

    return compiled(pixels, dy)


def sample(pixels, y, x):
    """Return the value of [H,W,C] at a point, interpolated between the four pixels around it."""
    height, width, channels = pixels.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(channels)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = pixels[top, left] * (1 - x + left) + pixels[top, right] * (x - left)
    lower = pixels[bottom, left] * (1 - x + left) + pixels[bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def oracle(pixels, box, stride, size, samples, aligned):
    """Align one box of one image in loops."""
    top, left, bottom, right = (float(value) / stride - 0.5 * aligned for value in box)
    sides = (bottom - top, right - left) if aligned else (max(bottom - top, 1), max(right - left, 1))
    result = np.zeros((*size, pixels.shape[-1]))
    for row in range(size[0]):
        for column in range(size[1]):
            for i in range(samples):
                for j in range(samples):
                    y = top + (row + (i + 0.5) / samples) * sides[0] / size[0]
                    x = left + (column + (j + 0.5) / samples) * sides[1] / size[1]
                    result[row, column] += sample(pixels, y, x) / samples**2
    return result


@pytest.mark.parametrize(("aligned", "low", "high"), [(True, 4.5, 13.5), (False, 7.5, 16.5)])
@pytest.mark.parametrize("samples", [1, 2])
def test_ramp_has_the_known_values(form, aligned, low, high, samples):
    """A ramp that is sampled linearly stays a ramp, so its corners determine it."""
    ramp = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    align = jax.jit(partial(roi_align, stride=1, size=(4, 4), samples=samples, aligned=aligned))
    found = np.asarray(align(ramp, np.float32([[[1, 1, 3, 3]]])))
    expected = low + np.linspace(0, high - low, 4)[:, None] * 5 / 6 + np.linspace(0, high - low, 4) / 6
    np.testing.assert_allclose(found[0, 0, ..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "samples", "aligned"), [((2, 3), 1, True), ((3, 2), 2, False), ((3, 2), 2, True), ((1, 1), 3, False)]
)
def test_values_and_gradients_equal_loops(form, size, samples, aligned):
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 5, 6, 3)).astype(np.float32)
    boxes = np.stack([BOXES, BOXES[::-1]])
    align = partial(roi_align, boxes=boxes, stride=4, size=size, samples=samples, aligned=aligned)
    dy = rng.standard_normal((2, len(BOXES), *size, 3)).astype(np.float32)
    found, gradient = run(align, pixels, dy)
    # RoIAlign is linear. On an image whose 30 channels have one bright pixel each, it returns its matrix.
    units = np.eye(30).reshape(5, 6, 30)
    matrices = np.array([[oracle(units, box, 4, size, samples, aligned) for box in image] for image in boxes])
    np.testing.assert_allclose(found, np.einsum("bnijp,bpc->bnijc", matrices, pixels.reshape(2, 30, 3)), atol=1e-5)
    expected = np.einsum("bnijp,bnijc->bpc", matrices, dy).reshape(pixels.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_levels_equal_hand_computed_levels():
    """Boxes with sides of 224 have stride 16. Boxes twice as large have twice the stride.

    Boxes beyond the levels get the nearest level.
    """
    sides = np.array([1, 111, 112, 223.9, 224, 447, 448, 5000])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], -1)
    assert find_levels(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert find_levels(boxes, (8, 16)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    wide = np.array([[0, 0, 112.0, 448.0]])  # the area of 224 x 224 pixels
    assert find_levels(wide, (4, 8, 16, 32)).tolist() == [2]


def test_pyramid_aligns_each_box_on_its_level(form):
    rng = np.random.default_rng(1)
    features = {s: rng.standard_normal((1, 96 // s, 128 // s, 2)).astype(np.float32) for s in (16, 4, 8)}
    boxes = np.array(
        [[[4, 4, 30, 40], [0, 0, 96, 128], [-30, 8, 120, 127], [0, 0, 0, 0], [-300, -300, 300, 300]]], np.float32
    )
    align = partial(roi_align_pyramid, boxes=boxes, size=(2, 2), aligned=False)
    found = np.asarray(jax.jit(align)(features))
    levels = np.asarray(find_levels(boxes, (4, 8, 16)))[0]
    assert len(set(levels.tolist())) == 3
    for place, level in enumerate(levels):
        stride = (4, 8, 16)[level]
        own = oracle(features[stride][0], boxes[0, place], stride, (2, 2), 2, False)
        np.testing.assert_allclose(found[0, place], own, atol=1e-5)
    gradients = jax.jit(jax.grad(lambda features: align(features)[0, 0].sum()))(features)
    assert {stride for stride, gradient in gradients.items() if np.any(gradient)} == {(4, 8, 16)[levels[0]]}


def test_boxes_have_no_gradient(form):
    align = jax.jit(jax.grad(lambda boxes, x: roi_align(x, boxes, stride=1, size=(2, 2)).sum()))
    assert not np.any(align(np.float32([[[0.3, 0.4, 3.1, 2.2]]]), np.ones((1, 5, 5, 1), np.float32)))


def test_bfloat16_inputs_are_summed_in_float32(form):
    rng = np.random.default_rng(2)
    pixels = rng.standard_normal((1, 7, 9, 3)).astype(jnp.bfloat16)
    align = partial(roi_align, boxes=BOXES[None], stride=4, size=(3, 3))
    low, high = jax.jit(lambda pixels: (align(pixels), align(pixels.astype(jnp.float32))))(pixels)
    high = np.asarray(high)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float32), high, atol=2**-7 * np.abs(high).max())


def test_bfloat16_gradients_of_many_boxes_are_summed_in_float32(form):
    """With 600 boxes on the same pixels, a sum in bfloat16 would stop growing at 256 times one term."""
    boxes = np.tile(np.array([0, 0, 16, 16], np.float32), (1, 600, 1))
    align = partial(roi_align, boxes=boxes, stride=4, size=(2, 2), aligned=True)
    pixels = np.ones((1, 4, 4, 3), jnp.bfloat16)
    dy = np.ones((1, 600, 2, 2, 3), jnp.bfloat16)
    _, gradient = run(align, pixels, dy)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), 600 / 4, rtol=0.01)


@pytest.mark.parametrize("aligned", [True, False])
def test_values_and_gradients_equal_torchvision(form, aligned):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng(3)
    pixels, size, samples = rng.standard_normal((2, 20, 31, 4)).astype(np.float32), (7, 5), 2
    corner, side = rng.uniform(-20, 110, (2, 40, 2)), rng.uniform(-2, 90, (2, 40, 2))
    boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
    dy = rng.standard_normal((2, 40, *size, 4)).astype(np.float32)
    align = partial(roi_align, boxes=boxes, stride=4, size=size, samples=samples, aligned=aligned)
    found, gradient = run(align, pixels, dy)
    theirs = torch.tensor(pixels.transpose(0, 3, 1, 2), requires_grad=True)
    regions = [torch.tensor(own[:, [1, 0, 3, 2]]) for own in boxes]
    expected = torchvision.ops.roi_align(theirs, regions, size, 1 / 4, samples, aligned)
    found, gradient = np.asarray(found), np.asarray(gradient)
    np.testing.assert_allclose(found.reshape(80, *size, 4), expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    expected.backward(torch.tensor(dy.reshape(80, *size, 4).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), atol=1e-4)
