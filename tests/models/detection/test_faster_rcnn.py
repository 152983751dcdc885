import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from models import registry
from models.ops.roi_align import assign_levels, roi_align

PUBLISHED = 41_755_286  # torchvision's fasterrcnn_resnet50_fpn for 91 classes with the background, its norms frozen
SIZE = (75, 109)


def fields_of(use, small=True, **fields):
    config = common.get_config()
    use(config)
    config.model.update(dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), fc=16) if small else {})
    config.model.update(fields)
    return config.model.to_dict()


def build(**fields):
    return registry.build(**fields_of(detectors.use_light_faster_rcnn, **fields), num_classes=3, rngs=nnx.Rngs(0))


def test_parameters_are_those_of_the_published_network():
    fields = fields_of(detectors.use_faster_rcnn, small=False)
    model = nnx.eval_shape(lambda: registry.build(**fields, num_classes=90, rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    counts = {}
    for path, leaf in state:
        counts[path[0]] = counts.get(path[0], 0) + int(np.prod(leaf.shape))
    assert sum(counts.values()) == PUBLISHED
    assert counts["rpn"] == 9 * 256 * 256 + 256 + 256 * 3 * 5 + 3 * 5
    assert counts["box_head"] == 49 * 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 91 * 5 + 91 * 5


@pytest.mark.parametrize("fields", [dict(), dict(octaves=2, dtype="bfloat16")])
def test_outputs_are_those_of_the_anchors_and_the_regions(fields):
    model = nnx.eval_shape(lambda: build(**fields))
    images, regions = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32), jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)

    def run(model, images, regions):
        features = model.features(images, train=True)
        return model.propose(features), model.classify(features, regions)

    first, second = nnx.eval_shape(run, model, images, regions)
    levels = model.geometry(SIZE)["anchors"]
    assert [level.shape[:2] for level in levels] == [(19, 28), (10, 14), (5, 7), (3, 4)]
    assert [x.shape for x in first["objectness"]] == [(2, level.size // 4) for level in levels]
    assert [x.shape for x in first["shifts"]] == [(2, level.size // 4, 4) for level in levels]
    assert (second["logits"].shape, second["offsets"].shape) == ((2, 5, 4), (2, 5, 4, 4))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((first, second)))


def test_regions_are_aligned_from_the_levels_of_their_sizes():
    """P6 of the published network, of the stride 64, is for proposals alone."""
    model = build(backbone=fields_of(detectors.use_light_faster_rcnn)["backbone"] | dict(coarsest=64, coarser="pool"))
    rng = np.random.default_rng(0)
    features = {s: rng.standard_normal((1, 512 // s, 512 // s, 8)).astype(np.float32) for s in model.strides}
    assert model.strides == (4, 8, 16, 32, 64)
    regions = np.array([[[0, 0, 20, 20], [9, 9, 130, 140], [0, 0, 256, 256], [0, 0, 511, 512]]], np.float32)
    levels = assign_levels(regions, (4, 8, 16, 32))[0]
    assert levels.tolist() == [0, 1, 2, 3]
    found = model.align(features, regions, (3, 3))
    for place, stride in enumerate((4, 8, 16, 32)):
        own = roi_align(features[stride], regions[:, place : place + 1], stride=stride, size=(3, 3), aligned=False)
        np.testing.assert_allclose(found[place], own[0, 0], atol=1e-6)


def test_a_backbone_of_several_widths_is_one_line():
    backbone = dict(name="resnet", layers=10, width=0.1, norm="batch", momentum=0.9, output_stride=32)
    fields = fields_of(detectors.use_light_faster_rcnn) | dict(backbone=backbone)
    with pytest.raises(UserError, match="so take 'fpn'"):
        registry.build(**fields, num_classes=3, rngs=nnx.Rngs(0))
