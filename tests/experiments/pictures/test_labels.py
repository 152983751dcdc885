"""Pictures of label maps have a grey background, outlines of objects, and the aspect ratio of each image."""

import tracemalloc

import numpy as np
import pytest

from experiments.pictures import labels as pictures
from experiments.pictures.labels import compare_labels, draw_tiles, measure_outline, overlay, turn_grey
from experiments.pictures.pairs import TILE
from experiments.pictures.palette import choose_ink, luminance, palette
from input_pipeline.batch import IGNORE
from tests.experiments.pictures.colours import shares

RNG = np.random.default_rng(0)


def test_overlay_mixes_colours_with_the_grey_image_and_draws_borders():
    image = np.full((8, 8, 3), 100, np.uint8)
    label = np.zeros((8, 8), np.uint8)
    label[:, 4:] = 1
    drawn = overlay(image, label)
    mixed = (0.6 * palette()[:2] + 0.4 * 100).round()
    for column, colour in ((0, mixed[0]), (2, mixed[0]), (3, palette()[0]), (4, palette()[1]), (5, mixed[1])):
        np.testing.assert_array_equal(drawn[:, column], np.tile(colour, (8, 1)))


def disc(side=120, radius=40):
    y, x = np.mgrid[:side, :side]
    return np.hypot(y - side / 2, x - side / 2) < radius


@pytest.mark.parametrize("background", [0, 1])
def test_the_background_is_the_grey_image(background):
    image, inside = RNG.integers(0, 256, (120, 120, 3), dtype=np.uint8), disc()
    label = np.where(inside, 1 - background, background).astype(np.uint8)
    drawn = overlay(image, label, background)
    changed = (drawn != turn_grey(image)).any(-1)
    assert changed[inside].all()
    assert not changed[~disc(radius=42)].any(), "except the pixels of the outline"
    assert (drawn[~inside].max(-1) == drawn[~inside].min(-1)).all(), "the background and the outline have no tint"


@pytest.mark.parametrize("level", [0, 15, 128, 240, 255])
@pytest.mark.parametrize("index", [1, 2, 6, 8])
def test_outlines_are_visible_on_dark_and_bright_images(level, index):
    """The outline is a line in the class's colour and a line of ink. One of both contrasts with any image."""
    inside, image = disc(), np.full((120, 120, 3), level, np.uint8)
    drawn = overlay(image, np.where(inside, index, 0).astype(np.uint8), 0)
    colour, line = drawn[60, 21], drawn[60, 19 if drawn[60, 20].tolist() == palette()[index].tolist() else 20]
    assert colour.tolist() == palette()[index].tolist()
    assert line.tolist() == [0 if choose_ink(colour) == "black" else 255] * 3
    light = [luminance(own) + 0.05 for own in (np.full(3, level), colour, line)]
    contrasts = [max(own, light[0]) / min(own, light[0]) for own in light[1:]]
    assert max(contrasts) > 3, "web guidelines require a contrast of 3"
    ring = shares(drawn, palette()[index])
    assert ring.sum() > 200 and not ring[60, 30:90].any()


def test_unlabelled_border_draws_no_line_into_the_background():
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = IGNORE
    image = np.full((40, 40, 3), 90, np.uint8)
    drawn = overlay(image, label, 0)
    assert (drawn[label == 0] == 90).all() and (drawn[10, 10:30] != 90).all()


@pytest.mark.parametrize(("size", "width"), [((40, 60), 1), ((300, 700), 1), ((1000, 400), 2), ((4000, 6000), 3)])
def test_outlines_are_thicker_in_larger_images(size, width):
    assert measure_outline(size) == width


def test_bands_of_rows_give_the_same_picture(monkeypatch):
    """This holds for any height of a band, including outlines that cross its ends."""
    label = np.kron(RNG.integers(0, 4, (12, 9)), np.ones((97, 11))).astype(np.uint8)  # outlines of 2 pixels
    label[label == 3] = IGNORE
    image = RNG.integers(0, 256, (*label.shape, 3), dtype=np.uint8)
    monkeypatch.setattr(pictures, "ROWS", len(label))
    whole = overlay(image, label, 0)
    for rows in (8, 96, 256):  # whole periods of the hatching
        monkeypatch.setattr(pictures, "ROWS", rows)
        np.testing.assert_array_equal(overlay(image, label, 0), whole)


def test_large_image_needs_little_more_memory_than_its_picture():
    image, label = np.zeros((6000, 2000, 3), np.uint8), np.zeros((6000, 2000), np.uint8)
    label[::50] = 1
    tracemalloc.start()
    drawn = overlay(image, label, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < drawn.nbytes + 150e6


@pytest.mark.parametrize("size", [(512, 384), (64, 96), (30, 300), (300, 12), (1, 1), (900, 1000)])
def test_tiles_keep_the_aspect_ratio_of_the_image(size):
    image = np.full((*size, 3), 90, np.uint8)
    label = np.zeros(size, np.uint8)
    tiles = draw_tiles(image, [label, label], ["a", "b"], 100)
    assert {tile.shape for tile in tiles} == {(*(max(1, round(100 * side / max(size))) for side in size), 3)}
    assert (tiles[0] == 90).all(), "only the image"


@pytest.mark.parametrize("count", [1, 4, 5])
def test_comparison_keeps_the_aspect_ratio_of_every_image(count):
    sizes = [(64, 96), (200, 50), (448, 448), (30, 300), (1000, 900)][:count]
    images = [np.full((*size, 3), (30, 100 + 20 * index, 200), np.uint8) for index, size in enumerate(sizes)]
    labels = [np.full(size, index, np.uint8) for index, size in enumerate(sizes)]
    predictions = [np.full(size, 5, np.uint8) for size in sizes]
    drawn = compare_labels(images, labels, predictions, ["a", "b", "c", "d", "e", "f", "absent"])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    for index, (image, size) in enumerate(zip(images, sizes, strict=True)):
        height, width = (round(side * TILE / max(size)) for side in size)
        y, x = np.nonzero(shares(drawn, image[0, 0]))
        assert (np.ptp(y) + 1, np.ptp(x) + 1) == (height, width) and len(y) == height * width
        for place, own in enumerate((index, 5), start=1):  # the same place, one and two tiles to the right
            tile = drawn[y[0] : y[0] + height, x[0] + place * (TILE + 10) :][:, :width]
            np.testing.assert_array_equal(
                tile, np.broadcast_to(overlay(image[:1, :1], np.full((1, 1), own, np.uint8)), tile.shape)
            )
    for index in range(7):  # the legend has only classes that occur
        assert shares(drawn[-40:], palette()[index]).any() == (index < count or index == 5)


def test_the_legend_does_not_colour_the_background():
    label = np.zeros((64, 64), np.uint8)
    label[20:40, 20:40] = 1
    image = np.full((64, 64, 3), 90, np.uint8)
    drawn = compare_labels([image], [label], [label], ["background", "figure"])
    assert not shares(drawn, palette()[0]).any() and shares(drawn[-40:], palette()[1]).any()
    other = compare_labels([image], [label], [label], ["ground", "figure"])
    assert shares(other[-40:], palette()[0]).any() and other.shape == drawn.shape


def test_a_comparison_has_a_legend_of_any_length():
    label = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64) % 151
    label[label == 150] = IGNORE
    names = [f"a class with a long name, number {index}" for index in range(150)]
    short, long = (
        compare_labels(np.zeros((1, 64, 64, 3), np.uint8), shown, shown, names)
        for shown in (np.zeros((1, 64, 64), np.uint8), label.astype(np.uint8))
    )
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 50 * 15
