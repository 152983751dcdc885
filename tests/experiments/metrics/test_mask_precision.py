"""AP of masks and of boundaries equals loops over whole images, COCO's tools, and hand-computed numbers."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics.average_precision import main
from experiments.metrics.mask_precision import MaskPrecision
from experiments.metrics.registry import make_mask_metrics
from input_pipeline.annotations.masks import decode_masks
from input_pipeline.masks import Mask, bound, collect
from tests.experiments.metrics.test_average_precision import NAMES, TWELVE, assert_every_digit, coco_by_loops
from tests.input_pipeline.test_masks import crop, whole

SIZE = (90, 130)  # 2 % of the diagonal is 3 pixels
DISTANCE = 3
STYLES = ("coco_masks", "coco_boundaries")


def rectangle(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def image_of(objects, detections):
    """Return (prediction, truth) from objects (class, mask [H,W], *flags) and detections (class, score, mask [H,W])."""
    areas = [next((flag for flag in flags if not isinstance(flag, str)), mask.sum()) for _, mask, *flags in objects]
    truth = {
        "image": np.zeros((*SIZE, 3), np.uint8),
        "masks": crop([mask for _, mask, *_ in objects]) if objects else np.zeros(0, object),
        "classes": np.array([index for index, *_ in objects], np.int32),
        "crowd": np.array(["crowd" in flags for _, _, *flags in objects], bool),
        "difficult": np.zeros(len(objects), bool),
        "area": np.array(areas, np.float64),
    }
    prediction = {
        "masks": collect(crop([mask])[0] if mask.any() else Mask(np.zeros((1, 1), bool)) for *_, mask in detections),
        "scores": np.array([score for _, score, _ in detections], np.float32),
        "classes": np.array([index for index, *_ in detections], np.int32),
    }
    return prediction, truth


def measured(*images, styles=STYLES):
    metric = MaskPrecision(NAMES, styles)
    for index, image in enumerate(images):
        metric.add(json.loads(json.dumps(metric.measure(*image))), 3 * index + 1)
    return metric


def near_contour(mask):
    """Return the pixels of a mask [H,W] with a square of 7x7 pixels that is partly outside the mask or the image."""
    padded = np.pad(mask, DISTANCE)
    side = 2 * DISTANCE + 1
    return mask & ~np.lib.stride_tricks.sliding_window_view(padded, (side, side)).all((2, 3))


def mask_overlap(detection, mask, crowd=False):
    both = (detection & mask).sum()
    whole = detection.sum() if crowd else (detection | mask).sum()
    return both / whole if whole else 0.0


def boundary_overlap(detection, mask, crowd=False):
    overlap = mask_overlap(detection, mask, crowd)
    return overlap if crowd else min(overlap, mask_overlap(near_contour(detection), near_contour(mask)))


def random_images(seed, count):
    """Draw overlapping ellipses, and detections with errors at the border. Scores tie, and areas have all sizes."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[: SIZE[0], : SIZE[1]]

    def ellipse(centre, radii):
        return ((y + 0.5 - centre[0]) / radii[0]) ** 2 + ((x + 0.5 - centre[1]) / radii[1]) ** 2 <= 1

    images = []
    for _ in range(count):
        objects, found = [], []
        for _ in range(rng.integers(0, 6)):
            centre, radii = rng.uniform((0, 0), SIZE), rng.uniform(2, 40, 2)
            mask = ellipse(centre, radii) & (rng.random(SIZE) < 0.999)
            if mask.any():
                flags = ["crowd"] * (rng.random() < 0.2) + [float(rng.choice([500, 1024, 5000, 9216, 10000]))]
                label = rng.integers(0, 2)
                objects.append((label, mask, *flags))
                for _ in range(rng.integers(0, 3)):
                    guess = ellipse(centre + rng.uniform(-2, 2, 2), radii + rng.uniform(-1, 2, 2))
                    found.append((label ^ (rng.random() < 0.1), rng.integers(1, 5) / 4, guess))
        images.append(image_of(objects, found))
    return images


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3))
def test_scores_equal_loops_over_all_pixels(seed, count):
    images = random_images(seed, count)
    scores = measured(*images).compute()
    pixels, numbered = [], []
    for rows in images:
        numbers = []
        for row in rows:
            masks = whole(row["masks"], SIZE)
            numbers.append(row | {"boxes": np.arange(len(pixels), len(pixels) + len(masks))})
            pixels += list(masks)
        numbered.append(numbers)
    for prefix, overlap in (("mask", mask_overlap), ("boundary", boundary_overlap)):

        @functools.cache
        def of_pixels(found, known, crowd, overlap=overlap):
            return overlap(pixels[found], pixels[known], crowd)

        expected = coco_by_loops(numbered, of_pixels, lambda found: pixels[found].sum())
        for name, value in expected.items():
            assert scores[f"{prefix}_{name}"] == pytest.approx(value, abs=1e-9, nan_ok=True), (prefix, name)


def test_shifted_square_has_hand_computed_mask_and_boundary_ap():
    """A square of 60x60 is detected two pixels too far right. It shares 58 of 62 columns, and the 3-pixel frames have IoU 1/2."""
    found = measured(image_of([(0, rectangle(10, 10, 70, 70))], [(0, 0.9, rectangle(10, 12, 70, 72))])).compute()
    assert mask_overlap(rectangle(10, 10, 70, 70), rectangle(10, 12, 70, 72)) == 58 / 62 > 0.9
    frame = 60 * 60 - 54 * 54
    both = 2 * 3 * 58 + 2 * 1 * 54  # the rows above and below, and one column at each side
    assert both / (2 * frame - both) == 0.5  # exactly the threshold
    assert found["mask_AP"] == pytest.approx(0.9) and found["mask_AP50/cat"] == 1  # nine of the ten IoUs
    assert found["boundary_AP"] == pytest.approx(0.1) and found["boundary_AP50"] == 1
    assert math.isnan(found["mask_AP/dog"]) and found["boundary_AR100"] == pytest.approx(0.1)


def test_masks_with_equal_boxes_are_distinguished():
    """Two triangles have the same box and share only the diagonal."""
    lower = np.zeros(SIZE, bool)
    lower[:60, :60] = np.tri(60, dtype=bool)
    upper = np.zeros(SIZE, bool)
    upper[:60, :60] = np.tri(60, dtype=bool).T
    assert bound(lower) == bound(upper)
    assert measured(image_of([(0, lower)], [(0, 0.9, upper)])).compute()["mask_AP50"] == 0
    assert measured(image_of([(0, lower)], [(0, 0.9, lower)])).compute()["mask_AP"] == pytest.approx(1)


def test_size_is_the_annotated_area_or_the_area_of_the_detection():
    masks = rectangle(0, 0, 90, 120), rectangle(0, 0, 10, 10)
    scores = measured(image_of([(0, masks[0], 1000.0)], [(0, 0.9, masks[0]), (0, 0.95, masks[1])])).compute()
    assert scores["mask_APs"] == pytest.approx(0.5) and math.isnan(scores["mask_APl"])
    # An unmatched large detection is not a false positive among the small ones.
    scores = measured(image_of([(0, masks[1])], [(0, 0.8, masks[1]), (0, 0.9, masks[0])])).compute()
    assert scores["mask_APs"] == pytest.approx(1) and scores["mask_AP"] == pytest.approx(0.5)


def test_records_keep_pixels_and_numbers_exactly():
    *_, image = random_images(11, 5)
    metric = MaskPrecision(NAMES, STYLES)
    part = json.loads(json.dumps(metric.measure(*image)))
    for kind, rows in (("objects", image[1]), ("detections", image[0])):
        texts = [runs.encode() for *_, runs in part[kind]]
        assert len(texts) > 1
        np.testing.assert_array_equal(whole(decode_masks(texts, SIZE), SIZE), whole(rows["masks"], SIZE))
    np.testing.assert_array_equal(np.float32([score for _, score, _ in part["detections"]]), image[0]["scores"])
    np.testing.assert_array_equal([area for *_, area, _ in part["objects"]], image[1]["area"])
    nothing = image_of([], [])
    assert metric.measure(*nothing) == {"size": list(SIZE), "objects": [], "detections": []}


def test_image_order_has_no_effect_and_empty_masks_match_nothing(recwarn):
    images = [
        *random_images(3, 3),
        image_of([(0, rectangle(5, 5, 9, 9))], [(0, 0.9, np.zeros(SIZE, bool))]),
        image_of([], [(1, 0.5, rectangle(5, 5, 9, 9))]),
    ]
    made = [(MaskPrecision(NAMES, STYLES).measure(*image), index) for index, image in enumerate(images)]
    results = []
    for order in (range(5), (3, 0, 4, 2, 1)):
        metric = MaskPrecision(NAMES, STYLES)
        for index in order:
            metric.add(*made[index])
        results.append(metric.compute())
    np.testing.assert_equal(*results)
    assert measured(images[3]).compute()["mask_AP"] == 0
    assert not recwarn


def test_scores_without_ground_truth_are_nan(recwarn):
    names = [f"{kind}_{name}" for kind in ("mask", "boundary") for name in TWELVE]
    names += [f"{kind}_{name}/{own}" for kind in ("mask", "boundary") for name in ("AP", "AP50") for own in NAMES]
    for metric in (MaskPrecision(NAMES, STYLES), measured(image_of([], [(0, 0.9, rectangle(0, 0, 5, 5))]))):
        scores = metric.compute()
        assert set(scores) == set(names) and all(map(math.isnan, scores.values()))
        assert set(metric.pictures()) == {"mask_precision_recall"}
    assert set(MaskPrecision(NAMES, STYLES[:1]).compute()) == {name for name in names if name.startswith("mask")}
    assert not recwarn


def test_boxes_and_masks_are_scored_together():
    (image,) = random_images(2, 1)
    boxes = {"boxes": np.array([bound(mask) for mask in whole(image[1]["masks"], SIZE)], float).reshape(-1, 4)}
    truth = image[1] | boxes
    found = {"masks": truth["masks"], "scores": np.linspace(0.9, 0.5, len(truth["masks"])), **boxes}
    scores, pictures = {}, {}
    metrics = make_mask_metrics(("coco", "coco_masks", "voc12", "coco_boundaries", "confusion"), NAMES)
    for metric in metrics:
        metric.add(metric.measure(found | {"classes": truth["classes"]}, truth), 0)
        scores |= metric.compute()
        pictures |= metric.pictures()
    assert [metric.styles for metric in metrics] == [("coco", "voc12", "confusion"), ("coco_masks", "coco_boundaries")]
    for name in ("AP", "mask_AP", "boundary_AP", "mAP_voc12"):
        assert scores[name] == pytest.approx(1)
    assert set(pictures) == {"confusion", "precision_recall", "mask_precision_recall"}


@pytest.fixture
def written(tmp_path):
    """Write the metric's records as COCO files with run lengths. Return the paths of ground truth and detections."""
    parts = [MaskPrecision(NAMES, STYLES).measure(*image) for image in random_images(11, 5)]
    known = {"images": [], "annotations": [], "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)]}
    found = []
    for image, part in enumerate(parts):
        height, width = part["size"]
        known["images"].append({"id": image, "height": height, "width": width})
        for label, crowd, _, area, runs in part["objects"]:
            row = {"image_id": image, "category_id": label, "segmentation": {"size": part["size"], "counts": runs}}
            known["annotations"].append(row | {"id": len(known["annotations"]) + 1, "iscrowd": crowd, "area": area})
        for label, score, runs in part["detections"]:
            row = {"image_id": image, "category_id": label, "segmentation": {"size": part["size"], "counts": runs}}
            found.append(row | {"score": score})
    paths = tmp_path / "known.json", tmp_path / "found.json"
    for path, content in zip(paths, (known, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


@pytest.mark.parametrize(("kind", "prefix"), [("segm", "mask"), ("boundary", "boundary")])
def test_command_and_metric_give_the_same_scores(written, capsys, kind, prefix):
    arguments = f"--ground_truth={written[0]}", f"--detections={written[1]}", f"--iou_type={kind}"
    scores = measured(*random_images(11, 5)).compute()
    assert main([*arguments, "--style=coco"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert 0 < scores["boundary_AP"] < scores["mask_AP"] < 1
    for name in TWELVE:
        np.testing.assert_equal(math.nan if printed[name] is None else printed[name], scores[f"{prefix}_{name}"])
    if kind == "segm":
        assert_every_digit(written, "segm")


def test_voc_style_supports_masks_and_boundaries(written, capsys):
    """A square of 60x60 is detected two pixels too far right, and a second detection is inside a crowd."""
    objects = [(0, rectangle(10, 10, 70, 70)), (0, rectangle(0, 75, 90, 130), "crowd")]
    found = [(0, 0.9, rectangle(10, 12, 70, 72)), (0, 0.95, rectangle(20, 80, 40, 100))]
    known, detections = (json.loads(path.read_text()) for path in written)
    part = MaskPrecision(NAMES, STYLES).measure(*image_of(objects, found))
    known["images"], known["annotations"], detections = known["images"][:1], [], []
    for label, crowd, _, area, runs in part["objects"]:
        region = {"image_id": 0, "category_id": label, "segmentation": {"size": part["size"], "counts": runs}}
        known["annotations"].append(region | {"iscrowd": crowd, "area": area})
    for label, score, runs in part["detections"]:
        region = {"image_id": 0, "category_id": label, "segmentation": {"size": part["size"], "counts": runs}}
        detections.append(region | {"score": score})
    for path, content in zip(written, (known, detections), strict=True):
        path.write_text(json.dumps(content))
    arguments = f"--ground_truth={written[0]}", f"--detections={written[1]}", "--style=voc12"
    for kind, iou, expected in (("segm", 0.9, 1), ("boundary", 0.5, 1), ("boundary", 0.6, 0)):
        assert main([*arguments, f"--iou_type={kind}", f"--iou={iou}"]) == 0
        assert json.loads(capsys.readouterr().out)["mAP"] == expected
