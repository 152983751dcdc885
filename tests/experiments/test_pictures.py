"""The palette can be told apart, masks come back exactly, and pictures show what they are given."""

import numpy as np
import pytest
from PIL import Image

from experiments import pictures
from experiments.errors import RunError
from experiments.pictures import (
    IGNORE,
    box_comparison,
    class_colour,
    colour_mask,
    comparison,
    confusion_matrix,
    draw_boxes,
    overlay,
    palette,
    precision_recall,
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
    with pytest.raises(RunError, match="picture.png: cannot be written"):
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


GREY = np.full((450, 600, 3), 128, np.uint8)


def drawn_on_grey(*boxes, classes=None, scores=None, names=("cat", "dog", "owl"), dashed=None):
    classes = np.arange(len(boxes)) if classes is None else np.array(classes)
    scores = None if scores is None else np.array(scores, np.float32)
    return draw_boxes(GREY, np.array(boxes, float).reshape(-1, 4), classes, scores, names, dashed)


def test_a_box_is_a_frame_in_its_classs_colour_inside_its_edges():
    drawn = drawn_on_grey((100.2, 150, 300, 449.6), classes=[1])
    assert drawn.shape == GREY.shape and (GREY == 128).all()
    for y, x in ((200, 150), (200, 449), (299, 300), (100, 400), (200, 152), (297, 300)):
        assert drawn[y, x].tolist() == palette()[1].tolist(), (y, x)
    assert (drawn[104:296, 154:446] == 128).all()
    outside = drawn.copy()
    outside[99:302, 149:452] = 128
    outside[70:100, 150:300] = 128  # the name stands on the box
    assert (outside == 128).all()
    assert shares(drawn[70:99, 150:300], palette()[1]).sum() > 200


@pytest.mark.parametrize("index", [0, 5, 6, 8, 40, 79])
def test_names_and_frames_stand_out_on_any_background(index):
    # The name is black or white on the class's colour, and the frame has a border of that ink.
    drawn = drawn_on_grey((100, 100, 300, 300), classes=[index], names=[f"class {k}" for k in range(80)])
    inks = [shares(drawn, ink).sum() for ink in ((0, 0, 0), (255, 255, 255))]
    chosen = int(np.argmax(inks))
    assert inks[chosen] > 800 and inks[1 - chosen] == 0
    luminance = pictures._luminance(palette()[index])
    assert ((luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05))[chosen] > 4.5


def test_a_dashed_frame_is_about_half_there():
    box = (100, 100, 300, 400)
    whole, broken = (
        shares(drawn_on_grey(box, dashed=np.array([flag])), palette()[0])[120:280] for flag in (False, True)
    )
    assert 0.35 * whole.sum() < broken.sum() < 0.65 * whole.sum()
    assert not (broken & ~whole).any()


def test_weak_detections_are_not_drawn_and_the_score_is():
    boxes = (100, 100, 300, 300), (100, 350, 300, 550)
    both = drawn_on_grey(*boxes, scores=[0.9, 0.25])
    first = drawn_on_grey(*boxes, scores=[0.9, 0.2])
    assert shares(both, palette()[1]).any() and not shares(first, palette()[1]).any()
    np.testing.assert_array_equal(first[:, :340], both[:, :340])
    assert (drawn_on_grey(*boxes, scores=[0.8, 0.2]) != first).any()
    np.testing.assert_array_equal(drawn_on_grey(*boxes, scores=[0.1, 0.2]), GREY)


def test_names_hide_no_other_names():
    names = ["one", "two", "three", "four"]
    drawn = drawn_on_grey(*[(200, 200, 300, 330)] * 4, scores=[0.5, 0.9, 0.8, 0.7], names=names)
    alone = drawn_on_grey((200, 200, 300, 330), scores=[0.9], classes=[1], names=names)
    tag = shares(alone, palette()[1])
    tag[200:300] = False
    np.testing.assert_array_equal(drawn[tag], alone[tag])  # the most certain one has the place it has alone
    for index in range(4):  # each is there whole: some as much of its colour
        assert shares(drawn, palette()[index]).sum() > 0.8 * tag.sum()


@pytest.mark.parametrize(
    "box", [(-50, -60, 900, 800), (0, 0, 450, 600), (-9, 560, 12, 640), (449, 599, 450, 600), (5, 5, 5, 5)]
)
def test_names_stay_in_the_picture(box):
    drawn = drawn_on_grey(box, scores=[0.5], classes=[2])
    assert shares(drawn, palette()[2]).sum() > 300
    assert (drawn.sum(-1) < 100).sum() > 100  # and its text, in black


def test_a_small_image_is_enlarged_and_none_needs_a_box():
    image = np.zeros((20, 32, 3), np.uint8)
    none = np.zeros((0, 4)), np.zeros(0, int)
    assert draw_boxes(image, *none, np.zeros(0), ["a"]).shape == (20 * 14, 32 * 14, 3)
    np.testing.assert_array_equal(draw_boxes(GREY, *none, None, ["a"]), GREY)
    drawn = draw_boxes(image, np.array([[10.0, 10, 18, 20]]), np.array([0]), None, ["a"])
    assert drawn[17 * 14, 10 * 14].tolist() == palette()[0].tolist()
    assert not drawn[: 8 * 14].any()


def boxed(*boxes, classes, **more):
    flags = {name: np.zeros(len(boxes), bool) for name in ("crowd", "difficult")}
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "classes": np.array(classes, int)} | flags | more


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_a_comparison_of_boxes_shows_each_truth_beside_its_prediction(count):
    sizes = [(100, 200), (300, 150), (64, 64), (30, 448), (1000, 900), (448, 448), (77, 200)][:count]
    images = [np.full((*size, 3), (30, 100 + 10 * index, 200), np.uint8) for index, size in enumerate(sizes)]
    # The same part of each image: from 40 % to 90 % of its height and from 20 % to 80 % of its width.
    places = [np.array([0.4 * h, 0.2 * w, 0.9 * h, 0.8 * w]) for h, w in sizes]
    truths = [boxed(place, classes=[0]) for place in places]
    predictions = [boxed(place, place, classes=[2, 3], scores=np.array([0.8, 0.1], np.float32)) for place in places]
    drawn = box_comparison(images, truths, predictions, ["cat", "dog", "owl", "fox"])
    assert drawn.dtype == np.uint8
    for image, size in zip(images, sizes, strict=True):
        height, width = (round(side * pictures.TILE / max(size)) for side in size)
        y = np.flatnonzero(shares(drawn, image[0, 0]).any(1))
        x = np.flatnonzero(shares(drawn, image[0, 0])[y[-1]])  # the last line of the tiles, below the boxes
        assert y[-1] - y[0] + 1 == height  # its shape is kept
        assert len(x) == 2 * width and x[width] - x[0] == pictures.TILE + 10  # two tiles, side by side
        for start, colour in ((x[0], 0), (x[width], 2)):
            line = y[0] + round(0.9 * height) - 2  # on the lower side of the box
            for column in (round(0.2 * width) + 1, round(0.8 * width) - 2):
                assert drawn[line, start + column].tolist() == palette()[colour].tolist()
    for index, shown in enumerate((True, False, True, False)):  # also in the legend; 0.1 is too weak
        assert shares(drawn, palette()[index]).any() == shown


def test_a_comparison_dashes_what_counts_for_nothing():
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    amounts = [
        shares(box_comparison([image], [boxed(box, classes=[0]) | flag], [nothing], ["cat"]), palette()[0]).sum()
        for flag in ({}, {"crowd": np.array([True])}, {"difficult": np.array([True])})
    ]
    assert amounts[1] == amounts[2] < 0.75 * amounts[0]


def test_any_number_of_classes_has_colours_and_none_is_the_grey_of_no_class():
    assert [class_colour(index) for index in range(255)] == [tuple(colour) for colour in palette()[:255].tolist()]
    assert [class_colour(index) for index in range(255, 1203)] == [
        class_colour(index % 255) for index in range(255, 1203)
    ]
    names = [f"class {index}" for index in range(1203)]
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    for index in (255, 256, 1202):
        drawn = draw_boxes(image, np.array([box]), np.array([index]), None, names)
        assert drawn[200, 51].tolist() == list(class_colour(index))
        legend = box_comparison([image], [boxed(box, classes=[index])], [nothing], names)[36 + 448 :]
        assert shares(legend, class_colour(index)).sum() == 18 * 18
        curves = [curve(0.5, 0.7) if k == index else None for k in range(1203)]
        drawn = precision_recall(curves, [0.35] * 1203, names, "IoU")
        assert plotted(drawn, 0.3, 0.5) == list(class_colour(index))
        assert shares(legend_of(drawn), class_colour(index)).any()


def curve(precision, recall):
    """A precision that holds up to a recall."""
    return np.linspace(0.01, recall, 50), np.full(50, precision)


def plotted(drawn, recall, precision):
    """The pixel of the plot there: it begins 60 pixels from the left and 48 from the top."""
    return drawn[48 + round((1 - precision) * (pictures.PLOT - 1)), 60 + round(recall * (pictures.PLOT - 1))].tolist()


def legend_of(drawn):
    return drawn[:, 60 + pictures.PLOT + 12 :]


def test_curves_stand_where_their_numbers_are():
    drawn = precision_recall([curve(0.5, 0.7), None, curve(0.9, 0.95)], [0.35, np.nan, 0.855], ["a", "b", "c"], "IoU")
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    for recall in (0.05, 0.3, 0.69):
        assert plotted(drawn, recall, 0.5) == palette()[0].tolist()
        assert plotted(drawn, recall, 0.9) == palette()[2].tolist()
    assert plotted(drawn, 0.75, 0.5) == plotted(drawn, 0.97, 0.9) == plotted(drawn, 0.3, 0.7) == [255] * 3
    rows = [np.flatnonzero(shares(legend_of(drawn), palette()[index]).any(1)) for index in range(3)]
    assert not rows[1].size and rows[2].max() < rows[0].min()  # the higher score first; b has no curve


def test_a_curve_steps_down_at_the_recall_it_reached():
    steps = np.array([0.25, 0.5, 0.75]), np.array([1.0, 0.7, 0.3])
    drawn = precision_recall([steps], [0.5], ["a"], "")
    for recall, precision in ((0.1, 1), (0.3, 0.7), (0.45, 0.7), (0.55, 0.3), (0.7, 0.3), (0.5, 0.5), (0.25, 0.9)):
        assert plotted(drawn, recall, precision) == palette()[0].tolist(), (recall, precision)
    assert plotted(drawn, 0.3, 0.95) == plotted(drawn, 0.85, 0.3) == [255] * 3


def test_of_many_classes_the_best_and_the_worst_have_colours():
    scores, names = [(7 * index % 80 + 1) / 81 for index in range(80)], [f"class {index}" for index in range(80)]
    curves = [curve(score, 1.0) for score in scores]
    legend = legend_of(precision_recall(curves, scores, names, "IoU 0.5"))
    order = np.argsort(scores)
    named = {*order[:8].tolist(), *order[-8:].tolist()}
    for index in range(80):
        assert shares(legend, palette()[index]).any() == (index in named)
    assert shares(legend, pictures.HATCH[1]).any()
    few = legend_of(precision_recall(curves[:16], scores[:16], names[:16], "IoU 0.5"))
    assert all(shares(few, palette()[index]).any() for index in range(16))


def test_no_curve_is_a_picture_too(recwarn):
    empty = precision_recall([None, None], [np.nan, np.nan], ["a", "b"], "IoU 0.5")
    nothing_found = precision_recall([(np.linspace(0, 1, 101), np.zeros(101)), None], [0.0, np.nan], ["a", "b"], "")
    for drawn, found in ((empty, False), (nothing_found, True)):
        assert shares(legend_of(drawn), palette()[0]).any() == found
    one = precision_recall([(np.zeros(0), np.zeros(0))], [0.0], ["a"], "")
    assert plotted(one, 0.5, 0.5) == [255] * 3 and not recwarn
