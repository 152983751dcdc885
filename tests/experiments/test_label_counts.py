"""Counts of classes and their weights agree with numbers counted by hand."""

import numpy as np
import pytest

from errors import UserError
from experiments import reading
from experiments.label_counts import count_labels, describe, list_flags, median_frequency_weights
from input_pipeline.batch import IGNORE

NAMES = ("sky", "tree", "river", "bridge")
LABELS = [  # the river has no pixel
    np.array([[0, 0, 0, 0], [0, 0, 1, 1]], np.uint8),
    np.array([[1, IGNORE], [3, 3], [0, 0], [IGNORE, 3]], np.uint8),
    np.array([[0]], np.uint8),
    np.full((2, 2), IGNORE, np.uint8),
]
# Frequencies: sky has 6 + 2 + 1 of 8 + 6 + 1, tree 2 + 1 of 8 + 6, bridge 3 of 6. The median of 0.6, 3/14, 0.5 is 0.5.
WEIGHTS = [0.5 / 0.6, 0.5 / (3 / 14), 0.0, 1.0]


class Made:
    """Labels as a source."""

    class_names, fingerprint, dropped, absent = NAMES, "", (), ()

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": np.zeros((*self.labels[index].shape, 3), np.uint8), "label": self.labels[index]}

    def name(self, index):
        return f"{index}.png"


@pytest.fixture(params=[(1, 256), (3, 3)], ids=["one thread", "chunks"])
def counts(request, monkeypatch):
    threads, chunk = request.param
    monkeypatch.setattr(reading, "CHUNK", chunk)
    return count_labels(Made(LABELS), threads)


def test_counts_equal_hand_computed_values(counts):
    assert counts.sizes.tolist() == [[2, 4], [4, 2], [1, 1], [2, 2]]
    assert counts.pixels.tolist() == [9, 3, 0, 3]
    assert counts.images.tolist() == [3, 2, 0, 1]
    assert counts.around.tolist() == [15, 14, 0, 6]
    assert counts.ignored == 6


def test_weights_equal_hand_computed_values(counts):
    np.testing.assert_allclose(median_frequency_weights(counts), WEIGHTS, rtol=1e-12)


def test_the_weights_and_their_roots_are_flags(counts):
    first, raw, second, roots = list_flags(median_frequency_weights(counts))
    assert raw == "--config.task.class_weights='(0.8333, 2.333, 0.0, 1.0)'"
    assert roots == "--config.task.class_weights='(0.9129, 1.528, 0.0, 1.0)'"
    assert "median frequency" in first and "square root" in second


def test_report_is_printed_as_a_table(counts):
    title, head, *rows = describe("mine", NAMES, counts)
    assert title == (
        "mine: 4 images, height 1 to 4 (median 2), width 1 to 4 (median 2); 28.57% of the pixels have no class"
    )
    assert head.split() == ["class", "pixels", "share", "images", "weight", "root"]
    assert [row.split() for row in rows] == [
        ["sky", "9", "60.00%", "3", "0.8333", "0.9129"],
        ["tree", "3", "20.00%", "2", "2.333", "1.528"],
        ["river", "0", "0.00%", "0", "0.0", "0.0"],
        ["bridge", "3", "20.00%", "1", "1.0", "1.0"],
    ]
    assert len({len(line) for line in (head, *rows)}) == 1, "a table"


def test_equally_frequent_classes_weigh_the_same():
    weights = median_frequency_weights(count_labels(Made([np.arange(4, dtype=np.uint8).reshape(2, 2)] * 3), 2))
    np.testing.assert_array_equal(weights, np.ones(4))


def test_weights_are_zero_without_labelled_pixels():
    counts = count_labels(Made(LABELS[3:]), 1)
    np.testing.assert_array_equal(median_frequency_weights(counts), np.zeros(4))
    assert "100.00% of the pixels have no class" in describe("mine", NAMES, counts)[0]


def test_error_names_a_label_that_is_not_a_class():
    with pytest.raises(UserError, match="1.png holds the class 4, but 4 are named"):
        count_labels(Made([LABELS[0], np.array([[0, 4]], np.uint8)]), 2)
