import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from experiments.metrics.partition import THRESHOLDS, Partition, connected_components, score, thin

NAMES = ("membrane", "cell")


def grid(*rows):
    """Make a label from text, with '#' for border, '.' for inside and '?' for ignored pixels."""
    return np.array([[{"#": 0, ".": 1, "?": 255}[pixel] for pixel in row] for row in rows], np.uint8)


def predicted(inside):
    """Return a prediction with the probability `inside` [H,W] of being inside a cell."""
    inside = np.asarray(inside, np.float32)
    return {"probability": np.stack([1 - inside, inside], -1), "label": (inside > 0.5).astype(np.uint8)}


def measured(*images):
    metric = Partition(NAMES)
    for prediction, label in images:
        metric.add(json.loads(json.dumps(metric.measure(prediction, {"label": label}))), 0)
    return metric


def entropy(*parts):
    return -sum(part * math.log(part) for part in parts)


def oracle(true, guess):
    """Compute the definitions over all pairs of pixels (a pixel pairs with itself) and all pairs of segments."""
    same_true, same_guess = true[:, None] == true, guess[:, None] == guess
    rand = 2 * (same_true & same_guess).sum() / (same_true.sum() + same_guess.sum())
    parts = [[np.mean(labels == index) for index in np.unique(labels)] for labels in (true, guess)]
    information = 0.0
    for i in np.unique(true):
        for j in np.unique(guess):
            both = np.mean((true == i) & (guess == j))
            if both:
                information += both * math.log(both / np.mean(true == i) / np.mean(guess == j))
    apart = entropy(*parts[0]) + entropy(*parts[1])
    return [rand, 2 * information / apart if apart else 1.0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 30), segments=st.integers(1, 5))
def test_scores_equal_the_definitions_over_pairs(seed, size, segments):
    rng = np.random.default_rng(seed)
    true, guess = rng.integers(1, segments + 1, (2, size)).astype(np.int32)
    assert score(true, guess) == pytest.approx(oracle(true, guess), abs=1e-9)
    assert score(guess, true) == pytest.approx(score(true, guess), abs=1e-9)
    assert score(true, true) == pytest.approx([1, 1])
    names = rng.permutation(10).astype(np.int32) + 1
    assert score(names[true], names[::-1][guess]) == pytest.approx(score(true, guess), abs=1e-9)


def test_information_score_equals_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    true, guess = np.random.default_rng(0).integers(1, 6, (2, 200))
    split, merge = metrics.variation_of_information(true, guess)  # H(S|T) and H(T|S), in bits
    both, alone = (entropy(*(np.bincount(labels)[1:] / 200)) / math.log(2) for labels in (true, guess))
    assert score(true, guess)[1] == pytest.approx(((both - merge) + (alone - split)) / (both + alone))


def test_merged_cells_have_hand_computed_scores():
    # The truth has two cells of 4 pixels. The prediction has no border between them.
    label = grid("..#..", "..#..")
    metric = measured((predicted(np.full((2, 5), 0.95)), label))
    scores = metric.compute()
    # The prediction joins all 8^2 pairs. The ground truth joins 2 * 4^2 pairs, and so do both together.
    assert scores["Rand"] == pytest.approx(2 * 32 / (64 + 32))
    assert scores["information"] == 0  # one segment has no information
    assert scores["pixel_error"] == 2 / 10  # the pixels of the border


def test_split_cells_have_hand_computed_scores():
    # A border cuts a cell of 3 x 6 pixels. After thinning the parts have 9 pixels each.
    label = grid("......", "......", "......")
    inside = np.full(label.shape, 0.95)
    inside[:, 2:4] = 0
    scores = measured((predicted(inside), label)).compute()
    assert scores["Rand"] == pytest.approx(2 * 162 / (324 + 162))
    assert scores["information"] == 0
    # Two cells have 18 and 12 pixels. The larger one is cut into 6 and 12.
    label = grid(*["...#.."] * 6)
    inside = np.where(label == 1, 0.95, 0)
    inside[1:3, :3] = 0
    scores = measured((predicted(inside), label)).compute()
    both = 6**2 + 12**2 + 12**2
    assert scores["Rand"] == pytest.approx(2 * both / (18**2 + 12**2 + both))
    true, guess = entropy(18 / 30, 12 / 30), entropy(6 / 30, 12 / 30, 12 / 30)
    # A split keeps all information of the ground truth.
    assert scores["information"] == pytest.approx(2 * true / (true + guess))


@pytest.mark.parametrize("width", [1, 3, 5, 7])
def test_width_of_a_border_affects_only_the_pixel_error(width):
    label = np.ones((16, 33), np.uint8)
    label[:, 15:18] = 0
    inside = np.ones((16, 33))
    inside[:, 16 - width // 2 : 17 + width // 2] = 0
    scores = measured((predicted(inside), label)).compute()
    assert scores["Rand"] == scores["information"] == 1
    assert scores["pixel_error"] == abs(width - 3) / 33


def test_thinning_assigns_each_pixel_to_its_nearest_segment():
    rng = np.random.default_rng(2)
    inside = rng.random((12, 15)) > 0.8
    segments, grown = connected_components(inside), thin(inside)
    np.testing.assert_array_equal(grown[inside], segments[inside])
    places = np.argwhere(inside)
    for y, x in np.argwhere(~inside):
        distances = np.hypot(*(places - (y, x)).T)
        chosen = distances[segments[inside] == grown[y, x]].min()
        assert chosen <= 1.05 * distances.min()  # the accuracy of distances with a 5 x 5 mask


def test_segments_that_touch_at_a_corner_are_separate():
    label = connected_components(grid(".#", "#.") == 1)
    assert label[0, 0] != label[1, 1] and label[0, 1] == label[1, 0] == 0


def test_ignored_pixels_do_not_count():
    label = grid("..#..??", "..#..??")
    inside = np.where(label == 1, 0.95, 0.0)
    wrong = inside.copy()
    wrong[:, 6] = 0.95  # a separate segment at ignored pixels
    metric = measured((predicted(wrong), label))
    assert metric.counted == 10 and metric.wrong == 0
    assert metric.compute()["Rand"] == metric.compute()["information"] == 1


def test_best_threshold_maximises_the_mean_over_images():
    # At the border the probability of inside is 0.65 in the first image and 0.25 in the second. At the threshold 0.5 only
    # the second image is right.
    label = grid("...#...", "...#...")
    images = [(predicted(np.where(label == 1, 0.95, border)), label) for border in (0.65, 0.25)]
    merged = 2 * 72 / (144 + 72)
    scores = measured(*images).compute()
    assert scores["Rand"] == pytest.approx((merged + 1) / 2) and scores["information"] == pytest.approx(1 / 2)
    assert scores["Rand_max"] == scores["information_max"] == pytest.approx(1)
    alone = measured(images[0]).compute()
    assert alone["Rand"] == pytest.approx(merged) and alone["Rand_max"] == pytest.approx(1)
    part = Partition(NAMES).measure(images[0][0], {"label": label})
    assert len(part["scores"]) == len(THRESHOLDS)
    assert [rand == 1 for rand, _ in part["scores"]] == [threshold > 0.65 for threshold in THRESHOLDS]


def test_prediction_without_segments_scores_zero():
    label = grid("..#..", "..#..")
    scores = measured((predicted(np.full((2, 5), 0.05)), label)).compute()
    assert scores["Rand_max"] == scores["information_max"] == 0 and scores["pixel_error"] == 8 / 10


def test_image_without_a_true_segment_is_not_in_the_mean(recwarn):
    right = predicted(np.where(grid("..#..") == 1, 0.95, 0)), grid("..#..")
    for empty in (grid("####"), grid("????")):
        image = predicted(np.full((1, 4), 0.95)), empty
        assert np.isnan(measured(image).compute()["Rand"])
        for order in ((image, right), (right, image)):
            assert measured(*order).compute()["Rand"] == 1
    assert measured(right, (predicted(np.ones((1, 4))), grid("####"))).compute()["pixel_error"] == 4 / 9
    scores = Partition(NAMES).compute()
    assert list(scores) == ["Rand", "information", "Rand_max", "information_max", "pixel_error"]
    assert all(np.isnan(value) for value in scores.values())
    assert not recwarn and Partition(NAMES).pictures() == {}


@pytest.mark.parametrize("names", [("cell",), ("a", "b", "c")])
def test_wrong_number_of_classes_raises_a_one_line_error(names):
    with pytest.raises(UserError, match=rf"config.eval.metrics: .* has {len(names)}; remove it") as error:
        Partition(names)
    assert "\n" not in str(error.value)
