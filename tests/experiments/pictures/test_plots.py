"""Plots of scores draw every cell, curve and colour at the place of its value."""

import numpy as np
import pytest

from experiments.pictures import plots
from experiments.pictures.palette import HATCH, class_colour, colour_mask, palette
from experiments.pictures.plots import plot_box_confusion, plot_confusion, plot_precision_recall
from input_pipeline.batch import IGNORE
from tests.experiments.pictures.colours import corner, lab, shares


def test_confusion_matrix_shows_rows_in_percent_of_the_class():
    # Three quarters of class a are predicted as c. All of b is found. c is not in the ground truth.
    drawn = plot_confusion(np.array([[10, 0, 30], [0, 10**12, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    top, left = corner(drawn, plots._shade(0.25), 96)
    assert corner(drawn, plots._shade(0.75), 96).tolist() == [top, left + 2 * 96]
    assert corner(drawn, plots._shade(1), 96).tolist() == [top + 96, left + 96]
    assert (drawn[top : top + 96, left + 96 : left + 2 * 96] == 255).all()  # a cell without pixels has no number
    row = drawn[top + 2 * 96 : top + 3 * 96, left : left + 3 * 96]
    np.testing.assert_array_equal(row, colour_mask(np.full((96, 3 * 96), IGNORE, np.uint8)))
    fewer = plot_confusion(np.array([[1, 0, 3], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    np.testing.assert_array_equal(drawn, fewer)


@pytest.mark.parametrize("count", [2, 11, 40, 41, 151])
def test_a_confusion_matrix_is_readable_for_any_number_of_classes(count):
    drawn = plot_confusion(np.eye(count, dtype=np.int64), [f"class number {index}" for index in range(count)])
    cell = min(96, max(34, 640 // count)) if count <= 40 else 14
    top, left = corner(drawn, plots._shade(1.0), cell)
    for row, column in ((0, 0), (count - 1, count - 1), (0, count - 1)):
        y, x = top + row * cell, left + column * cell
        inside = drawn[y : y + cell, x : x + cell]
        if row != column:
            assert (inside == 255).all()
            continue
        # Numbers in dark cells are white.
        assert shares(inside, plots._shade(1.0)).sum() > 0.5 * cell**2
        assert shares(inside, (255, 255, 255)).any() == (count <= plots.MOST_NUMBERED_CLASSES)


def test_empty_confusion_matrix_is_completely_hatched():
    drawn = plot_confusion(np.zeros((4, 4), np.int64), ["a", "b", "c", "d"])
    assert sum(shares(drawn, stripe).sum() for stripe in HATCH) > (4 * 96) ** 2


def test_a_confusion_matrix_of_boxes_colours_all_rows_but_the_last(monkeypatch):
    """Cells show counts, colours are relative to the row's sum, false alarms have none, and the title has the thresholds."""
    counts = np.array([[3, 0, 1], [0, 0, 0], [200, 7, 0]])
    written, cells = {}, []
    plot = plots._plot_cells

    def look(parts, texts, class_names, title, last):
        written.update(texts=texts, title=title)
        cells.append(parts)
        return plot(parts, texts, class_names, title, last)

    monkeypatch.setattr(plots, "_plot_cells", look)
    drawn = plot_box_confusion(counts, ["a", "b"], 0.5, 0.25)
    assert written["texts"] == [["3", "", "1"], ["", "", ""], ["200", "7", ""]]
    assert "IoU 0.5" in written["title"] and "score 0.25" in written["title"]
    np.testing.assert_array_equal(cells[0], [[0.75, 0, 0.25], [0, 0, 0], [np.nan] * 3])
    top, left = corner(drawn, plots._shade(0.75), 96)
    assert corner(drawn, plots._shade(0.25), 94).tolist() == [top, left + 2 * 96 + 2]  # beyond the line
    last = drawn[top + 2 * 96 + 2 : top + 3 * 96, left : left + 3 * 96]
    assert (last.max(-1) - last.min(-1) == 0).all(), "numbers in black on white"
    row = drawn[top + 96 : top + 2 * 96 - 2, left : left + 190]
    np.testing.assert_array_equal(row, colour_mask(np.full(row.shape[:2], IGNORE, np.uint8)))
    more = plot_box_confusion(counts * 10, ["a", "b"], 0.5, 0.25)
    assert more.shape == drawn.shape and (more != drawn).any(), "counts are not parts"


@pytest.mark.parametrize("count", [1, 12, 41, 150])
def test_large_counts_of_boxes_fit_their_cells(count):
    counts = np.full((count + 1, count + 1), 123_456)
    drawn = plot_box_confusion(counts, [f"class {index}" for index in range(count)], 0.5, 0.25)
    right = np.flatnonzero((drawn != 255).any((0, 2)))
    assert right[-1] < drawn.shape[1] - 10 and (drawn != 255).any()


def test_shades_are_distinguishable_in_grey_and_numbers_are_legible():
    parts = np.linspace(0, 1, 101)
    lightness = lab(np.array([plots._shade(part) for part in parts]))[:, 0]
    assert (np.diff(lightness) < 0).all(), "darker is more"
    luminance = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    contrast = np.where(parts < plots.LIGHT, (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05))
    assert contrast.min() > 4.4  # web guidelines require 4.5 for small text and 3 for large text


def curve(precision, recall):
    """Return a curve with one precision up to a recall."""
    return np.linspace(0.01, recall, 50), np.full(50, precision)


def plotted(drawn, recall, precision):
    """Return the pixel of the plot at a point. The plot starts 60 pixels from the left and 48 from the top."""
    return drawn[48 + round((1 - precision) * (plots.PLOT - 1)), 60 + round(recall * (plots.PLOT - 1))].tolist()


def legend_of(drawn):
    return drawn[:, 60 + plots.PLOT + 12 :]


def test_curves_are_drawn_at_their_values():
    drawn = plot_precision_recall(
        [curve(0.5, 0.7), None, curve(0.9, 0.95)], [0.35, np.nan, 0.855], ["a", "b", "c"], "IoU"
    )
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    for recall in (0.05, 0.3, 0.69):
        assert plotted(drawn, recall, 0.5) == palette()[0].tolist()
        assert plotted(drawn, recall, 0.9) == palette()[2].tolist()
    assert plotted(drawn, 0.75, 0.5) == plotted(drawn, 0.97, 0.9) == plotted(drawn, 0.3, 0.7) == [255] * 3
    rows = [np.flatnonzero(shares(legend_of(drawn), palette()[index]).any(1)) for index in range(3)]
    assert not rows[1].size and rows[2].max() < rows[0].min()  # the higher score is first, and b has no curve


def test_a_curve_steps_down_at_the_recall_it_reached():
    steps = np.array([0.25, 0.5, 0.75]), np.array([1.0, 0.7, 0.3])
    drawn = plot_precision_recall([steps], [0.5], ["a"], "")
    for recall, precision in ((0.1, 1), (0.3, 0.7), (0.45, 0.7), (0.55, 0.3), (0.7, 0.3), (0.5, 0.5), (0.25, 0.9)):
        assert plotted(drawn, recall, precision) == palette()[0].tolist(), (recall, precision)
    assert plotted(drawn, 0.3, 0.95) == plotted(drawn, 0.85, 0.3) == [255] * 3


def test_best_and_worst_of_many_classes_have_colours():
    scores, names = [(7 * index % 80 + 1) / 81 for index in range(80)], [f"class {index}" for index in range(80)]
    curves = [curve(score, 1.0) for score in scores]
    legend = legend_of(plot_precision_recall(curves, scores, names, "IoU 0.5"))
    order = np.argsort(scores)
    named = {*order[:8].tolist(), *order[-8:].tolist()}
    for index in range(80):
        assert shares(legend, palette()[index]).any() == (index in named)
    assert shares(legend, HATCH[1]).any()
    few = legend_of(plot_precision_recall(curves[:16], scores[:16], names[:16], "IoU 0.5"))
    assert all(shares(few, palette()[index]).any() for index in range(16))


def test_plot_without_curves_is_drawn(recwarn):
    empty = plot_precision_recall([None, None], [np.nan, np.nan], ["a", "b"], "IoU 0.5")
    nothing_found = plot_precision_recall(
        [(np.linspace(0, 1, 101), np.zeros(101)), None], [0.0, np.nan], ["a", "b"], ""
    )
    for drawn, found in ((empty, False), (nothing_found, True)):
        assert shares(legend_of(drawn), palette()[0]).any() == found
    one = plot_precision_recall([(np.zeros(0), np.zeros(0))], [0.0], ["a"], "")
    assert plotted(one, 0.5, 0.5) == [255] * 3 and not recwarn


def test_points_are_drawn_at_their_values_with_names_next_to_them():
    names = ["one", "two", "three", "four"]
    points = [(name, 10.0**index, 0.5 + 0.1 * index) for index, name in enumerate(names)]
    drawn = plots.plot_points(points, "images a second", "AP")
    centres = []
    for index in range(4):
        rows, columns = np.nonzero((drawn == class_colour(index)).all(-1))
        centres.append((rows.mean(), columns.mean()))
        assert len(rows) > 60
    down, right = np.diff(centres, axis=0).T
    np.testing.assert_allclose(right, right[0], atol=1.5)  # each step is a decade
    np.testing.assert_allclose(down, down[0], atol=1.5)
    assert right[0] > 50 and down[0] < -50


def test_names_of_near_points_do_not_overlap():
    taken = []
    for x, y in ((100, 100), (103, 104), (99, 97), (101, 110)):
        box = plots._find_room(plots._list_places(x, y, (60, 15)), taken, (0, 0, 400, 300))
        assert not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        )
        taken.append(box)


@pytest.mark.parametrize(("low", "high"), [(0.58, 0.75), (0, 1), (-3, 140), (0.9, 0.91)])
def test_ticks_are_round_and_few(low, high):
    ticks = plots._even_ticks(low, high)
    assert 3 <= len(ticks) <= 12 and low <= ticks[0] and ticks[-1] <= high
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])
    assert plots._log_ticks(0.2, 2.1) == [2, 5, 10, 20, 50, 100]


def test_equal_points_have_an_axis():
    assert plots.plot_points([("a", 5.0, 0.5), ("b", 5.0, 0.5)], "x", "y").ndim == 3
