import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from models import registry
from models.ops import anchors

PUBLISHED = 32_269_600  # torchvision's fcos_resnet50_fpn: 91 classes, frozen batch normalisation
SIZE = (75, 109)


def outline(use, num_classes=3, **fields):
    config = common.get_config()
    use(config)
    config.model.update(fields)
    fields = config.model.to_dict()
    return nnx.eval_shape(lambda: registry.build(**fields, num_classes=num_classes, rngs=nnx.Rngs(0)))


def test_parameter_count_equals_the_published_network():
    state = nnx.to_flat_state(nnx.state(outline(detectors.use_fcos, 91), nnx.Param))
    assert sum(np.prod(leaf.shape) for _, leaf in state) == PUBLISHED
    tower = 4 * (9 * 256 * 256 + 256 + 2 * 256)
    heads = 2 * tower + 9 * 256 * (91 + 5) + 91 + 5
    assert sum(np.prod(leaf.shape) for path, leaf in state if path[0] != "backbone") == heads


@pytest.mark.parametrize("fields", [dict(), dict(norm="none", placement="corners", dtype="bfloat16")])
def test_outputs_have_one_row_per_location(fields):
    model = outline(detectors.use_light_fcos, **fields)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    outputs = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
    places = [(10, 14), (5, 7), (3, 4), (2, 2)]
    for name, shape in (("logits", (3,)), ("distances", (4,)), ("centerness", ())):
        assert [output.shape for output in outputs[name]] == [(2, h * w, *shape) for h, w in places]
        assert all(output.dtype == jnp.float32 for output in outputs[name])
    expected = anchors.pyramid(SIZE, (8, 16, 32, 64), 1.0, 1, (1.0,), fields.get("placement", "centres"))
    for a, b in zip(model.geometry(SIZE)["anchors"], expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_distances_are_not_negative_and_initial_scores_are_one_percent():
    config = common.get_config()
    detectors.use_light_fcos(config)
    config.model.update(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), tower=1)
    model = registry.build(**config.model.to_dict(), num_classes=3, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).uniform(-1, 1, (1, *SIZE, 3)).astype(np.float32)
    outputs = jax.tree.map(np.asarray, nnx.jit(lambda model, images: model(images, train=False))(model, images))
    for logits, distances in zip(outputs["logits"], outputs["distances"], strict=True):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), 0.01, rtol=0.5)
        assert (distances >= 0).all()
    assert any((distances > 0).any() for distances in outputs["distances"])
