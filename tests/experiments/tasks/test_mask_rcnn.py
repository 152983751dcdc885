"""The mask loss of Mask R-CNN equals plain loops, and only regions of objects contribute to it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from experiments.tasks import registry
from models.detection.mask_rcnn import MaskRCNN
from models.ops import masks
from tests.experiments.tasks import test_faster_rcnn as faster_rcnn
from tests.experiments.tasks.scenes import CLASSES, MOST, SIZE, make_batch, random_batch

CELLS = (6, 6)  # size of a predicted mask
rng = np.random.default_rng(8)
LOGITS = rng.normal(0, 0.05, (4, *CELLS, 1 + len(CLASSES)))


@MaskRCNN.register
class Stages(faster_rcnn.Stages):
    def segment(self, features, regions):
        return jnp.einsum("brx,xhwc->brhwc", regions, LOGITS)


@cache
def make_task(**fields):
    config = common.get_config()
    detectors.use_light_mask_rcnn(config)
    config.task.update(faster_rcnn.ALL | fields)
    return registry.make_task(config, CLASSES)


def add_masks(batch):
    count = len(batch["image"])
    return batch | {"masks": np.random.default_rng(1).integers(0, 2, (count, MOST, 9, 8)).astype(np.uint8)}


@cache
def compiled(task):
    @jax.jit
    def train(outputs, batch):
        outputs = task.apply(Stages(outputs), batch, train=True, rngs=nnx.Rngs(0))
        return outputs, task.loss(outputs, batch)[0]

    return train


def run(task, batch):
    """Return (outputs of apply in training, terms)."""
    return jax.tree.map(np.asarray, compiled(task)(faster_rcnn.make_outputs(), batch))


def overlap_of(box, region):
    return faster_rcnn.iou(box.astype(float), region.astype(float))


def test_mask_loss_equals_loops():
    """Each region of an object is compared with the mask of that object, in the channel of its class."""
    batch, task = add_masks(random_batch(np.random.default_rng(3))), make_task()
    outputs, terms = run(task, batch)
    learned = np.asarray(jax.jit(task.learnable)(batch))
    crop = jax.jit(partial(masks.crop, size=CELLS))
    total = count = 0
    for row in range(6):
        for place, region in enumerate(outputs["regions"][row]):
            if not outputs["region_mask"][row, place] or outputs["region_classes"][row, place] == 0:
                continue
            mine = [i for i in range(MOST) if learned[row, i]]
            owner = max(mine, key=lambda i: (overlap_of(batch["boxes"][row, i], region), -i))
            assert overlap_of(batch["boxes"][row, owner], region) >= 0.5
            own = (rows[row, owner][None] for rows in (batch["masks"], batch["boxes"]))
            target = np.asarray(crop(*own, region[None])[0], float)
            logits = np.einsum("x,xhw->hw", region, LOGITS[..., 1 + batch["classes"][row, owner]])
            total += (np.logaddexp(0, logits) - target * logits).mean()
            count += 1
    assert count > 5 and terms.keys() == {"objectness", "proposals", "classification", "localisation", "masks"}
    np.testing.assert_allclose((terms["masks"].total, terms["masks"].weight), (total, count), rtol=1e-4)


def test_objects_with_an_empty_mask_have_no_mask_loss():
    batch = add_masks(random_batch(np.random.default_rng(3)))
    batch["masks"][0] = 0  # masks of the objects in the first image
    outputs, terms = run(make_task(), batch)
    assert (outputs["region_classes"][0] > 0).any() and not outputs["mask_positive"][0].any()
    assert terms["masks"].weight == outputs["mask_positive"].sum() > 0


@pytest.mark.slow
def test_few_regions_are_segmented_including_all_positive_ones():
    batch = add_masks(random_batch(np.random.default_rng(3)))
    outputs, terms = run(make_task(regions=8, region_share=0.5), batch)
    assert outputs["mask_logits"].shape == (6, 4, *CELLS) == outputs["mask_targets"].shape
    positive = (outputs["region_mask"] & (outputs["region_classes"] > 0)).sum()
    assert positive == outputs["mask_positive"].sum() == terms["masks"].weight > 4


def test_losses_and_gradients_are_finite_without_objects_or_images():
    """The batch has padding, images without objects, an image with only a crowd, and an object without area."""
    batch = add_masks(make_batch([], [((0, 0, *SIZE), 0, "c")], [((5, 5, 5, 5), 1, "")]))
    batch["example_mask"][0] = False
    batch, task = jax.tree.map(jnp.asarray, batch), make_task()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(outputs):
        terms, _ = task.loss(task.apply(Stages(outputs), batch, train=True, rngs=nnx.Rngs(0)), batch)
        return sum(term.value() for term in terms.values()), terms["masks"]

    (value, term), found = loss(faster_rcnn.make_outputs(3))
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert term.total == term.weight == 0, "no region matches an object"


def test_evaluation_segments_the_kept_detections():
    batch = random_batch(np.random.default_rng(3))
    seen = {name: batch[name] for name in ("image", "original_size", "to_original", "example_mask", "boxes_lost")}
    task = make_task(score_threshold=0.3, max_detections=7)
    plain = faster_rcnn.make_task(score_threshold=0.3, max_detections=7)

    @jax.jit
    def evaluate(outputs, seen):
        outputs = task.apply(Stages(outputs), seen, train=False, rngs=None)
        return task.loss(outputs, seen)[0], task.predict(outputs, seen), plain.predict(outputs, seen)

    terms, found, others = jax.tree.map(np.asarray, evaluate(faster_rcnn.make_outputs(), seen))
    assert not terms
    assert found["masks"].shape == (6, 7, *CELLS) and found["valid"].any()
    for row, place in zip(*np.nonzero(found["valid"]), strict=True):
        column = LOGITS[..., 1 + found["classes"][row, place]]
        expected = 1 / (1 + np.exp(-np.einsum("x,xhw->hw", found["boxes"][row, place], column)))
        np.testing.assert_allclose(found["masks"][row, place], expected, rtol=1e-4)
    for name in others:
        np.testing.assert_allclose(found[name], others[name], rtol=1e-5)


def test_model_without_masks_raises_a_user_error():
    config = common.get_config()
    detectors.use_light_faster_rcnn(config)
    config.task.name = "mask_rcnn"
    with pytest.raises(
        UserError, match="reads proposals, regions and masks, and .*'faster_rcnn' produces proposals and"
    ):
        registry.make_task(config, CLASSES)
