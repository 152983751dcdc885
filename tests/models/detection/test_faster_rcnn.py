from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from fields import fill
from models import registry
from models.backbones.weights import VGG_FC6, match_vgg_head
from models.heads.box import BoxHead
from models.ops.roi_align import assign_levels, roi_align
from models.ops.roi_pool import roi_pool
from models.registry import BACKBONE, MODEL
from tests.models.drawn import draw, put

PUBLISHED = 41_755_286  # torchvision's fasterrcnn_resnet50_fpn: 91 classes with the background, frozen norms
SIZE = (75, 109)


def fields_of(use, small=True, **fields):
    config = common.get_config()
    use(config)
    config.model.update(dict(backbone=dict(bottom_up=dict(layers=10, width=0.07), width=8), fc=16) if small else {})
    config.model.update(fields)
    return config.model.to_dict()


def build(**fields):
    return registry.build(**fields_of(detectors.use_light_faster_rcnn, **fields), num_classes=3, rngs=nnx.Rngs(0))


def vgg(**fields):
    """Return the shapes of the published network on VGG-16, or of a narrow one with VGG-11."""
    fields = fields_of(detectors.use_vgg_faster_rcnn, small=False) | fields
    return nnx.eval_shape(lambda: registry.build(**fields, num_classes=20, rngs=nnx.Rngs(0)))


def count(model):
    """Return the number of parameters of each part."""
    counts = {}
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        counts[path[0]] = counts.get(path[0], 0) + int(np.prod(leaf.shape))
    return counts


def test_parameter_count_equals_the_published_network():
    fields = fields_of(detectors.use_faster_rcnn, small=False)
    counts = count(nnx.eval_shape(lambda: registry.build(**fields, num_classes=90, rngs=nnx.Rngs(0))))
    assert sum(counts.values()) == PUBLISHED
    assert counts["rpn"] == 9 * 256 * 256 + 256 + 256 * 3 * 5 + 3 * 5
    assert counts["box_head"] == 49 * 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 91 * 5 + 91 * 5


@pytest.mark.parametrize("fields", [dict(), dict(octaves=2, dtype="bfloat16")])
def test_outputs_have_one_row_per_anchor_and_per_region(fields):
    model = nnx.eval_shape(lambda: build(**fields))
    images, regions = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32), jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)

    def run(model, images, regions):
        features = model.features(images, train=True)
        return model.propose(features), model.classify(features, regions, train=False)

    first, second = nnx.eval_shape(run, model, images, regions)
    levels = model.geometry(SIZE)["anchors"]
    assert [level.shape[:2] for level in levels] == [(19, 28), (10, 14), (5, 7), (3, 4)]
    assert [x.shape for x in first["objectness"]] == [(2, level.size // 4) for level in levels]
    assert [x.shape for x in first["shifts"]] == [(2, level.size // 4, 4) for level in levels]
    assert (second["logits"].shape, second["offsets"].shape) == ((2, 5, 4), (2, 5, 4, 4))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((first, second)))


def test_regions_are_aligned_on_the_level_of_their_size():
    """P6 of the published network has stride 64 and only makes proposals."""
    backbone = fields_of(detectors.use_light_faster_rcnn)["backbone"] | dict(coarsest=64, coarser="pool")
    model = nnx.eval_shape(lambda: build(backbone=backbone))
    rng = np.random.default_rng(0)
    features = {s: rng.standard_normal((1, 512 // s, 512 // s, 8)).astype(np.float32) for s in model.strides}
    assert model.strides == (4, 8, 16, 32, 64)
    regions = np.array([[[0, 0, 20, 20], [9, 9, 130, 140], [0, 0, 256, 256], [0, 0, 511, 512]]], np.float32)
    levels = jax.jit(partial(assign_levels, strides=(4, 8, 16, 32)))(regions)
    assert levels.tolist() == [[0, 1, 2, 3]]

    @jax.jit
    def both(features, regions):
        align = partial(roi_align, size=(3, 3), aligned=False)
        own = [
            align(features[stride], regions[:, place : place + 1], stride=stride)[0, 0]
            for place, stride in enumerate((4, 8, 16, 32))
        ]
        return model.align(features, regions, (3, 3)), own

    found, own = jax.tree.map(np.asarray, both(features, regions))
    np.testing.assert_allclose(found, own, atol=1e-6)


def test_backbone_with_several_widths_raises_a_user_error():
    backbone = dict(name="resnet", layers=10, width=0.1, norm="batch", momentum=0.9, output_stride=32)
    fields = fields_of(detectors.use_light_faster_rcnn) | dict(backbone=backbone)
    with pytest.raises(UserError, match="so take 'fpn'"):
        nnx.eval_shape(lambda: registry.build(**fields, num_classes=3, rngs=nnx.Rngs(0)))


def test_vgg_parameter_count_equals_the_published_network():
    """VOC has 20 classes. With the background these are 21 scores and 84 offsets.

    Each of the nine anchors has one logit here.
    """
    counts = count(vgg())
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512), *[(512, 512)] * 5]
    backbone = sum(9 * inputs * outputs + outputs for inputs, outputs in pairs)
    rpn = (9 * 512 + 1) * 512 + (512 + 1) * 9 * (1 + 4)
    head = (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * (21 + 84)
    assert counts == {"backbone": backbone, "rpn": rpn, "box_head": head} and backbone == 14_714_688
    # The authors' RPN has two softmax scores per anchor, so their network has 137,078,239 parameters.
    assert sum(counts.values()) + (512 + 1) * 9 == 137_078_239


def test_vgg_anchors_have_sizes_128_256_and_512_at_three_ratios():
    (level,) = vgg().geometry((600, 1000))["anchors"]
    assert level.shape == (38, 63, 9, 4)
    np.testing.assert_allclose((level[2, 5, :, :2] + level[2, 5, :, 2:]) / 2, [[40, 88]] * 9, atol=1e-4)
    height, width = np.moveaxis(level[0, 0, :, 2:] - level[0, 0, :, :2], -1, 0)
    np.testing.assert_allclose(np.sqrt(height * width), np.repeat([128, 256, 512], 3), rtol=1e-5)
    np.testing.assert_allclose(width / height, [0.5, 1, 2] * 3, rtol=1e-5)


def test_vgg_regions_are_pooled_at_stride_16():
    model = vgg()
    rng = np.random.default_rng(0)
    features = {s: rng.standard_normal((1, 64 // s, 96 // s, 4)).astype(np.float32) for s in (8, 16)}
    regions = np.array([[[0, 0, 20, 20], [9, 9, 60, 90]]], np.float32)
    found = jax.jit(partial(model.align, size=(3, 3)))(features, regions)
    own = jax.jit(partial(roi_pool, stride=16, size=(3, 3)))(features[16], regions)
    np.testing.assert_array_equal(found, own[0])


def test_roi_align_works_on_one_level_of_any_backbone():
    backbone = dict(name="resnet", layers=10, width=0.1, norm="batch", momentum=0.9, output_stride=32)
    model = vgg(backbone=backbone, pooling="align", fc=16)
    assert model.strides == (16,) and [level.shape for level in model.geometry((64, 96))["anchors"]] == [(4, 6, 9, 4)]
    features, regions = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 4, 6, 8), (2, 5, 4)))
    found = jax.eval_shape(partial(model.align, size=(7, 7)), {16: features}, regions)
    assert found.shape == (10, 7, 7, 8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            dict(strides=(64,)),
            r"config.model.strides: vgg has no features of stride 64; choose from \[1, 2, 4, 8, 16, 32\]",
        ),
        (dict(strides=(16, 32)), r"max' needs one level, not the strides \(16, 32\)"),
        (dict(strides=(8, 4)), "so take 'fpn'"),
    ],
)
def test_invalid_strides_raise_a_one_line_error(fields, words):
    with pytest.raises(UserError, match=words) as caught:
        vgg(**fields)
    assert "\n" not in str(caught.value)


def test_stored_config_without_newer_fields_is_filled_to_the_same_network():
    whole = fields_of(detectors.use_faster_rcnn, small=False)
    older = {name: value for name, value in whole.items() if name not in ("strides", "span", "pooling", "dropout")}
    whole["backbone"]["bottom_up"] = fill(whole["backbone"]["bottom_up"], BACKBONE)
    assert fill(older, MODEL) == whole


NAMES = {"torchvision": ("classifier.0", "classifier.3"), "timm": ("pre_logits.fc1", "pre_logits.fc2")}


@pytest.mark.parametrize("style", NAMES)
def test_vgg_file_fills_the_backbone_and_the_head(style):
    fc6, fc7 = NAMES[style]
    last = "head.fc.weight" if style == "timm" else "classifier.6.weight"
    keys = ["features.0.weight", *(f"{layer}.{part}" for layer in (fc6, fc7) for part in ("weight", "bias")), last]
    weights = vgg().pretrained(keys)
    found = {path[1:]: key for path, (key, _) in weights.arrays.items() if path[0] == "box_head"}
    own = {(ours, "kernel"): f"{theirs}.weight" for ours, theirs in (("fc6", fc6), ("fc7", fc7))}
    assert found == own | {(ours, "bias"): f"{theirs}.bias" for ours, theirs in (("fc6", fc6), ("fc7", fc7))}
    assert last in weights.unused and {path[0] for path in weights.arrays} == {"backbone", "box_head"}
    narrow = vgg(fc=1024).pretrained(keys)  # its head keeps the random weights
    assert {path[0] for path in narrow.arrays} == {"backbone"} and narrow.unused == frozenset(keys[1:])


def test_head_with_vgg_weights_equals_the_fully_connected_classifier():
    """The reference flattens regions in PyTorch's order [N,C,7,7] and multiplies them by [out,in] matrices in numpy."""
    rng = np.random.default_rng(0)
    regions, outputs = rng.standard_normal((3, 2, 7, 7)), 6
    kernels = {"classifier.0": rng.standard_normal((6, 98)), "classifier.3": rng.standard_normal((6, 6))}
    fields = dict(fc=outputs, dropout=0.5, num_classes=2, dtype="float32")
    head = draw(lambda: BoxHead(2, (7, 7), **fields, rngs=nnx.Rngs(0)))
    weights = match_vgg_head(frozenset(f"{key}.weight" for key in kernels), VGG_FC6).arrays
    for ours, layer in (("fc6", "classifier.0"), ("fc7", "classifier.3")):
        key, convert = weights[ours, "kernel"]
        put(getattr(head, ours).kernel, convert(kernels[key.removesuffix(".weight")]))
        assert key == f"{layer}.weight"
    x = regions.reshape(3, -1)
    for kernel in kernels.values():
        x = np.maximum(x @ kernel.T, 0)
    logits, _ = jax.jit(lambda x: head(x, train=False))(regions.transpose(0, 2, 3, 1).astype(np.float32))
    np.testing.assert_allclose(logits, x @ np.asarray(head.logits.kernel[...])[0, 0], rtol=1e-4, atol=1e-4)


def test_head_dropout_acts_in_training_only():
    fields = dict(fc=64, dropout=0.5, num_classes=2, dtype="float32")
    head = draw(lambda: BoxHead(2, (7, 7), **fields, rngs=nnx.Rngs(0)))
    regions = np.ones((1, 7, 7, 2), np.float32)
    plain, _ = jax.jit(lambda x: head(x, train=False))(regions)
    train = jax.jit(lambda x, key: head(x, train=True, rngs=nnx.Rngs(key))[0])
    drawn = [train(regions, jax.random.key(seed)) for seed in range(2)]
    assert not np.allclose(drawn[0], plain) and not np.allclose(*drawn)
