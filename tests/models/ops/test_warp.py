"""Warped regions and the gradients of the images equal known answers and plain loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import roi_align
from models.ops.warp import warp

FORMS = list(roi_align.FORMS)
# yxyx: inside, across two borders, far outside, a line, a point, reversed, whole image. No sample lies on an edge.
BOXES = np.array(
    [[1, 2, 7, 6], [-3, -2, 5, 12], [90, 90, 99, 99], [5, 2, 5, 9], [4, 4, 4, 4], [6, 7.5, 2, 3], [0, 0, 9, 11]],
    np.float32,
)


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """Make every platform use this implementation of RoIAlign."""
    monkeypatch.setattr(roi_align, "FORMS", dict.fromkeys(FORMS, roi_align.FORMS[request.param]))


def line(start, end, size, context, length):
    """Yield for each pixel of a warped line the image pixels that it is sampled from, and their shares.

    A pixel beyond the edges of the image has none.
    """
    scale = (float(end) - float(start)) / (size - 2 * context)
    for pixel in range(size):
        place = float(start) + (pixel + 0.5 - context) * scale
        if not 0 <= place <= length:
            yield []
            continue
        low = int(np.floor(place - 0.5))
        pairs = (low, low + 0.5 + 1 - place), (low + 1, place - 0.5 - low)
        yield [(min(max(at, 0), length - 1), share) for at, share in pairs]


def oracle(pixels, box, size, context, dy):
    """Warp one box of one image in loops, and return the values and the gradient of <dy, values>."""
    values, gradient = np.zeros((size, size, pixels.shape[-1])), np.zeros(pixels.shape)
    for i, rows in enumerate(line(box[0], box[2], size, context, pixels.shape[0])):
        for j, columns in enumerate(line(box[1], box[3], size, context, pixels.shape[1])):
            for y, row_share in rows:
                for x, column_share in columns:
                    values[i, j] += row_share * column_share * pixels[y, x]
                    gradient[y, x] += row_share * column_share * dy[i, j]
    return values, gradient


def test_warped_box_is_where_the_paper_places_it(form):
    """A bright box of 6 x 24 pixels becomes 24 x 24 between two margins of 4. Pixels beyond the image are 0."""
    images = np.ones((1, 40, 30, 1), np.float32)
    images[:, 1:7, 3:27] = 5
    found = np.asarray(jax.jit(partial(warp, size=32, context=4))(images, np.float32([[[1, 3, 7, 27]]])))[0, 0, ..., 0]
    # Rows are stretched four times, so the context is one row. Columns keep their size, and one of the four context
    # columns at each edge is beyond the image.
    expected = np.zeros((32, 32))
    expected[:, 1:31] = 1
    expected[4:28, 4:28] = 5
    # Rows near the edges of the box are interpolated.
    within = np.abs(np.arange(32)[:, None] + 0.5 - np.array([4, 28])).min(1) > 2
    np.testing.assert_allclose(found[within], expected[within], atol=1e-5)
    assert not found[:, [0, 31]].any()
    np.testing.assert_allclose(found[2:6, 10], [1.5, 2.5, 3.5, 4.5], atol=1e-5)


def test_warp_to_227_pixels_has_the_context_of_the_paper():
    """The box covers 195 of 227 pixels.

    The context of a box of 39 x 65 is 3.2 and 5.33 pixels wide.
    """
    ramp = np.stack(np.mgrid[:60, :80].astype(np.float32), -1)[None] + 0.5  # each pixel holds the place of its centre
    found = np.asarray(jax.jit(partial(warp, size=227))(ramp, np.float32([[[10, 8, 49, 73]]])))[0, 0]
    step = np.array([39 / 195, 65 / 195])
    np.testing.assert_allclose(found[16, 16], np.array([10, 8]) + step / 2, rtol=1e-5)
    np.testing.assert_allclose(found[210, 210], np.array([49, 73]) - step / 2, rtol=1e-5)
    np.testing.assert_allclose(found[0, 0], np.array([10, 8]) - 16 * step + step / 2, rtol=1e-5)


@pytest.mark.parametrize(("size", "context"), [(5, 1), (4, 0), pytest.param(6, 2, marks=pytest.mark.slow)])
def test_values_and_gradients_equal_loops(form, size, context):
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 9, 11, 3)).astype(np.float32)
    boxes = np.stack([BOXES, BOXES[::-1]])
    dy = rng.standard_normal((2, len(BOXES), size, size, 3)).astype(np.float32)

    @jax.jit
    def differentiate(pixels, dy):
        values, transpose = jax.vjp(partial(warp, boxes=boxes, size=size, context=context), pixels)
        return values, transpose(dy)[0]

    found, gradient = differentiate(pixels, dy)
    for image in range(2):
        pairs = zip(boxes[image], dy[image], strict=True)
        own = [oracle(pixels[image], box, size, context, out) for box, out in pairs]
        np.testing.assert_allclose(found[image], [values for values, _ in own], atol=1e-5)
        np.testing.assert_allclose(gradient[image], sum(own for _, own in own), atol=1e-4)


def test_boxes_have_no_gradient_and_the_dtype_is_kept():
    images, boxes = np.ones((1, 5, 5, 3), jnp.bfloat16), np.float32([[[0.3, 0.4, 3.1, 2.2]]])
    found, gradient = jax.jit(
        jax.value_and_grad(lambda boxes, images: warp(images, boxes, size=4, context=1).astype(jnp.float32).sum())
    )(boxes, images)
    assert found > 0 and not np.any(gradient)
    assert jax.eval_shape(partial(warp, size=4, context=1), images, boxes).dtype == jnp.bfloat16
