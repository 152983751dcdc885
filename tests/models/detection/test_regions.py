"""Region-based models share the right features among the regions of an image, and the right layers learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from models import registry
from models.ops.roi_pool import roi_pool
from models.ops.warp import warp
from tests.models.drawn import draw, put

NAMES = ("fast_rcnn", "sppnet", "rcnn")
REGIONS = np.array([[[2.0, 3, 20, 30], [0, 0, 32, 40], [8, 8, 24, 25], [0, 0, 0, 0], [9, 1, 30, 12]]], np.float32)


def fields_of(name, **fields):
    config = common.get_config()
    getattr(detectors, f"use_{name}")(config)
    detectors.use_light_trunk(config)
    config.model.backbone = dict(name="vgg", layers=11, width=0.07, norm="none", momentum=0.9)  # compiles fast
    config.model.update({"fc": 16} | (dict(size=24, context=4, chunk=2) if name == "rcnn" else {}) | fields)
    return config.model.to_dict()


def build(name, **fields):
    return registry.build(**fields_of(name, **fields), num_classes=3, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).standard_normal((1, 32, 40, 3)).astype(np.float32)


@nnx.jit(static_argnames="train")
def run(model, image, regions, train=False):
    return model.classify(model.features(image, train=train), regions, train=train)


def test_vgg_detectors_have_the_known_parameter_counts():
    """The networks have VGG-16's layers up to fc7, then 21 classes with 4 offsets each.

    SPPnet's pyramid has 50 bins, pool5 has 49.
    """
    convolutions, fc7 = 14_714_688, 4096 * 4096 + 4096
    outputs = (4096 + 1) * 21 * 5
    for name, bins in (("fast_rcnn", 49), ("sppnet", 50), ("rcnn", 49)):
        config = common.get_config()
        getattr(detectors, f"use_{name}")(config)
        model = nnx.eval_shape(lambda c=config: registry.build(**c.model.to_dict(), num_classes=20, rngs=nnx.Rngs(0)))
        count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert count == convolutions + bins * 512 * 4096 + 4096 + fc7 + outputs, name


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_a_region_do_not_depend_on_other_regions(name, image):
    """Reversing the order of the regions only reverses the order of the outputs.

    The outputs are finite for a region without area.
    """
    model = draw(lambda: build(name))
    found = run(model, image, REGIONS)
    assert found["logits"].shape == (1, 5, 4) and found["offsets"].shape == (1, 5, 4, 4)
    assert all(np.isfinite(x).all() for x in found.values())
    turned = run(model, image, REGIONS[:, ::-1])
    for key, rows in found.items():
        np.testing.assert_allclose(rows, turned[key][:, ::-1], atol=1e-5)


def test_rcnn_runs_the_network_on_each_region_separately(image):
    model = draw(lambda: build("rcnn"))
    found = jax.jit(lambda image: model.extract({1: image}, REGIONS))(image)
    windows = np.asarray(jax.jit(lambda image: warp(image, REGIONS, size=24, context=4)[0])(image))
    alone = jax.jit(lambda window: model.backbone(window, train=False)[8][0])
    for row, window in zip(np.asarray(found), windows, strict=True):
        np.testing.assert_allclose(row, alone(window[None]), atol=1e-5)
    model.chunk = 5
    whole = jax.jit(lambda image: model.extract({1: image}, REGIONS))(image)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_fast_rcnn_pools_from_the_features_of_the_image(image):
    model = draw(lambda: build("fast_rcnn"))
    features = jax.jit(lambda image: model.features(image, train=False))(image)
    expected = jax.jit(lambda x: roi_pool(x, REGIONS, stride=8, size=(7, 7))[0])(features[8])
    np.testing.assert_array_equal(jax.jit(lambda features: model.extract(features, REGIONS))(features), expected)


@pytest.mark.parametrize(
    ("name", "learns"), [("fast_rcnn", True), ("sppnet", False), pytest.param("rcnn", True, marks=pytest.mark.slow)]
)
def test_layers_below_the_pooling_learn_except_in_sppnet(name, learns, image):
    graphdef, params = nnx.split(draw(lambda: build(name)))

    @jax.jit
    @jax.grad
    def gradient(params):
        found = run(nnx.merge(graphdef, params), image, REGIONS, train=True)
        return jnp.square(found["logits"]).sum() + jnp.square(found["offsets"] - 1).sum()

    sizes = {path[0]: 0.0 for path, _ in nnx.to_flat_state(params)}
    for path, leaf in nnx.to_flat_state(gradient(params)):
        sizes[path[0]] += float(np.abs(leaf[...]).sum())
    assert (sizes["backbone"] > 0) == learns and sizes["box_head"] > 0


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("rcnn", dict(size=20), "config.model.size=20 must be a multiple of model.stride=8"),
        ("rcnn", dict(context=12), "more than twice model.context=12"),
        ("sppnet", dict(stride=64), "has no features of stride 64"),
    ],
)
def test_invalid_fields_raise_a_user_error(name, fields, words):
    with pytest.raises(UserError, match=words):
        nnx.eval_shape(lambda: build(name, **fields))
    backbone = fields_of("rcnn")["backbone"] | dict(norm="batch")
    with pytest.raises(UserError, match="norm='batch' is not supported by rcnn"):
        nnx.eval_shape(lambda: build("rcnn", backbone=backbone))


def test_svms_and_regressors_start_at_zero_and_read_the_described_inputs(image):
    """`describe` returns the inputs of the solved layers.

    These are fc7 for the margins and the pooled features for the offsets.
    """
    head = build("sppnet", head="svm").box_head
    assert not any(np.any(leaf) for layer in (head.margins, head.offsets) for leaf in jax.tree.leaves(nnx.state(layer)))

    model = draw(lambda: build("sppnet", head="svm"))
    pooled, hidden = jax.jit(lambda image: model.describe(model.features(image, train=False), REGIONS))(image)
    pooled, hidden, rng = np.asarray(pooled), np.asarray(hidden), np.random.default_rng(2)
    kernels = [rng.standard_normal((rows.shape[-1], 3 * n), np.float32) for rows, n in ((hidden, 1), (pooled, 4))]
    biases = [rng.standard_normal(3 * n, np.float32) for n in (1, 4)]
    head = model.box_head
    for layer, kernel, bias in zip((head.margins, head.offsets), kernels, biases, strict=True):
        put(layer.kernel, kernel[None, None])
        put(layer.bias, bias)
    found = {name: np.asarray(rows) for name, rows in run(model, image, REGIONS).items()}
    assert found["logits"].shape == (1, 5, 4) and found["offsets"].shape == (1, 5, 4, 4)
    assert not found["logits"][..., 0].any() and not found["offsets"][:, :, 0].any(), "background"
    np.testing.assert_allclose(found["logits"][..., 1:], hidden @ kernels[0] + biases[0], rtol=1e-4, atol=1e-4)
    offsets = (pooled @ kernels[1] + biases[1]).reshape(1, 5, 4, 3).swapaxes(2, 3)
    np.testing.assert_allclose(found["offsets"][:, :, 1:], offsets, rtol=1e-4, atol=1e-3)
