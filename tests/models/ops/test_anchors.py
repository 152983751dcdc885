"""Anchors have the number, places, sizes and order of the papers."""

import math

import numpy as np
import pytest

from models.ops import anchors

GRIDS = tuple((n, n) for n in (38, 19, 10, 5, 3, 1))
SIZES = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


def centres(boxes):
    """Return (cy, cx, h, w) in float64."""
    boxes = boxes.astype(float)
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def test_ssd300_has_8732_default_boxes():
    boxes = anchors.default_boxes((300, 300), GRIDS, SIZES, RATIOS)
    assert boxes.shape == (8732, 4) and boxes.dtype == np.float32
    assert 8732 == 4 * 38**2 + 6 * 19**2 + 6 * 10**2 + 6 * 5**2 + 4 * 3**2 + 4 * 1**2
    first, last = centres(boxes[:4]), centres(boxes[-4:])
    # The first cell's centre is half of 300 / 38 pixels from the corner. The shapes are squares of 30 px and
    # sqrt(30 * 60) px, then 30 px at the ratios 2 and 1/2.
    middle, root = 150 / 38, math.sqrt(2)
    shapes = [(30, 30), (math.sqrt(1800),) * 2, (30 / root, 30 * root), (30 * root, 30 / root)]
    np.testing.assert_allclose(first, [(middle, middle, *shape) for shape in shapes], rtol=1e-5)
    shapes = [(270, 270), (math.sqrt(270 * 322.5),) * 2, (270 / root, 270 * root), (270 * root, 270 / root)]
    np.testing.assert_allclose(last, [(150, 150, *shape) for shape in shapes], rtol=1e-5)
    # Boxes are not clipped, so the corner's box extends beyond the image.
    np.testing.assert_allclose(boxes[0], (middle - 15, middle - 15, middle + 15, middle + 15), rtol=1e-5)


def test_default_boxes_are_ordered_by_level_row_column_and_shape():
    image, grids = (100, 200), ((2, 4), (1, 2))
    boxes = centres(anchors.default_boxes(image, grids, (0.2, 0.5, 0.8), ((2,), (2, 3))))
    expected = []
    for (rows, columns), scale, extra, ratios in zip(
        grids, (0.2, 0.5), (0.2 * 0.5, 0.5 * 0.8), ((1, 2, 1 / 2), (1, 2, 1 / 2, 3, 1 / 3)), strict=True
    ):
        for i in range(rows):
            for j in range(columns):
                shapes = [(scale / r**0.5, scale * r**0.5) for r in ratios]
                shapes.insert(1, (extra**0.5, extra**0.5))
                middle = (i + 0.5) / rows * 100, (j + 0.5) / columns * 200
                expected += [(*middle, h * 100, w * 200) for h, w in shapes]
    np.testing.assert_allclose(boxes, expected, rtol=1e-5)


def test_level_without_a_size_raises_an_error():
    with pytest.raises(ValueError):
        anchors.default_boxes((300, 300), GRIDS, SIZES[:-1], RATIOS)


def test_steps_place_the_centres_and_within_limits_the_sides():
    image, grids, sizes = (100, 200), ((2, 4), (1, 2)), (0.2, 0.9, 1.2)
    fixed = dict(steps=(40.0, 110.0))
    boxes = centres(anchors.default_boxes(image, grids, sizes, ((), (2,)), **fixed))
    middles = [(40 * (i + 0.5), 40 * (j + 0.5)) for i in range(2) for j in range(4)]
    middles = np.repeat([*middles, (55, 55), (55, 165)], [2] * 8 + [4] * 2, axis=0)
    np.testing.assert_allclose(boxes[:, :2], middles, rtol=1e-5)
    free = centres(anchors.default_boxes(image, grids, sizes, ((), (2,))))
    np.testing.assert_allclose(boxes[:, 2:], free[:, 2:], rtol=1e-5)
    cut = centres(anchors.default_boxes(image, grids, sizes, ((), (2,)), within=True, **fixed))
    np.testing.assert_allclose(cut[:, :2], middles, rtol=1e-5)
    np.testing.assert_allclose(cut[:, 2:], np.minimum(free[:, 2:], image), rtol=1e-5)
    assert (cut[:, 2:] < free[:, 2:] - 1).sum() == 2 * 4, "both sides of the extra square, and one side of each ratio"


def test_cells_tile_the_image():
    cells = anchors.cells((448, 224), (7, 7))
    assert cells.shape == (7, 7, 4) and cells.dtype == np.float32
    np.testing.assert_array_equal(cells[0, 0], (0, 0, 64, 32))
    np.testing.assert_array_equal(cells[2, 5], (128, 160, 192, 192))
    # Neighbours share their edges exactly, even if a cell is not a whole number of pixels.
    cells = anchors.cells((100, 200), (3, 7))
    np.testing.assert_array_equal(cells[1:, :, 0], cells[:-1, :, 2])
    np.testing.assert_array_equal(cells[:, 1:, 1], cells[:, :-1, 3])
    np.testing.assert_array_equal(cells[-1, -1, 2:], (100, 200))


def test_pyramid_has_the_anchors_of_retinanet():
    strides = (8, 16, 32, 64, 128)
    levels = anchors.pyramid((512, 640), strides, 4.0, 3, (0.5, 1.0, 2.0))
    assert [boxes.shape for boxes in levels] == [(512 // s, 640 // s, 9, 4) for s in strides]
    for boxes, stride in zip(levels, strides, strict=True):
        shapes = centres(boxes)[0, 0].reshape(3, 3, 4)  # octave, ratio
        # The areas are 32^2 to 512^2 on the levels, times 2^(2 octave / 3), at every ratio.
        sides = 4 * stride * 2 ** (np.arange(3) / 3)
        np.testing.assert_allclose(shapes[..., 2] * shapes[..., 3], np.tile(sides[:, None] ** 2, 3), rtol=1e-4)
        np.testing.assert_allclose(shapes[..., 3] / shapes[..., 2], np.tile((0.5, 1, 2), (3, 1)), rtol=1e-4)
        np.testing.assert_allclose(shapes[..., :2], stride / 2, atol=1e-3)
    np.testing.assert_array_equal(levels[0][0, 0, 1], (-12, -12, 20, 20))  # 32 px around (4, 4)
    np.testing.assert_allclose(centres(levels[0][1, 1, 1]), (12, 12, 32, 32), atol=1e-5)  # second row and column


def test_levels_cover_a_side_that_is_not_a_multiple_of_the_stride():
    (boxes,) = anchors.pyramid((100, 33), (32,), 1.0, 1, (1.0,))
    assert boxes.shape == (4, 2, 1, 4)
    for i, j in np.ndindex(4, 2):
        np.testing.assert_array_equal(boxes[i, j], [(32 * i, 32 * j, 32 * i + 32, 32 * j + 32)])


RATIOS_OF_TORCHVISION = (2.0, 1.0, 0.5)  # width / height; torchvision has 0.5, 1 and 2 as height / width
CANVASES = [(800, 1344), (64, 96), (77, 130), (33, 640), (1, 5)]


def test_corner_anchors_equal_known_anchors_of_torchvision():
    """The known anchors are the first of torchvision's generator at 800x1344, as (left, top, right, bottom)."""
    levels = anchors.pyramid((800, 1344), (8, 16, 32, 64, 128), 4.0, 3, RATIOS_OF_TORCHVISION, "corners")
    known = [
        (-23, -11, 23, 11), (-28, -14, 28, 14), (-35, -18, 35, 18), (-16, -16, 16, 16), (-20, -20, 20, 20),
        (-25, -25, 25, 25), (-11, -23, 11, 23), (-14, -28, 14, 28), (-18, -35, 18, 35),
    ]  # fmt: skip
    for anchor, (left, top, right, bottom) in zip(levels[0][0, 0], known, strict=True):
        np.testing.assert_array_equal(anchor, (top, left, bottom, right))
    # Anchors are 800 // 7 and 1344 // 11 pixels apart, not 128. 812 / 2 * sqrt(2) is 574.2.
    assert levels[4].shape == (7, 11, 9, 4)
    np.testing.assert_array_equal(levels[4][3, 5, 2], (3 * 114 - 287, 5 * 122 - 574, 3 * 114 + 287, 5 * 122 + 574))


@pytest.mark.parametrize("size", CANVASES[1:])
def test_corner_anchors_equal_a_loop(size):
    for stride, level in zip(
        (8, 32, 128), anchors.pyramid(size, (8, 32, 128), 2.9, 2, (2.0, 0.7), "corners"), strict=True
    ):
        rows, columns = (math.ceil(side / stride) for side in size)
        assert level.shape == (rows, columns, 4, 4)
        for i, j in np.ndindex(rows, columns):
            middle, k = np.array((i * (size[0] // rows), j * (size[1] // columns))), 0
            for ratio in (2.0, 0.7):
                for octave in (1.0, 2**0.5):
                    side = int(2.9 * stride * octave)
                    half = np.array([round(side / ratio**0.5 / 2), round(side * ratio**0.5 / 2)])
                    np.testing.assert_array_equal(level[i, j, k], [*(middle - half), *(middle + half)])
                    k += 1


@pytest.mark.parametrize("size", CANVASES)
def test_pyramids_equal_torchvision(size):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.models.detection", reason="compares with torchvision's anchors")

    strides = (8, 16, 32, 64, 128)
    retinanet = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in (32, 64, 128, 256, 512))
    fcos = tuple((stride,) for stride in strides)
    images = theirs.image_list.ImageList(torch.zeros(1, 3, *size), [size])
    maps = [torch.zeros(1, 1, *(math.ceil(side / stride) for side in size)) for stride in strides]
    for sizes, ratios, fields in (
        (retinanet, (0.5, 1.0, 2.0), (4.0, 3, RATIOS_OF_TORCHVISION)),
        (fcos, (1.0,), (1.0, 1, (1.0,))),
    ):
        (expected,) = theirs.anchor_utils.AnchorGenerator(sizes, (ratios,) * 5)(images, maps)
        ours = np.concatenate([x.reshape(-1, 4) for x in anchors.pyramid(size, strides, *fields, "corners")])
        np.testing.assert_array_equal(ours, expected.numpy()[:, [1, 0, 3, 2]])


def test_locations_are_the_centres_or_corners_of_the_cells():
    """FCOS has locations at floor(stride / 2) + i * stride (Tian et al. 2019, section 3.1).

    torchvision has them at the corners of the cells.
    """
    for placement, start in (("centres", 0.5), ("corners", 0.0)):
        for stride, level in zip((8, 16), anchors.pyramid((64, 96), (8, 16), 1.0, 1, (1.0,), placement), strict=True):
            assert level.shape == (64 // stride, 96 // stride, 1, 4)
            for i, j in np.ndindex(level.shape[:2]):
                y, x = (i + start) * stride, (j + start) * stride
                np.testing.assert_array_equal(centres(level)[i, j, 0], (y, x, stride, stride))
