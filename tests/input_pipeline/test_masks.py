"""Cropped masks equal an oracle that stores every pixel of the image for each object."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from input_pipeline import objects
from input_pipeline.augment import geometry, mixtures
from input_pipeline.augment.mixtures import DrawnExample
from input_pipeline.batch import check_batch, stack
from input_pipeline.loader import draw_row
from input_pipeline.masks import Mask, bound, collect, cut_out, find_regions, frame, paint, touch
from input_pipeline.truths import make_truth

STORED, OUTPUT, GRID = (20, 28), (18, 24), (7, 5)


def whole(masks, size):
    """Return the masks in an image of `size`, [N,*size] bool, including pixels outside their boxes."""
    return np.array([paint(mask, (slice(0, size[0]), slice(0, size[1]))) for mask in masks], bool).reshape(-1, *size)


# The masks of the oracle contain all pixels of an image.


def draw_blobs(rng, count, size=STORED):
    """Draw ellipses. Some have holes, and none is empty."""
    y, x = np.mgrid[: size[0], : size[1]]
    drawn = []
    while len(drawn) < count:
        centre, radii = rng.uniform((0, 0), size), rng.uniform(1.5, 8, 2)
        mask = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
        mask &= rng.random(size) < rng.choice([1.0, 1.0, 0.5])
        drawn += [mask] if mask.any() else []
    return np.array(drawn).reshape(-1, *size)


def crop(masks):
    """Return the masks [N,H,W] in the format of sources."""
    cropped = []
    for mask in masks:
        top, left, bottom, right = bound(mask)
        cropped.append(Mask(mask[top:bottom, left:right], (top, left)))
    return collect(cropped)


def follow_wholly(masks, matrix, window, size):
    part, matrix = geometry.cut(window, masks.shape[1:], matrix)
    followed = [geometry.warp_label(mask[part], matrix, size, fill=0) for mask in masks]
    return np.array(followed, bool).reshape(-1, *size)


def make_mosaic_wholly(quadrants):
    down, right = quadrants[0].shape[1:]
    size = down + quadrants[3].shape[1], right + quadrants[3].shape[2]
    corners = ((0, 0), (0, right), (down, 0), (down, right))
    every = []
    for masks, (row, column) in zip(quadrants, corners, strict=True):
        moved = np.zeros((len(masks), *size), bool)
        moved[:, row : row + masks.shape[1], column : column + masks.shape[2]] = masks
        every.append(moved)
    return np.concatenate(every)


def paste_wholly(boxes, masks, donors, chosen, least):
    """Return the objects below that stay [N] bool, their boxes, all masks that stay, and the donors that stay [D] bool."""
    chosen = chosen & donors.any((1, 2))
    cover = donors[chosen].any(0)
    after = masks & ~cover
    changed, rest = (after != masks).any((1, 2)), after.sum((1, 2))
    kept = ~changed | ((rest > 0) & (rest >= least * masks.sum((1, 2))))
    boxes = [bound(mask) if edged else box for box, mask, edged in zip(boxes, after, changed & kept, strict=True)]
    return kept, np.reshape(boxes, (-1, 4)), np.concatenate([after[kept], donors[chosen]]), chosen


def to_grid(box):
    top, left, bottom, right = box
    scale = geometry.scaling(GRID[1] / (right - left), GRID[0] / (bottom - top))
    return scale @ geometry.translation(-left, -top)


number = st.floats(-8, 8).map(lambda value: round(value, 3))
zoom = st.floats(0.3, 3).map(lambda value: round(value, 3)) | st.floats(-3, -0.3).map(lambda value: round(value, 3))
maps = st.builds(
    lambda x, y, angle, right, down: geometry.about(
        (14, 10), geometry.translation(right, down) @ geometry.rotation(angle) @ geometry.scaling(x, y)
    ),
    *(zoom, zoom, st.sampled_from([0.0, 0.0, 90.0, 17.0, -140.0]), number, number),
)
windows = st.sampled_from([(0, 0, *STORED), (3, 5, 16, 20), (-6, -4, 30, 40), (-3, 9, 12, 50)])
seeds = st.integers(0, 2**31)


def draw_example(seed, count, matrix, window, size):
    """Draw objects and map them as the pipeline does. Return them with the oracle's masks before and after the map."""
    rng = np.random.default_rng(seed)
    stored = draw_blobs(rng, count)
    fields = {"boxes": np.array([bound(mask) for mask in stored], np.float64).reshape(-1, 4), "area": np.zeros(count)}
    fields |= {name: np.zeros(count, dtype) for name, dtype in (("crowd", bool), ("difficult", bool))}
    made = fields | {"classes": np.arange(count, dtype=np.int32), "masks": crop(stored)}
    followed = objects.follow(made, matrix, window, size)
    kept = followed["classes"]
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    drawn = DrawnExample(image, followed, STORED, matrix)
    return drawn, stored[kept], follow_wholly(stored, matrix, window, size)[kept]


@given(seeds, maps, windows)
def test_masks_have_the_pixels_of_full_size_masks(seed, matrix, window):
    drawn, _, expected = draw_example(seed, 4, matrix, window, OUTPUT)
    np.testing.assert_array_equal(whole(drawn.objects["masks"], OUTPUT), expected)
    for mask, box, pixels in zip(drawn.objects["masks"], drawn.objects["boxes"], expected, strict=True):
        part = touch(box, OUTPUT)
        rest = pixels.copy()
        rest[part] = False
        np.testing.assert_array_equal(paint(mask, part), pixels[part])
        assert not rest.any(), "the box contains all pixels"


@given(seeds, maps)
def test_mask_over_its_box_is_sampled_once(seed, matrix):
    """The stored pixels are sampled. The result may differ from the full-size mask only near the edge of the mask."""
    drawn, stored, pictured = draw_example(seed, 4, matrix, (0, 0, *STORED), OUTPUT)
    row = objects.pad(drawn.objects, 6, GRID)
    np.testing.assert_array_equal(row["masks"][len(stored) :], 0)
    reach = (
        int(np.ceil(np.abs(np.linalg.inv(matrix)[:2, :2]).sum(1).max() / 2)) + 1
    )  # stored pixels per half pixel here
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    for mask, box, before, picture in zip(row["masks"], drawn.objects["boxes"], stored, pictured, strict=False):
        place = to_grid(box)
        np.testing.assert_array_equal(mask, geometry.warp_label(before, place @ matrix, GRID, fill=0))
        again = geometry.warp_label(picture, place, GRID, fill=0)
        padded = np.pad(before.astype(np.uint8), reach)
        edge = cv2.dilate(padded, kernel) != cv2.erode(padded, kernel)
        edge = geometry.warp_label(edge, place @ matrix @ geometry.translation(-reach, -reach), GRID, fill=0)
        assert not ((mask != again) & ~edge).any()


@settings(max_examples=50)
@given(seeds, st.lists(maps, min_size=5, max_size=5), windows, st.booleans(), st.sampled_from([0.0, 0.1, 0.6]))
def test_mixtures_equal_those_of_full_size_masks(seed, matrices, window, stitch, least):
    """The image is a mosaic or one example. Objects of a second example are pasted, and a third example is mixed in."""
    quadrants = [(8, 10), (8, 14), (10, 10), (10, 14)] if stitch else [OUTPUT]
    parts = [draw_example(seed + i, 4, matrices[i], window, size) for i, size in enumerate(quadrants)]
    below = mixtures.mosaic([part for part, _, _ in parts]) if stitch else parts[0][0]
    masks = make_mosaic_wholly([after for _, _, after in parts]) if stitch else parts[0][2]
    donor, _, donors = draw_example(seed + 4, 4, matrices[4], (0, 0, *STORED), OUTPUT)
    chosen = np.random.default_rng(seed).random(len(donors)) < 0.7
    pasted = mixtures.copy_paste(below, donor, chosen, least)
    kept, boxes, expected, stay = paste_wholly(below.objects["boxes"], masks, donors, chosen, least)
    np.testing.assert_array_equal(pasted.objects["boxes"], np.concatenate([boxes[kept], donor.objects["boxes"][stay]]))
    np.testing.assert_array_equal(whole(pasted.objects["masks"], OUTPUT) & inside(pasted.objects["boxes"]), expected)
    cover = donors[stay].any(0)
    np.testing.assert_array_equal(pasted.image, np.where(cover[..., None], donor.image, below.image))
    # Over the boxes, the pixels of the cover hide the objects below.
    row = objects.pad(pasted.objects, 40, GRID)
    for mask, box, unhidden in zip(row["masks"][: kept.sum()], boxes[kept], below.objects["masks"][kept], strict=True):
        hidden = geometry.warp_label(cover, to_grid(box), GRID, fill=0)
        np.testing.assert_array_equal(mask, frame(unhidden, box, GRID) & ~hidden)
    mixed = objects.pad(mixtures.mixup(pasted, below, 0.5).objects, 80, GRID)
    count = len(pasted.objects["boxes"])
    np.testing.assert_array_equal(mixed["masks"][:count], row["masks"][:count])
    every = objects.pad(below.objects, 40, GRID)["masks"][: len(masks)]
    np.testing.assert_array_equal(mixed["masks"][count : count + len(masks)], every)


def inside(boxes):
    """Return the pixels [N,*OUTPUT] bool that each box touches.

    It is needed because in a mosaic a mask's matrix reaches beyond its quadrant.
    """
    y, x = np.mgrid[: OUTPUT[0], : OUTPUT[1]]
    top, left, bottom, right = boxes.T[..., None, None]
    return (y + 1 > top) & (y < bottom) & (x + 1 > left) & (x < right)


def test_moved_mask_keeps_its_covers():
    pixels, cover = np.ones((4, 4), bool), np.zeros((8, 8), bool)
    cover[3:] = True
    (moved,) = mixtures._move(
        {"boxes": np.zeros((1, 4)), "masks": collect([Mask(pixels, (2, 2), covers=(Mask(cover),))])}, (5, 1)
    )["masks"]
    expected = np.zeros((12, 12), bool)
    expected[7, 3:7] = True
    np.testing.assert_array_equal(whole([moved], (12, 12)), [expected])


def test_id_map_is_divided_into_its_objects():
    ids = np.array([[0, 7, 7, 0], [300, 0, 7, 0], [300, 0, 0, 2]], np.uint16)
    numbers, boxes, counts = find_regions(ids)
    assert numbers.tolist() == [2, 7, 300] and counts.tolist() == [1, 3, 2]
    assert boxes.tolist() == [[2, 3, 3, 4], [0, 1, 2, 3], [1, 0, 3, 1]]
    masks = cut_out(ids, numbers[1:], boxes[1:])
    np.testing.assert_array_equal(whole(masks, ids.shape), [ids == value for value in (7, 300)])
    numbers, boxes, counts = find_regions(np.zeros((3, 4), np.uint8))
    assert len(numbers) == len(counts) == len(cut_out(ids, numbers, boxes)) == 0 and boxes.shape == (0, 4)


# In a batch


class Cells:
    """One image of many small objects."""

    class_names = ("cell",)

    def __init__(self, size, count, radius=4):
        self.size, rng = size, np.random.default_rng(0)
        y, x = np.mgrid[: 2 * radius, : 2 * radius] + 0.5 - radius
        corners = rng.integers(0, np.subtract(size, 2 * radius), (count, 2))
        self.boxes = np.concatenate([corners, corners + 2 * radius], 1).astype(np.float64)
        pixels = (x**2 + y**2 <= radius**2) & (x < y + 2)
        self.masks = collect(Mask(pixels, tuple(corner)) for corner in corners.tolist())

    def __len__(self):
        return 1

    def __getitem__(self, index):
        none = np.zeros(len(self.boxes), bool)
        flags = {"crowd": none, "difficult": none, "area": none.astype(np.float64), "classes": none.astype(np.int32)}
        image = np.full((*self.size, 3), 99, np.uint8)
        return {"image": image, "boxes": self.boxes, "masks": self.masks} | flags


def make_masks(size, rows, **augment):
    data = get_config().data
    data.update(image_size=size, max_boxes=rows, mask_size=GRID)
    data.augment.update(augment)
    return data, make_truth(("boxes", "masks"), data)


def test_batch_contains_masks_over_the_boxes():
    data, truth = make_masks((40, 60), 8, flip=0.0)
    source = Cells((40, 60), 3)
    rows = [draw_row(source, truth, 0, data.augment, np.random.default_rng(0)) for _ in range(2)]
    batch = stack([*rows, rows[0] | truth.blank((40, 60))])
    assert "masks" in truth.source_keys and "masks" in truth.keys
    check_batch(batch, truth.keys)
    pixels = source.masks[0].pixels
    expected = geometry.warp_label(pixels, geometry.scaling(GRID[1] / 8, GRID[0] / 8), GRID)
    np.testing.assert_array_equal(batch["masks"][:2, :3], np.tile(expected, (2, 3, 1, 1)))
    assert not batch["masks"][:, 3:].any() and not batch["masks"][2].any() and 0 < expected.mean() < 1


@pytest.mark.parametrize("angle", [0.0, 20.0])
def test_mirrored_image_mirrors_its_masks(angle):
    _, truth = make_masks((40, 60), 8)
    example, canvas = Cells((40, 60), 5)[0], (50, 70)
    matrix = geometry.about((31.3, 22.7), geometry.rotation(angle)) @ geometry.translation(3.3, 2.1)
    mirror = geometry.about((canvas[1] / 2, canvas[0] / 2), geometry.scaling(-1.0, 1.0))
    plain, mirrored = truth.view(example, matrix, canvas), truth.view(example, mirror @ matrix, canvas)
    np.testing.assert_allclose(mirrored["boxes"][:5, 1], canvas[1] - plain["boxes"][:5, 3], rtol=1e-6)
    np.testing.assert_array_equal(mirrored["masks"], plain["masks"][..., ::-1])
    assert (plain["masks"] != mirrored["masks"]).any()
    data, truth = make_masks((40, 60), 8, flip=1.0)
    flipped = draw_row(Cells((40, 60), 5), truth, 0, data.augment, np.random.default_rng(0))
    data.augment.flip = 0.0
    plain = draw_row(Cells((40, 60), 5), truth, 0, data.augment, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped["masks"], plain["masks"][..., ::-1])


def test_hundreds_of_masks_need_only_the_memory_of_their_objects():
    """The full-size pixels of 400 masks would take 48 MB, and a copy another 48 MB."""
    data, truth = make_masks((300, 400), 400, rotation=10.0, copy_paste=1.0)
    source = Cells((300, 400), 400)
    tracemalloc.start()
    try:
        row = draw_row(source, truth, 0, data.augment, np.random.default_rng(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert row["masks"][row["valid"]].any((1, 2)).mean() > 0.9 and row["valid"].sum() > 300
    assert peak < 12e6
