import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from models import registry
from models.ops import anchors

PUBLISHED = 34_014_999  # torchvision's retinanet_resnet50_fpn: 91 classes, frozen batch normalisation
SIZE = (75, 109)


def fields_of(use, **fields):
    config = common.get_config()
    use(config)
    small = dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), tower=1)
    config.model.update(small if fields.pop("small", True) else {}, **fields)
    return config.model.to_dict()


def build(num_classes=3, **fields):
    return registry.build(
        **fields_of(detectors.use_light_retinanet, **fields), num_classes=num_classes, rngs=nnx.Rngs(0)
    )


def outline(**fields):
    return nnx.eval_shape(lambda: build(**fields))


def test_parameter_count_equals_the_published_network():
    fields = fields_of(detectors.use_retinanet, small=False)
    model = nnx.eval_shape(lambda: registry.build(**fields, num_classes=91, rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert sum(np.prod(leaf.shape) for _, leaf in state) == PUBLISHED
    tower = 4 * (9 * 256 * 256 + 256)
    heads = 2 * tower + 9 * 256 * 9 * (91 + 4) + 9 * (91 + 4)
    assert sum(np.prod(leaf.shape) for path, leaf in state if path[0] != "backbone") == heads


@pytest.mark.parametrize("fields", [dict(), dict(norm="batch"), dict(placement="corners", octaves=2, dtype="bfloat16")])
def test_outputs_have_one_row_per_anchor(fields):
    model = outline(**fields)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    outputs = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
    levels = model.geometry(SIZE)["anchors"]
    assert [level.shape[:2] for level in levels] == [(10, 14), (5, 7), (3, 4), (2, 2)]
    for name, values in (("logits", 3), ("offsets", 4)):
        assert [output.shape for output in outputs[name]] == [(2, level.size // 4, values) for level in levels]
        assert all(output.dtype == jnp.float32 for output in outputs[name])


def test_anchors_follow_the_fields():
    fields = dict(scale=3.0, octaves=2, ratios=(0.7, 1.0), placement="corners")
    expected = anchors.pyramid(SIZE, (8, 16, 32, 64), 3.0, 2, (0.7, 1.0), "corners")
    for a, b in zip(outline(**fields).geometry(SIZE)["anchors"], expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_initial_scores_are_one_percent_and_initial_boxes_are_near_anchors():
    model = build()
    images = np.random.default_rng(0).uniform(-1, 1, (1, *SIZE, 3)).astype(np.float32)
    outputs = jax.tree.map(np.asarray, nnx.jit(lambda model, images: model(images, train=False))(model, images))
    for logits, offsets in zip(outputs["logits"], outputs["offsets"], strict=True):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), 0.01, rtol=0.5)
        assert np.abs(offsets).max() < 0.5


def test_backbone_with_several_widths_raises_a_user_error():
    resnet = dict(name="resnet", layers=10, width=0.1, norm="batch", momentum=0.9, output_stride=32)
    fields = fields_of(detectors.use_light_retinanet) | dict(backbone=resnet)
    with pytest.raises(
        UserError, match=r"^config\.model\.backbone\.name='resnet' has features of \[8, 16, .* take 'fpn'"
    ):
        nnx.eval_shape(lambda: registry.build(**fields, num_classes=3, rngs=nnx.Rngs(0)))
