"""The recall of proposals equals numbers counted by hand."""

import numpy as np
import pytest

from experiments.proposal_recall import best_overlaps, list_counts, print_recall, summarise, warn_of_recall

BOXES = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 44, 44]])
PROPOSALS = np.array(
    [
        [0, 0, 10, 20],  # half of the first box, and as much outside it
        [20, 20, 30, 26],  # 0.6 of the second
        [0, 0, 10, 8],  # 0.8 of the first
        [20, 20, 30, 30],
    ],
    np.float32,
)


def test_best_overlaps_of_the_first_proposals_equal_hand_computed_values():
    best = best_overlaps(BOXES, PROPOSALS, (1, 2, 3, 4, 100))
    np.testing.assert_allclose(best, [[0.5, 0.5, 0.8, 0.8, 0.8], [0, 0.6, 0.6, 1, 1], [0] * 5])
    assert best_overlaps(BOXES, PROPOSALS[:0], (10, 20)).tolist() == [[0, 0]] * 3
    assert best_overlaps(BOXES[:0], PROPOSALS, (10, 20)).shape == (0, 2)


@pytest.mark.parametrize(
    ("most", "counts"), [(2000, (10, 100, 300, 1000, 2000)), (300, (10, 100, 300)), (64, (10, 64)), (5, (5,))]
)
def test_counts_end_with_the_proposals_of_a_batch(most, counts):
    assert list_counts(most) == counts


def test_report_and_printed_lines_have_the_recall(capsys):
    best = np.array([[0.5, 0.8], [0.2, 0.7], [0.0, 0.69], [0.0, 0.0]])
    report = summarise(best, [3, 8], 20)
    assert report == {
        "per_image": {"mean": 5.5, "most": 8},
        "recall": {"0.5": {"10": 0.25, "20": 0.75}, "0.7": {"10": 0.0, "20": 0.5}},
    }
    print_recall(report)
    warn_of_recall(report)
    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines()[1:]] == [
        ["recall", "of", "the", "best", "10", "20"],
        ["at", "IoU", "0.5", "25.0%", "75.0%"],
        ["at", "IoU", "0.7", "0.0%", "50.0%"],
    ]
    assert told.out.startswith("proposals: 6 per image and 8 at most\n")
    assert "only 75.0% of the objects have a proposal" in told.err and len(told.err.splitlines()) == 1
    warn_of_recall(summarise(best[:2], [3, 8], 20))
    warn_of_recall(summarise(best[:0], [3, 8], 20))
    assert not capsys.readouterr().err
