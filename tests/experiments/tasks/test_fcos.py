import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, detectors
from experiments.tasks import registry
from models.ops.anchors import pyramid
from tests.experiments.tasks.scenes import CLASSES, MOST, SIZE, area, make_batch, random_batch
from tests.experiments.tasks.terms import summed
from tests.experiments.tasks.test_retinanet import giou

STRIDES = (4, 8, 16)
LEVELS = pyramid(SIZE, STRIDES, 1.0, 1, (1.0,))
GEOMETRY = {"anchors": LEVELS}
ANCHORS = np.concatenate([level.reshape(-1, 4) for level in LEVELS])
COUNTS = tuple(level.size // 4 for level in LEVELS)
PLACES = [
    ((i + 0.5) * stride, (j + 0.5) * stride, stride)
    for stride in STRIDES
    for i in range(-(-SIZE[0] // stride))
    for j in range(-(-SIZE[1] // stride))
]


def make_task(**fields):
    config = common.get_config()
    detectors.use_light_fcos(config)
    config.task.update(dict(reach=3.0) | fields)
    return registry.make_task(config, CLASSES)


def make_loss(**fields):
    """Compile a function of (outputs, batch). It returns ((sum, weight), logs) and the gradients of the sum by output."""
    task = make_task(**fields)

    def loss(outputs, batch):
        (total, weight), logs = summed(task.loss(outputs | GEOMETRY, batch))
        return total, ((total, weight), logs)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(outputs, batch):
        (_, result), gradients = compiled(split(outputs), batch)
        result, gradients = jax.tree.map(np.asarray, (result, gradients))
        return result, {name: np.concatenate(levels, 1) for name, levels in gradients.items()}

    return run


@pytest.fixture(scope="module")
def loss():
    return make_loss()


def split(outputs):
    """Split outputs [B,A,...] by level."""
    return {name: tuple(np.split(rows, np.cumsum(COUNTS)[:-1], 1)) for name, rows in outputs.items()}


def random_outputs(generator, count):
    shape = (count, len(ANCHORS))
    outputs = {
        "logits": 2 * generator.standard_normal((*shape, len(CLASSES))),
        "distances": generator.uniform(0, 3, (*shape, 4)),
        "centerness": 2 * generator.standard_normal(shape),
    }
    return {name: rows.astype(np.float32) for name, rows in outputs.items()}


def fits(box, place, *, radius=1.5, reach=3.0):
    """Return whether a place matches an object by sections 3.1 and 3.2 and by centre sampling."""
    y, x, stride = place
    distances = y - box[0], x - box[1], box[2] - y, box[3] - x
    central = max(abs(y - (box[0] + box[2]) / 2), abs(x - (box[1] + box[3]) / 2)) < radius * stride
    least = 0 if stride == STRIDES[0] else reach / 2 * stride
    most = np.inf if stride == STRIDES[-1] else reach * stride
    return min(distances) > 0 and central and least <= max(distances) <= most


def oracle(outputs, batch, *, alpha=0.25, gamma=2.0, box_weights="centerness", use_difficult=True, **ranges):
    """Compute the loss by loops in float64.

    Return the sums by name, the weight of the boxes, and masks [B,A] of counted and of matched locations.
    """
    sums = dict(classification=0.0, localisation=0.0, centerness=0.0)
    weights, (counted, matched) = 0.0, np.zeros((2, len(batch["boxes"]), len(PLACES)), bool)
    for row, boxes in enumerate(batch["boxes"].astype(float)):
        if not batch["example_mask"][row]:
            continue
        objects = [i for i in range(MOST) if batch["valid"][row, i]]
        crowds = [i for i in objects if batch["crowd"][row, i]]
        learned = [i for i in objects if i not in crowds and (use_difficult or not batch["difficult"][row, i])]
        for a, (y, x, stride) in enumerate(PLACES):
            owner = min(
                (i for i in learned if fits(boxes[i], PLACES[a], **ranges)), key=lambda i: area(boxes[i]), default=None
            )
            if owner is None and (
                any(boxes[i, 0] <= y < boxes[i, 2] and boxes[i, 1] <= x < boxes[i, 3] for i in crowds)
                or any(fits(boxes[i], PLACES[a], **ranges) for i in objects if i not in crowds + learned)
            ):
                continue
            counted[row, a], matched[row, a] = True, owner is not None
            for c, logit in enumerate(outputs["logits"][row, a].astype(float)):
                p = 1 / (1 + np.exp(-logit))
                if owner is not None and c == batch["classes"][row, owner]:
                    sums["classification"] -= alpha * (1 - p) ** gamma * np.log(p)
                else:
                    sums["classification"] -= (1 - alpha) * p**gamma * np.log(1 - p)
            if owner is None:
                continue
            top, left, bottom, right = boxes[owner]
            t, s, b, r = y - top, x - left, bottom - y, right - x
            target = np.sqrt(min(t, b) / max(t, b) * min(s, r) / max(s, r))
            t, s, b, r = outputs["distances"][row, a].astype(float) * stride
            weight = target if box_weights == "centerness" else 1.0
            sums["localisation"] += weight * (1 - giou((y - t, x - s, y + b, x + r), boxes[owner]))
            weights += weight
            p = 1 / (1 + np.exp(-outputs["centerness"][row, a].astype(float)))
            sums["centerness"] -= target * np.log(p) + (1 - target) * np.log(1 - p)
    return sums, weights, counted, matched


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(use_difficult=False, box_weights="equal", gamma=1.5, alpha=0.4, radius=0.8, reach=4.0),
    ],
)
def test_loss_equals_the_oracle(fields, loss):
    compiled = make_loss(**fields) if fields else loss
    for seed in range(4):
        generator = np.random.default_rng(seed)
        batch = random_batch(generator)
        outputs = random_outputs(generator, len(batch["boxes"]))
        (_, logs), gradients = compiled(outputs, batch)
        sums, weights, counted, matched = oracle(outputs, batch, **fields)
        assert matched.sum() > 5 and not counted.all()
        for name, total in sums.items():
            weight = weights if name == "localisation" else matched.sum()
            np.testing.assert_allclose(logs[name], (total, weight), rtol=1e-4)
        np.testing.assert_allclose(logs["matched"], (matched.sum(), 5))
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        np.testing.assert_array_equal((np.abs(gradients["logits"]) > 0).all(-1), counted)
        np.testing.assert_array_equal(np.abs(gradients["centerness"]) > 0, matched)
        np.testing.assert_array_equal(np.abs(gradients["distances"]).max(-1) > 0, matched)


def test_every_term_is_divided_by_its_own_weight_or_at_least_one():
    task, outputs = make_task(), random_outputs(np.random.default_rng(0), 3)
    compiled = jax.jit(task.loss)
    for objects in ([], [((2, 2, 18, 18), 1, "")], [((9, 9, 31, 31), 1, ""), ((0, 20, 13, 44), 2, "")]):
        batch = make_batch(objects)
        terms, _ = jax.tree.map(np.asarray, compiled(split(outputs) | GEOMETRY, batch))
        sums, weights, _, matched = oracle(outputs, batch)
        assert 0 < weights < matched.sum() if objects else not matched.any()
        divisors = {name: max(matched.sum(), 1) for name in sums} | {"localisation": max(weights, 1)}
        assert {name: term.factor for name, term in terms.items()} == dict.fromkeys(sums, 1.0)
        for name, term in terms.items():
            np.testing.assert_allclose(term.value(), sums[name] / divisors[name], rtol=1e-4)


def test_objects_match_the_levels_of_their_size():
    """The ranges of the paper hold for three places in the middle of an object. At a range's end two levels match."""
    task = make_task(reach=8.0)
    places = np.array([[256 - stride / 2] * 2 + [256 + stride / 2] * 2 for stride in (8, 16, 32)])
    for half, levels in ((20, "100"), (64, "110"), (65, "010"), (100, "010"), (128, "011"), (129, "001"), (999, "001")):
        box = np.array([[256 - half, 250.0, 256 + half, 262.0]])
        assert "".join(map(str, task.find_fits(box, places, np)[0].astype(int))) == levels, half


def test_locations_match_only_near_the_centre_of_an_object():
    task = make_task(radius=1.5)
    place = np.array([[96.0, 96.0, 104.0, 104.0]])  # centre at 100, stride 8
    for shift, fits in ((0, True), (11.9, True), (-11.9, True), (12, False), (-12, False)):
        for across in (0, 5):
            box = np.array([[80 + shift, 80 + across, 120 + shift, 120 + across]], float)
            assert task.find_fits(box, place, np)[0, 0] == task.find_fits(box[:, [1, 0, 3, 2]], place, np)[0, 0] == fits


def test_location_matches_the_smallest_object_and_then_the_first():
    task = make_task(radius=9.0, reach=100.0)
    boxes = [((4, 4, 36, 36), 0, ""), ((8, 8, 24, 24), 1, ""), ((8, 8, 24, 24), 2, ""), ((0, 0, 3, 3), 0, "")]
    targets = jax.jit(lambda batch: task.targets(jnp.asarray(ANCHORS), batch))(make_batch(boxes))
    positive, classes = (np.asarray(rows[0][: COUNTS[0]]) for rows in (targets.positive, targets.classes))
    y, x, _ = np.array(PLACES[: COUNTS[0]]).T
    small, large = ((low < y) & (y < high) & (low < x) & (x < high) for low, high in ((8, 24), (4, 36)))
    np.testing.assert_array_equal(positive, large | ((y < 3) & (x < 3)))
    assert (classes[small] == 1).all() and (classes[large & ~small] == 0).all() and small.sum() == 16


def test_centerness_equals_equation_3():
    """Equation 3 gives 1 in the middle, sqrt(1/3) at a quarter, and 0 on the edge and outside."""
    task = make_task(radius=9.0)
    batch = make_batch([((2, 2, 10, 10), 0, "")], [((4, 2, 12, 10), 0, "")])
    targets = jax.jit(lambda batch: task.targets(jnp.asarray(ANCHORS), batch))(batch)
    first, second, _ = (dict(zip(PLACES[: COUNTS[0]], row.tolist(), strict=False)) for row in targets.centerness)
    found = [first[y, x, 4] for y, x in ((6, 6), (2, 6), (10, 10), (14, 6))]
    found += [second[y, x, 4] for y, x in ((6, 6), (10, 6))]
    np.testing.assert_allclose(found, [1, 0, 0, 0, 3**-0.5, 3**-0.5], rtol=1e-6)


def test_values_in_padding_have_no_effect(loss):
    generator = np.random.default_rng(1)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    expected, gradients = loss(outputs, batch)
    for rows in outputs.values():
        rows[4] = np.nan
    batch["boxes"][4] = 7.0
    found, others = loss(outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, (expected, gradients), (found, others))


def test_losses_of_two_half_batches_sum_to_the_whole(loss):
    generator = np.random.default_rng(7)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    (_, whole), _ = loss(outputs, batch)
    halves = [jax.tree.map(lambda rows, half=half: rows[half], (outputs, batch)) for half in (slice(3), slice(3, 6))]
    halves = [loss(*half)[0][1] for half in halves]
    for name, expected in whole.items():
        np.testing.assert_allclose(expected, np.add(halves[0][name], halves[1][name]), rtol=1e-5)


def test_mirrored_image_has_the_same_loss(loss):
    generator = np.random.default_rng(2)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    expected, _ = loss(outputs, batch)
    top, left, bottom, right = np.moveaxis(batch["boxes"], -1, 0)
    batch["boxes"] = np.stack([top, SIZE[1] - right, bottom, SIZE[1] - left], -1)
    mirrored = {}
    for name, levels in split(outputs).items():
        levels = [rows.reshape(6, *own.shape[:2], -1)[:, :, ::-1] for rows, own in zip(levels, LEVELS, strict=True)]
        mirrored[name] = np.concatenate([rows.reshape(6, -1, rows.shape[-1]) for rows in levels], 1)
    mirrored["distances"] = mirrored["distances"][..., [0, 3, 2, 1]]
    mirrored["centerness"] = mirrored["centerness"][..., 0]
    found, _ = loss(mirrored, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, found)


def test_unusual_boxes_have_finite_losses(loss):
    """The boxes have no area, are tiny, as large as the image, or larger."""
    boxes = [(6, 6, 6, 6), (6, 6, 6.001, 40), (0, 0, *SIZE), (-90, -90, 200, 200), (13.9, 13.9, 14.2, 14.2)]
    batch = make_batch(*([(box, 1, "")] for box in boxes), [(boxes[2], 0, "c")])
    outputs = random_outputs(np.random.default_rng(0), 6)
    outputs["distances"][0:3] = 0.0
    outputs["logits"] *= 1e4
    (_, logs), gradients = loss(outputs, batch)
    assert all(np.isfinite(values).all() for values in (*logs.values(), *gradients.values()))
    matched = np.abs(gradients["centerness"]) > 0
    assert matched.any(1).tolist() == [False, False, True, True, True, False]
    inside = [y < SIZE[0] and x < SIZE[1] for y, x, _ in PLACES]
    assert not gradients["logits"][5, inside].any()


def test_decoded_targets_equal_the_objects():
    task, batch = make_task(), random_batch(np.random.default_rng(3))
    targets = jax.tree.map(np.asarray, jax.jit(lambda batch: task.targets(jnp.asarray(ANCHORS), batch))(batch))
    places = np.array(PLACES)
    distances = np.concatenate([places[:, :2] - targets.boxes[..., :2], targets.boxes[..., 2:] - places[:, :2]], -1)
    outputs = {
        "distances": distances / places[:, 2:],
        "logits": np.log(np.full((6, len(PLACES), 3), 0.25) / 0.75),
        "centerness": np.log(np.full((6, len(PLACES)), 0.36) / 0.64),
    }
    boxes, scores = jax.jit(lambda outputs: task.decode(outputs | GEOMETRY, SIZE))(split(outputs))
    assert [x.shape for x in (*boxes, *scores)] == [(6, n, k) for k in (4, 3) for n in COUNTS]
    boxes, scores = (np.concatenate(levels, 1) for levels in (boxes, scores))
    np.testing.assert_allclose(boxes[targets.positive], targets.boxes[targets.positive], atol=1e-4)
    np.testing.assert_allclose(scores, 0.5 * 0.6, rtol=1e-5)


def test_matchable_boxes_own_a_location():
    generator = np.random.default_rng(0)
    task = make_task()
    found_any, missed_any = 0, 0
    for _ in range(20):
        corner, side = generator.uniform(0, 40, (8, 2)), generator.uniform(0.5, 30, (8, 2))
        boxes = np.concatenate([corner, corner + side], -1)
        owners = set()
        for place in PLACES:
            fitting = [i for i in range(8) if fits(boxes[i], place)]
            owners |= {min(fitting, key=lambda i: area(boxes[i]))} if fitting else set()
        found = task.matchable(GEOMETRY, boxes, SIZE)
        assert set(np.flatnonzero(found)) == owners
        found_any, missed_any = found_any + found.sum(), missed_any + (~found).sum()
    assert found_any and missed_any
    assert task.matchable(GEOMETRY, np.zeros((0, 4)), SIZE).shape == (0,)
