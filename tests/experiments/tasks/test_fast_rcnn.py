"""The loss of Fast R-CNN equals plain loops if all regions are sampled."""

from functools import cache

import jax
import numpy as np
from flax import nnx

from configs import common, detectors
from experiments.tasks import registry
from experiments.tasks.base import total_loss
from tests.experiments.tasks import test_faster_rcnn as loops
from tests.experiments.tasks.scenes import CLASSES, SIZE, make_batch, random_batch

PROPOSALS = 12


class Stages(loops.Stages):
    def __init__(self):
        pass


@cache
def make_task(**fields):
    config = common.get_config()
    detectors.use_fast_rcnn(config)
    config.task.update(dict(regions=60, region_share=1.0, beta=loops.BETA, use_difficult=True) | fields)
    return registry.make_task(config, CLASSES)


def add_proposals(batch):
    rng = np.random.default_rng(7)
    corner = rng.uniform(0, 20, (len(batch["image"]), PROPOSALS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 20, corner.shape)], -1)
    boxes[:, :4] = np.where(
        batch["valid"][:, :4, None], batch["boxes"][:, :4] + rng.uniform(-1, 1, (4, 4)), boxes[:, :4]
    )
    there = np.arange(PROPOSALS) < rng.integers(6, PROPOSALS, (len(boxes), 1))
    return batch | {"proposals": (boxes * there[..., None]).astype(np.float32), "proposal_mask": there}


@cache
def compiled(task):
    @jax.jit
    def train(batch):
        outputs = task.apply(Stages(), batch, train=True, rngs=nnx.Rngs(0))
        return outputs, *task.loss(outputs, batch)

    return train


def run(task, batch):
    return jax.tree.map(np.asarray, compiled(task)(batch))


def test_losses_equal_loops_if_all_regions_are_sampled():
    batch, task = add_proposals(random_batch(np.random.default_rng(3))), make_task()
    _, terms, logs = run(task, batch)
    learnable = np.asarray(jax.jit(task.learnable)(batch))
    classified = located = regions = matched = 0.0
    for row in range(6):
        boxes, learned = batch["boxes"][row].astype(float), learnable[row]
        own = [*batch["proposals"][row][batch["proposal_mask"][row]], *batch["boxes"][row][learned]]
        own = np.array(own, float).reshape(-1, 4)
        for box, (owner, counted) in zip(own, loops.assign(own, batch, row, 0.5, 0.5, False, True), strict=True):
            overlaps = [loops.iou(boxes[i], box) for i in np.flatnonzero(learned)]
            if not counted or (owner is None and max(overlaps, default=0.0) < 0.1):
                continue
            logits = box @ loops.LOGITS
            column = 0 if owner is None else 1 + batch["classes"][row, owner]
            classified += np.log(np.exp(logits).sum()) - logits[column]
            regions += 1
            if owner is not None:
                wanted = loops.encode(boxes[owner], box, np.array([0.1, 0.1, 0.2, 0.2]))
                located += loops.smooth_l1(box @ loops.OFFSETS[:, column] - wanted, loops.BETA)
                matched += 1
    assert terms.keys() == {"classification", "localisation"} and matched > 10
    np.testing.assert_allclose(
        (terms["classification"].total, terms["classification"].weight), (classified, regions), rtol=1e-4
    )
    np.testing.assert_allclose(
        (terms["localisation"].total, terms["localisation"].weight), (located, regions), rtol=1e-4
    )
    np.testing.assert_allclose((logs["matched"].total, logs["matched"].weight), (matched, 5))


def test_box_weight_of_zero_keeps_the_proposals_as_boxes():
    """The fine-tuning of R-CNN trains only the classes, and its detections are the proposals."""
    batch, task = add_proposals(random_batch(np.random.default_rng(3))), make_task(box_weight=0.0)
    outputs, terms, _ = run(task, batch)

    @jax.jit
    def compute(outputs, terms):
        values = terms["localisation"].value(), total_loss(terms), terms["classification"].value()
        return values, task.decode(outputs, SIZE)[0], make_task().decode(outputs, SIZE)[0]

    (localisation, total, classification), boxes, moved = jax.tree.map(np.asarray, compute(outputs, terms))
    assert localisation > 0 and total == classification
    np.testing.assert_allclose(boxes, np.broadcast_to(outputs["regions"][:, :, None], boxes.shape), atol=1e-4)
    assert np.abs(moved - boxes).max() > 1


def test_losses_are_finite_without_objects_proposals_or_images():
    batch = make_batch([], [((0, 0, *SIZE), 0, "c")], [((5, 5, 5, 5), 1, "")], *[[]] * 3)
    batch["example_mask"][0] = False
    values = jax.jit(lambda terms: [term.value() for term in terms.values()])
    batch |= {"proposals": np.zeros((6, PROPOSALS, 4), np.float32), "proposal_mask": np.zeros((6, PROPOSALS), bool)}
    for there in (False, True):
        batch["proposal_mask"][1:] = there
        _, terms, _ = run(make_task(), batch)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(terms))
        assert all(np.isfinite(value) for value in values(terms))


def test_evaluation_scores_the_proposals_and_has_no_loss_terms():
    batch = add_proposals(random_batch(np.random.default_rng(3)))
    names = ("image", "original_size", "to_original", "example_mask", "boxes_lost", "proposals", "proposal_mask")
    seen, task = {name: batch[name] for name in names}, make_task(score_threshold=0.0)

    @jax.jit
    def evaluate(batch):
        outputs = task.apply(Stages(), batch, train=False, rngs=None)
        return outputs, task.loss(outputs, batch)[0], task.predict(outputs, batch)

    outputs, terms, found = jax.tree.map(np.asarray, evaluate(seen))
    np.testing.assert_array_equal(outputs["regions"], batch["proposals"])
    assert not terms
    powers = np.exp(batch["proposals"] @ loops.LOGITS)
    scores = (powers / powers.sum(-1, keepdims=True))[..., 1:]
    best = np.where(batch["proposal_mask"][..., None], scores, 0).max((1, 2))
    np.testing.assert_allclose(found["scores"].max(1), best, rtol=1e-4)
