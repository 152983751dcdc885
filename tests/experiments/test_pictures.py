"""The palette can be told apart, masks come back exactly, and pictures show what they are given."""

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from experiments import pictures
from experiments.pictures import (
    IGNORE,
    colour_mask,
    comparison,
    confusion_matrix,
    overlay,
    palette,
    write_mask,
    write_png,
)

RNG = np.random.default_rng(0)


def lab(colours):
    """CIELAB of [N,3] sRGB, D65: another measure of distance than the one that made the palette."""
    value = np.asarray(colours) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    ratio = xyz / [0.9505, 1.0, 1.089]
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / 3 / (6 / 29) ** 2 + 4 / 29)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], -1)


def closest_pair(points):
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    return distances[~np.eye(len(points), dtype=bool)].min()


def test_the_palette_is_fixed():
    # Golden: a class keeps its colour from one version to the next.
    assert palette()[:10].tolist() == [
        [0, 114, 178], [230, 159, 0], [0, 158, 115], [213, 94, 0], [86, 180, 233], [204, 121, 167], [240, 228, 66],
        [93, 0, 23], [0, 0, 139], [116, 0, 255],
    ]  # fmt: skip
    assert palette().shape == (256, 3) and palette().dtype == np.uint8
    with pytest.raises(ValueError):
        palette()[0] = 0  # every caller shares it


# In just noticeable differences, 2.3 in CIELAB. Floors below what the palette has (11.5, 8.3, 3.1 and 2.6), so that a
# change that makes it worse is seen; they are no claim of comfort: beyond some 20 classes colours alone do not do.
@pytest.mark.parametrize(("classes", "least"), [(7, 11), (21, 8), (81, 3), (255, 2.5)])
def test_colours_are_told_apart(classes, least):
    assert len(np.unique(palette(), axis=0)) == 256
    assert closest_pair(lab(palette()[:classes])) > 2.3 * least
    assert np.linalg.norm(lab(palette()[:classes]) - lab(palette()[IGNORE:]), axis=-1).min() > 8


@pytest.mark.parametrize("cones", [pictures.PROTANOPIA, pictures.DEUTERANOPIA])
def test_colours_are_told_apart_without_red_or_green_cones(cones):
    np.testing.assert_allclose(np.sum(cones, axis=1), 1, atol=1e-4)  # greys look as they are
    linear = (palette()[:21] / 255) ** 2.2 @ np.transpose(cones)
    assert closest_pair(lab(255 * np.clip(linear, 0, 1) ** (1 / 2.2))) > 8


def test_a_mask_comes_back_with_its_indices_and_shows_its_colours(tmp_path):
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "new" / "mask.png", label)
    with Image.open(tmp_path / "new" / "mask.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), label)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette()[label])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_a_png_is_exact(tmp_path, shape):
    picture = RNG.integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "picture.png", picture)
    with Image.open(tmp_path / "picture.png") as back:
        np.testing.assert_array_equal(np.asarray(back), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="picture.png: cannot be written"):
        write_png(tmp_path / "file" / "picture.png", np.zeros((2, 2), np.uint8))


def test_pixels_without_a_class_are_hatched_in_grey():
    label = np.full((16, 16), IGNORE, np.uint8)
    label[0, 0] = 3
    colours = colour_mask(label)
    np.testing.assert_array_equal(colours[0, 0], palette()[3])
    assert {tuple(colour) for colour in colours.reshape(-1, 3)[1:].tolist()} == set(pictures.HATCH)


def test_an_overlay_mixes_the_colour_with_the_grey_image_and_draws_borders_in_full():
    image = np.full((6, 6, 3), 100, np.uint8)
    label = np.zeros((6, 6), np.uint8)
    label[:, 3:] = 1
    drawn = overlay(image, label)
    mixed = (0.6 * palette()[:2] + 0.4 * 100).round()
    np.testing.assert_array_equal(drawn[:, 0], np.tile(mixed[0], (6, 1)))
    np.testing.assert_array_equal(drawn[:, 5], np.tile(mixed[1], (6, 1)))
    np.testing.assert_array_equal(drawn[:, 2], np.tile(palette()[0], (6, 1)))


@pytest.mark.parametrize(("count", "height", "width"), [(1, 512, 384), (2, 64, 96), (5, 200, 200)])
def test_a_comparison_shows_every_image_truth_and_prediction(count, height, width):
    images = RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    images[:] = images[:, :1, :1]  # one colour each: enlarging keeps it
    labels = np.zeros((count, height, width), np.uint8)
    predictions = np.ones_like(labels)
    drawn = comparison(images, labels, predictions, ["ground", "figure", "absent"])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    factor = max(1, -(-pictures.SMALLEST_TILE // min(height, width)))
    for image in images:
        mixed = [overlay(image[:1, :1], np.full((1, 1), index, np.uint8))[0, 0] for index in (0, 1)]
        for colour in (image[0, 0], *mixed):
            assert (drawn == colour).all(-1).sum() >= height * width * factor**2
    for index, shown in ((0, True), (1, True), (2, False)):  # the legend holds the classes that occur
        assert (drawn == palette()[index]).all(-1).any() == shown


def test_a_comparison_has_a_legend_of_any_length():
    label = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64) % 151
    label[label == 150] = IGNORE
    names = [f"a class with a long name, number {index}" for index in range(150)]
    short, long = (
        comparison(np.zeros((1, 64, 64, 3), np.uint8), shown, shown, names)
        for shown in (np.zeros((1, 64, 64), np.uint8), label.astype(np.uint8))
    )
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 50 * 15


def shares(drawn, colour):
    return (drawn == np.array(colour, np.uint8)).all(-1)


def corner(drawn, colour, cell):
    """The top left corner (y, x) of the first cell of this colour."""
    runs = np.lib.stride_tricks.sliding_window_view(shares(drawn, colour), cell, axis=1).all(-1)
    return np.argwhere(runs)[0]


def test_a_confusion_matrix_shows_each_row_in_percent_of_its_class():
    # Three quarters of class a are called c, all of b is found; c is not in the truth.
    drawn = confusion_matrix(np.array([[10, 0, 30], [0, 10**12, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    top, left = corner(drawn, pictures._shade(0.25), 96)
    assert corner(drawn, pictures._shade(0.75), 96).tolist() == [top, left + 2 * 96]
    assert corner(drawn, pictures._shade(1), 96).tolist() == [top + 96, left + 96]
    assert (drawn[top : top + 96, left + 96 : left + 2 * 96] == 255).all()  # no pixel, no number
    row = drawn[top + 2 * 96 : top + 3 * 96, left : left + 3 * 96]
    np.testing.assert_array_equal(row, colour_mask(np.full((96, 3 * 96), IGNORE, np.uint8)))
    fewer = confusion_matrix(np.array([[1, 0, 3], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    np.testing.assert_array_equal(drawn, fewer)


@pytest.mark.parametrize("count", [2, 11, 40, 41, 151])
def test_a_confusion_matrix_is_readable_for_any_number_of_classes(count):
    drawn = confusion_matrix(np.eye(count, dtype=np.int64), [f"class number {index}" for index in range(count)])
    cell = min(96, max(34, 640 // count)) if count <= 40 else 14
    top, left = corner(drawn, pictures._shade(1.0), cell)
    for row, column in ((0, 0), (count - 1, count - 1), (0, count - 1)):
        y, x = top + row * cell, left + column * cell
        inside = drawn[y : y + cell, x : x + cell]
        if row != column:
            assert (inside == 255).all()
            continue
        # White numbers stand in the dark cells, where there are any.
        assert shares(inside, pictures._shade(1.0)).sum() > 0.5 * cell**2
        assert shares(inside, (255, 255, 255)).any() == (count <= pictures.MOST_NUMBERED_CLASSES)


def test_an_empty_confusion_matrix_is_hatched_all_over():
    drawn = confusion_matrix(np.zeros((4, 4), np.int64), ["a", "b", "c", "d"])
    assert sum(shares(drawn, stripe).sum() for stripe in pictures.HATCH) > (4 * 96) ** 2


def test_the_shades_are_told_apart_in_grey_and_their_numbers_are_legible():
    parts = np.linspace(0, 1, 101)
    lightness = lab(np.array([pictures._shade(part) for part in parts]))[:, 0]
    assert (np.diff(lightness) < 0).all()  # darker is more
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    contrast = np.where(parts < pictures.LIGHT, (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05))
    assert contrast.min() > 4.4  # the web's guidelines want 4.5 of small text, 3 of large
