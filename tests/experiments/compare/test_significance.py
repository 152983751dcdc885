"""The coverage of intervals for single runs and for seeds, and records that do not fit."""

import json

import numpy as np
import pytest
from scipy.special import stdtr

from errors import UserError
from experiments.compare.groups import fold
from experiments.compare.records import read_records
from experiments.compare.runs import find_runs, read_run
from experiments.compare.significance import Verdict, estimate_difference, judge
from tests.experiments.compare.synthetic import CLASSES, label_records, make_run
from tests.experiments.metrics.test_resample import box_parts

TRUE = 0.02


def experiment(rng, seeds, images=150, draws=300, difference=TRUE, of_seed=0.01, of_image=0.1, of_both=0.05):
    """Return bootstrap scores of two methods, the means of their shares of right pixels.

    The share of a run in an image is the share of the method plus effects of the image (shared by all runs), of the seed,
    and of both.
    """
    weights = rng.multinomial(images, np.full(images, 1 / images), draws)
    weights = np.concatenate([np.ones((1, images)), weights])
    hard = of_image * rng.standard_normal(images)
    groups = []
    for mean, count in zip((0.6 + difference, 0.6), seeds, strict=True):
        of_method = of_both * rng.standard_normal(images)  # effects of the method in each image, for all seeds
        seed, both = of_seed * rng.standard_normal((count, 1)), of_both * rng.standard_normal((count, images))
        groups.append((mean + hard + of_method + seed + both) @ weights.T / images)
    return groups


@pytest.mark.parametrize(
    ("seeds", "of_seed", "low", "high"),
    [
        ((1, 1), 0.0, 0.91, 0.98),  # only these runs
        ((3, 3), 0.01, 0.92, 0.985),
        ((5, 2), 0.03, 0.91, 0.99),
        ((4, 4), 0.0, 0.93, 0.995),  # the seeds only add noise in each image
        ((4, 1), 0.03, 0.93, 0.985),  # a single run is assumed to vary like the other method
    ],
)
def test_intervals_contain_the_true_difference_as_often_as_stated(seeds, of_seed, low, high):
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(200):
        _, start, end, _ = estimate_difference(*experiment(rng, seeds, of_seed=of_seed), images=150)
        covered.append(start <= TRUE <= end)
    assert low <= np.mean(covered) <= high


def test_an_interval_without_seeds_is_too_short_for_methods():
    """Single runs say nothing about other seeds, so the interval rarely contains the difference of the methods."""
    rng = np.random.default_rng(6)
    found = [estimate_difference(*experiment(rng, (1, 1), of_seed=0.03), images=150) for _ in range(200)]
    assert np.mean([low <= TRUE <= high for _, low, high, _ in found]) < 0.6


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3)])
def test_p_values_are_uniform_without_a_difference(seeds):
    rng = np.random.default_rng(7)
    of_seed = 0.0 if seeds == (1, 1) else 0.01
    p = [estimate_difference(*experiment(rng, seeds, difference=0, of_seed=of_seed), images=150)[3] for _ in range(200)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09 and 0.35 <= np.mean(np.array(p) < 0.5) <= 0.62


def test_equal_runs_do_not_differ():
    same = np.tile(np.linspace(0.5, 0.6, 101), (2, 1))
    assert estimate_difference(same, same, images=10) == (0, 0, 0, 1)
    assert estimate_difference(same[:1], same[:1], images=10) == (0, 0, 0, 1)


def groups_of(folder, **runs):
    """Write runs from lists of records, one list per seed. Return the groups by name."""
    for name, seeds in runs.items():
        for seed, records in enumerate(seeds):
            make_run(folder / f"{name},seed={seed}", {"model.name": name, "seed.init": seed}, [{}], records)
    return {group.name: group for group in fold(find_runs([str(folder)]))}


def test_only_a_real_difference_is_significant(tmp_path):
    rng = np.random.default_rng(0)
    hard = 0.7 + 0.1 * rng.standard_normal(200)
    noise = 0.05 * rng.standard_normal((2, 200))
    groups = groups_of(
        tmp_path, a=[label_records(hard)], b=[label_records(hard + noise[0])], c=[label_records(hard + noise[1] + 0.03)]
    )
    (none,) = judge(groups["a"], groups["b"], "val/pixel_accuracy")[:1]
    assert none.low < 0 < none.high and none.p > 0.05 and not none.real and not none.seeds
    assert none.describe().startswith("pixel_accuracy: no significant difference between a and b")
    real, iou = judge(groups["a"], groups["c"], "val/pixel_accuracy")
    assert real.real and real.p < 0.01 and real.low < -0.03 < real.high and iou.metric == "mIoU"
    assert real.describe().startswith("pixel_accuracy: c is better; a minus c is -0.03")


def test_a_smaller_error_is_better():
    verdict = Verdict("pixel_error", "a", "b", -0.1, -0.2, -0.05, 0.01, 10, 100, False)
    assert verdict.describe().startswith("pixel_error: a is better")


def test_several_seeds_add_their_spread(tmp_path):
    rng = np.random.default_rng(1)
    hard = 0.7 + 0.1 * rng.standard_normal(100)
    groups = groups_of(
        tmp_path,
        calm=[label_records(hard + 0.02 + shift) for shift in (-0.001, 0.0, 0.001)],
        wild=[label_records(hard + shift) for shift in (-0.1, 0.0, 0.1)],
    )
    (verdict,) = judge(groups["calm"], groups["wild"], "val/pixel_accuracy")[:1]
    assert verdict.seeds and verdict.difference == pytest.approx(0.02, abs=1e-3)
    # The part of the seeds is 0.1 / sqrt(3) times the quantile of t with 2 degrees of freedom.
    assert verdict.high - verdict.low > 2 * 4.2 * 0.1 / 3**0.5 and not verdict.real


def test_a_borrowed_spread_counts_as_one_estimate():
    """One run against three, without a spread over images, has the 2 degrees of freedom of the three."""
    three, one = (np.repeat(np.array(own)[:, None], 101, 1) for own in ([0.5, 0.6, 0.7], [0.4]))
    difference, low, high, p = estimate_difference(three, one, images=50)
    error = 0.1 * (1 / 3 + 1) ** 0.5
    assert (difference, high - low) == pytest.approx((0.2, 2 * 4.302653 * error), rel=1e-6)
    assert p == pytest.approx(2 * stdtr(2, -0.2 / error))
    assert estimate_difference(one, three, images=50)[1:3] == pytest.approx((-high, -low))


def box_records(rng, images):
    parts = box_parts(rng, images, classes=2)
    return [
        {"image_id": index, "name": f"image{index}", "source_id": index, "average_precision": part}
        for index, part in enumerate(parts)
    ]


def test_detectors_are_compared_by_average_precision(tmp_path):
    records = box_records(np.random.default_rng(2), 30)
    worse = json.loads(json.dumps(records))
    for row in worse[::2]:
        row["average_precision"]["detections"] = row["average_precision"]["detections"][:1]
    for name, own in (("good", records), ("poor", worse)):
        fields = {"model.name": name, "eval.metrics": ["coco", "voc12"]}
        make_run(tmp_path / name, fields, [{}], own)
    verdicts = {verdict.metric: verdict for verdict in judge(*fold(find_runs([str(tmp_path)])), "val/AP")}
    assert list(verdicts) == ["AP", "AP50", "mAP_voc12"] and verdicts["AP"].real and verdicts["AP"].difference > 0
    assert (verdicts["AP"].images, verdicts["AP"].draws, verdicts["AP"].first) == (30, 1000, "good")


def test_the_order_of_records_does_not_matter(tmp_path):
    rows = label_records(np.linspace(0.5, 0.9, 30))
    groups = groups_of(tmp_path, a=[rows], b=[rows[::-1]])
    assert judge(groups["a"], groups["b"], "val/mIoU")[0].difference == 0


def test_records_that_do_not_fit_are_an_error(tmp_path):
    rows = label_records(np.linspace(0.5, 0.9, 30))
    other = json.loads(json.dumps(rows))
    other[4]["confusion"] = [[0, 1, 10**6 - 7], [1, 1, 7]]
    groups = groups_of(tmp_path, a=[rows], b=[rows[1:]], c=[other], d=[[]])
    with pytest.raises(UserError, match="have different images: 1 are in only one of them, such as 'image0'"):
        judge(groups["a"], groups["b"], "val/mIoU")
    with pytest.raises(UserError, match="against different ground truth in 1 images, such as 'image4'"):
        judge(groups["a"], groups["c"], "val/mIoU")
    with pytest.raises(UserError, match=r"val.jsonl is missing; evaluate the run with --mode=evaluate, and choose"):
        judge(groups["a"], groups["d"], "val/mIoU")


def test_too_few_images_raise_an_error(tmp_path):
    """Draws of few images are so often equal that any difference looks significant."""
    good, poor = (label_records(np.full(9, share)) for share in (0.9, 0.5))
    groups = groups_of(tmp_path, a=[good], b=[poor])
    with pytest.raises(UserError, match="val.jsonl has 9 images; evaluate both runs on 10 or more"):
        judge(groups["a"], groups["b"], "val/mIoU")


def test_classes_in_another_order_are_an_error(tmp_path):
    rows = label_records(np.linspace(0.5, 0.9, 30))
    groups = groups_of(tmp_path, a=[rows], b=[rows])
    own = groups["b"].runs[0]
    own.rows[-1] = {"step": 10} | {f"val/IoU/{name}": 0.5 for name in CLASSES[::-1]}
    with pytest.raises(UserError, match="number 0 is 'square' in the first and 'circle' in the second"):
        judge(groups["a"], groups["b"], "val/mIoU")


def test_a_repeated_image_in_the_records_is_an_error(tmp_path):
    rows = label_records(np.linspace(0.5, 0.9, 30))
    same_name = [rows[0] | {"source_id": "other"}, *rows]
    run = make_run(tmp_path, records=same_name)
    assert read_records(read_run(run, "a")).images[:2] == ("image0 other", "image0 0")
    run = make_run(tmp_path, records=[*rows, rows[3]])
    with pytest.raises(UserError, match="has the image 'image3 3' more than once"):
        read_records(read_run(run, "a"))


def test_records_of_another_evaluation_are_an_error(tmp_path):
    rows = label_records(np.full(30, 0.8))
    groups = groups_of(tmp_path, a=[rows], b=[rows])
    judge(groups["a"], groups["b"], "val/mIoU")
    groups["b"].runs[0].rows[-1]["val/pixel_accuracy"] = 0.7
    with pytest.raises(UserError, match="pixel_accuracy is 0.8000 in the records and 0.7000 there"):
        judge(groups["a"], groups["b"], "val/mIoU")


def test_the_interval_excludes_0_exactly_if_p_is_small():
    for below in (24, 25):
        draws = np.concatenate([[0.1], np.full(below, -0.1), np.full(1000 - below, 0.1)])[None]
        _, low, high, p = estimate_difference(draws, np.zeros_like(draws), images=50)
        assert high == 0.1 and (low > 0) == (p < 0.05) == (below == 24)


@pytest.mark.parametrize("content", ["nonsense\n", "[1]\n", '{"name": "a"}\n{}\n', '{"name": "a", "confusion": 3}\n'])
def test_damaged_records_raise_a_one_line_error(tmp_path, content):
    run = make_run(tmp_path, records=label_records(np.ones(3)))
    (run / "records/val.jsonl").write_text(content)
    with pytest.raises(
        UserError, match=r"val.jsonl(, line 1)? (is damaged|is empty|is not JSON|does not hold an object)"
    ):
        read_records(read_run(run, "a"))


def test_records_are_chosen_by_name(tmp_path):
    run = make_run(tmp_path, records=label_records(np.ones(3)))
    (run / "records/val.jsonl").rename(run / "records/test-best-ema-10.jsonl")
    records = read_records(read_run(run, "a"), "test-best-ema-10")
    assert records.images == ("image0", "image1", "image2") and records.metrics[0].class_names == CLASSES
