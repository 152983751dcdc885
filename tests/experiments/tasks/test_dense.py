"""The place of the image in an input is found, and boxes are clipped to it before suppression."""

import jax
import numpy as np
import pytest

from configs.common import get_config
from experiments.tasks.dense import Detection, clip_to_image, find_image
from input_pipeline.augment import geometry
from input_pipeline.batch import blank, row, stack
from input_pipeline.views import plan_views

CANVAS = (96, 128)


def rows_of(size, count=1, **fields):
    """Return a batch with the views of an image of `size`, and a blank row.

    `fields` update config.eval, except `fit`, which updates config.data.
    """
    config = get_config()
    config.data.update(canvases=(CANVAS,), image_size=CANVAS, fit=fields.pop("fit", "letterbox"))
    config.eval.update(fields)
    views = plan_views(size, config.data, config.eval)
    image = np.zeros((*CANVAS, 3), np.uint8)
    rows = [row(image, {}, 0, size, view.matrix) for view in views if view.canvas == CANVAS]
    assert len(rows) == count
    return stack([*rows, blank(CANVAS, {})])


def padding(top, left, bottom, right):
    return [top, left, CANVAS[0] - bottom, CANVAS[1] - right]


@pytest.mark.parametrize(
    ("size", "fields", "expected"),
    [
        ((96, 128), {}, [padding(0, 0, 0, 0)]),
        ((300, 128), {}, [padding(0, 43, 0, 44)]),  # 41 pixels wide, starts at (128 - 41) // 2
        ((300, 128), dict(flip=True, count=2), [padding(0, 43, 0, 44), padding(0, 44, 0, 43)]),
        ((301, 127), dict(fit="stretch", flip=True, count=2), [padding(0, 0, 0, 0)] * 2),
        ((50, 61), dict(fit="crop"), [padding(23, 33, 23, 34)]),
        # Windows start at 0 and 32 pixels in both directions. The last ones extend beyond the image.
        (
            (100, 150),
            dict(method="window", count=4),
            [padding(0, 0, 0, 0), padding(0, 0, 0, 10), padding(0, 0, 28, 0), padding(0, 0, 28, 10)],
        ),
    ],
)
def test_image_is_found_where_the_view_places_it(size, fields, expected):
    found = np.asarray(jax.jit(find_image)(rows_of(size, **fields)))
    np.testing.assert_array_equal(found, [*expected, [0, 0, *CANVAS]])


def test_rotated_image_has_an_axis_aligned_box():
    turn = geometry.about((64, 48), geometry.rotation(90.0))
    batch = stack([row(np.zeros((*CANVAS, 3), np.uint8), {}, 0, (40, 60), turn @ geometry.translation(34, 28))])
    np.testing.assert_array_equal(jax.jit(find_image)(batch), [[18, 44, 78, 84]])


def test_boxes_are_clipped_to_the_image_in_the_same_order():
    batch = rows_of((300, 128))
    boxes = np.float32([[10.0, 20, 30, 60], [-5, 50, 200, 70], [10, 0, 20, 30], [10, 90, 20, 500]])
    expected = np.array([[10, 43, 30, 60], [0, 50, 96, 70], [10, 43, 20, 43], [10, 84, 20, 84]], np.float32)
    each_class = np.stack([boxes, boxes])[:, :, None].repeat(3, 2)
    clip = jax.jit(lambda batch, *several: [clip_to_image(own, batch) for own in several])
    shared, of_class = map(np.asarray, clip(batch, np.stack([boxes, boxes]), each_class))
    np.testing.assert_array_equal(shared[0], expected)
    np.testing.assert_array_equal(of_class[0, :, 2], expected)
    np.testing.assert_array_equal(shared[1, 3], [10, 90, 20, 128])


class Given(Detection):
    """A detector of one class that returns given boxes and scores."""

    reads = advice = ""

    def loss(self, outputs, batch):
        return {}, {}

    def decode(self, outputs, size):
        return outputs["boxes"], outputs["scores"][..., None]

    def matchable(self, geometry, boxes, size):
        return np.ones(len(boxes), bool)


def test_suppression_compares_boxes_clipped_to_the_image():
    """The second box differs from the first one only in the padding. The third one differs inside the image."""
    task = Given(
        **dict(class_names=("a",), mean=(0.0,) * 3, std=(1.0,) * 3, margin=0, use_difficult=True),
        **dict(score_threshold=0.1, nms_iou=0.5, nms_candidates=10, max_detections=4),
    )
    batch = rows_of((300, 128))  # 43 columns of padding at the left
    boxes = np.float32([[10.0, 40, 50, 63], [10, -60, 50, 63], [10, -60, 50, 90]])
    outputs = {"boxes": np.stack([boxes, boxes]), "scores": np.float32([[0.9, 0.8, 0.7]] * 2)}
    found = jax.tree.map(np.asarray, jax.jit(task.predict)(outputs, batch))
    assert found["boxes"][0][found["valid"][0]].tolist() == [[10, 43, 50, 63], [10, 43, 50, 84]]
    # The blank row has no padding, so there the first two boxes differ.
    assert found["boxes"][1][found["valid"][1]].tolist() == [[10, 40, 50, 63], [10, 0, 50, 63]]
    assert np.isfinite(found["boxes"]).all() and np.isfinite(found["scores"]).all()
