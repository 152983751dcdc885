import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.detection.ssd import L2Norm
from tests.models.drawn import draw, put

SSD300 = dict(
    backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
    fc=1024,
    extras=((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)),
    sizes=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
    ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
    l2_norm=20.0,
    norm="none",
    momentum=0.9,
    dtype="float32",
)
VGG11 = dict(name="vgg", layers=11, width=0.1, norm="none", momentum=0.9)
LIGHT = SSD300 | dict(
    backbone=VGG11,
    fc=16,
    extras=((8, 16, 2),),
    sizes=(0.2, 0.4, 0.6, 0.8),
    ratios=((2.0,), (2.0, 3.0), ()),
)


def build(num_classes=3, **fields):
    return registry.build("ssd", rngs=nnx.Rngs(0), num_classes=num_classes, **LIGHT | fields)


def outline(**fields):
    return nnx.eval_shape(lambda: build(**fields))


def output_shapes(model, size):
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    outputs = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
    assert all(output.dtype == jnp.float32 for output in outputs.values())
    return {name: output.shape for name, output in outputs.items()}


def random_images(*shape):
    return np.random.default_rng(1).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def test_parameter_count_equals_the_released_network():
    vgg = (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 5 * 512 * 512) * 9
    vgg += 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512  # biases
    fc = 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024
    extras = 1024 * 256 + 256 + 9 * 256 * 512 + 512 + 512 * 128 + 128 + 9 * 128 * 256 + 256
    extras += 2 * (256 * 128 + 128 + 9 * 128 * 256 + 256)
    shapes, channels = (4, 6, 6, 6, 4, 4), (512, 1024, 512, 256, 256, 256)
    heads = sum(k * (4 + 21) * (9 * c + 1) for k, c in zip(shapes, channels, strict=True))
    expected = vgg + fc + extras + heads + 512  # the scales of conv4_3
    assert expected == 26_285_486
    leaves = jax.tree.leaves(nnx.state(outline(num_classes=20, **SSD300), nnx.Param))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in leaves) == expected


def test_ssd300_default_boxes_equal_the_paper():
    model = outline(num_classes=20, **SSD300)
    assert [rows for rows, _ in model.grids((300, 300))] == [38, 19, 10, 5, 3, 1]
    boxes = model.geometry((300, 300))["anchors"]
    assert boxes.shape == (8732, 4) and boxes.dtype == np.float32
    assert output_shapes(model, (300, 300)) == {"offsets": (2, 8732, 4), "logits": (2, 8732, 21)}
    # The last cell of each map has two squares at its centre. Their sides are 30 and sqrt(30 * 60) pixels on the first
    # map, and 264 and sqrt(264 * 315) pixels on the last map.
    first = 0
    for cells, shapes, small, large in zip(
        (38, 19, 10, 5, 3, 1),
        (4, 6, 6, 6, 4, 4),
        (30, 60, 111, 162, 213, 264),
        (60, 111, 162, 213, 264, 315),
        strict=True,
    ):
        first += cells * cells * shapes
        cell = boxes[first - shapes : first]
        np.testing.assert_allclose(cell[:, :2] + cell[:, 2:], 2 * 300 * (cells - 0.5) / cells, rtol=1e-5)
        sides = cell[:, 2:] - cell[:, :2]
        np.testing.assert_allclose(sides[0], small, rtol=1e-5)
        np.testing.assert_allclose(sides[1], np.sqrt(small * large), rtol=1e-5)
        np.testing.assert_allclose(sides[2:].prod(-1), small * small, rtol=1e-5)
        assert sorted((sides[2:, 1] / sides[2:, 0]).round(3)) == [[0.5, 2.0], [0.333, 0.5, 2.0, 3.0]][shapes == 6]


TORCHVISION = dict(  # torchvision.models.detection.ssd300_vgg16
    sizes=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), steps=(8.0, 16.0, 32.0, 64.0, 100.0, 300.0), within=True
)


def test_torchvision_settings_give_the_stored_default_boxes():
    model = outline(num_classes=90, **SSD300 | TORCHVISION)
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in leaves) == 35_641_826
    boxes = model.geometry((300, 300))["anchors"]
    cells = (38, 19, 10, 5, 3, 1)
    ends = np.cumsum([n * n * k for n, k in zip(cells, (4, 6, 6, 6, 4, 4), strict=True)])
    centres = (boxes[ends - 1, :2] + boxes[ends - 1, 2:]) / 2  # of the last cell of each map
    expected = [(n - 0.5) * step for n, step in zip(cells, TORCHVISION["steps"], strict=True)]
    assert expected == [300.0, 296.0, 304.0, 288.0, 250.0, 150.0]
    np.testing.assert_allclose(centres, np.stack([expected, expected], -1), rtol=1e-6)
    # Boxes of torchvision 0.28 in yxyx order. First the first cell of the finest map, then the last map.
    known = [[-6.5, -6.5, 14.5, 14.5], [-11.3704, -11.3704, 19.3704, 19.3704]]
    known += [[-3.4246, -10.8492, 11.4246, 18.8492], [-10.8492, -3.4246, 18.8492, 11.4246]]
    np.testing.assert_allclose(boxes[:4], known, atol=1e-4)
    known = [[19.5, 19.5, 280.5, 280.5], [6.6342, 6.6342, 293.3658, 293.3658]]
    known += [
        [57.7226, 0, 242.2774, 300],
        [0, 57.7226, 300, 242.2774],
    ]  # 369 pixels long without the limit to the image
    np.testing.assert_allclose(boxes[-4:], known, atol=1e-4)


def test_default_boxes_equal_torchvision():
    torch = pytest.importorskip("torch", reason="compares with torchvision, which is not installed")
    utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    image_list = pytest.importorskip("torchvision.models.detection.image_list")
    make = utils.DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=list(TORCHVISION["sizes"]))
    make.steps = list(TORCHVISION["steps"])
    images = image_list.ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    (theirs,) = make(images, [torch.zeros(1, 1, n, n) for n in (38, 19, 10, 5, 3, 1)])
    ours = outline(num_classes=90, **SSD300 | TORCHVISION).geometry((300, 300))["anchors"]
    np.testing.assert_allclose(ours, theirs.numpy()[:, [1, 0, 3, 2]], atol=1e-4)


RESNET = dict(name="resnet", layers=10, width=0.1, norm="batch", momentum=0.9, output_stride=32)
MAPS = {  # name of a layout of feature maps: its fields
    "atrous": dict(),
    "vgg": dict(fc=0, extras=()),
    "resnet": dict(backbone=RESNET, fc=0, extras=()),
    "deep": {name: SSD300[name] for name in ("extras", "sizes", "ratios")},
}


@pytest.mark.parametrize("name", MAPS)
def test_default_boxes_match_the_outputs_of_the_maps(name):
    model = outline(**MAPS[name])
    for size in ((300, 300), (129, 97), (31, 64)):
        if name == "deep" and size != (300, 300):
            size = tuple(side + 230 for side in size)
        boxes = model.geometry(size)["anchors"]
        assert output_shapes(model, size) == {"offsets": (2, len(boxes), 4), "logits": (2, len(boxes), 4)}


def test_image_too_small_for_its_maps_raises_a_user_error():
    with pytest.raises(UserError, match="images of 128x300 are too small"):
        outline(**SSD300).geometry((128, 300))


def test_outputs_have_the_order_of_the_default_boxes():
    """The image around a box's centre has the largest effect on the box's outputs.

    A bias changes the outputs of one shape of one map.
    """
    model, size = draw(build), (96, 144)
    boxes = model.geometry(size)["anchors"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    grid = model.grids(size)[0]
    assert grid == (12, 18)
    chosen = np.array([4 * (row * 18 + column) for row, column in ((3, 4), (3, 13), (8, 4), (7, 10))])

    @nnx.jit
    def influence(model, images):
        _, backward = jax.vjp(lambda images: model(images, train=False)["logits"][0, :, 1], images)
        return jax.vmap(lambda one: backward(one)[0])(np.eye(len(boxes), dtype=np.float32)[chosen])

    weight = np.abs(influence(model, random_images(1, *size)))[:, 0].sum(-1)
    rows, columns = np.indices(size) + 0.5
    for one, centre in zip(weight, centres[chosen], strict=True):
        mean = (one * rows).sum() / one.sum(), (one * columns).sum() / one.sum()
        # Cells are 8 pixels apart. A mirrored order would be farther off.
        np.testing.assert_allclose(mean, centre, atol=8)

    forward = nnx.jit(lambda model, images: model(images, train=False))
    before = forward(model, random_images(1, *size))
    shapes = (4, 6, 2)
    starts = np.cumsum([0, *(rows * columns * k for (rows, columns), k in zip(model.grids(size), shapes, strict=True))])
    for level, k in enumerate(shapes):
        for head, place, step in (
            ("offsets", 4 * (k - 1) + 2, 1.0),  # the height of the last shape
            ("logits", 4 * (k - 2) + 3, 2.0),  # the last class of the shape before it
        ):
            bias = getattr(model, f"{head}_{level}").bias
            put(bias, np.asarray(bias[...]) + step * (np.arange(bias.size) == place))
    after = forward(model, random_images(1, *size))
    offsets, logits = (np.zeros_like(boxes) for _ in range(2))
    for level, k in enumerate(shapes):
        offsets[starts[level] + k - 1 : starts[level + 1] : k, 2] = 1
        logits[starts[level] + k - 2 : starts[level + 1] : k, 3] = 2
    for name, expected in (("offsets", offsets), ("logits", logits)):
        np.testing.assert_allclose(np.asarray(after[name]) - np.asarray(before[name]), expected[None], atol=1e-5)


def test_l2_norm_gives_every_pixel_the_same_length():
    norm = L2Norm(3, 20.0, dtype="float32")
    x = np.float32([[[[3, 0, 4], [0, 0, 300], [0, 0, 0]]]])
    apply = nnx.jit(lambda norm, x: norm(x))
    np.testing.assert_allclose(apply(norm, x), [[[[12, 0, 16], [0, 0, 20], [0, 0, 0]]]], rtol=1e-5)
    put(norm.scale, np.array([1, 2, 5]))
    np.testing.assert_allclose(apply(norm, x), [[[[0.6, 0, 4], [0, 0, 5], [0, 0, 0]]]], rtol=1e-5)
    gradient = np.asarray(jax.jit(jax.grad(lambda x: norm(x).sum()))(x))
    assert np.isfinite(gradient).all()
    # The length of a pixel has no effect, so the gradient along the pixel is 0.
    np.testing.assert_allclose((gradient * x)[0, 0, :2].sum(-1), 0, atol=1e-6)


def test_l2_norm_is_optional():
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(outline()))}
    without = {path for path, _ in nnx.to_flat_state(nnx.state(outline(l2_norm=0.0)))}
    assert paths - without == {("l2_norm", "scale")} and without < paths


def test_batch_statistics_change_in_training_only():
    model = draw(lambda: build(norm="batch", backbone=VGG11 | dict(norm="batch")))

    @nnx.jit(static_argnames="train")
    def statistics(model, images, train):
        model(images, train=train)
        return nnx.state(model, nnx.BatchStat)

    images = random_images(2, 32, 32)
    names = {"/".join(path) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.BatchStat))}
    assert {"extra_1_1/norm/mean", "extra_1_2/norm/var", "backbone/conv_1_1/norm/mean"} <= names
    start = jax.tree.map(np.asarray, nnx.state(model, nnx.BatchStat))
    same = jax.tree.map(np.array_equal, start, jax.tree.map(np.asarray, statistics(model, images, train=False)))
    assert all(jax.tree.leaves(same))
    same = jax.tree.map(np.array_equal, start, jax.tree.map(np.asarray, statistics(model, images, train=True)))
    assert not any(jax.tree.leaves(same))


def test_invalid_fields_raise_a_user_error():
    for fields, message in (
        (dict(sizes=(0.1, 0.2, 0.3)), "3 maps with default boxes, 2 of the backbone and 1 of model.extras"),
        (dict(ratios=((2.0,),)), "as many model.ratios, not 1, and one more of model.sizes, not 4"),
        (dict(extras=((8, 16, 3),)), r"model.extras=\(\(8, 16, 3\),\) .*; 1 or 2"),
        (dict(extras=((8, 16),)), r"model.extras=\(\(8, 16\),\) is not valid; .* 3 values"),
        (dict(extras=(8, 16, 2)), r"model.extras=\(8, 16, 2\) "),
        (dict(extras=((8, 0, 2),)), "model.extras=.* a whole number, 1 or more"),
        (dict(extras=((8, 16.0, 2),)), "model.extras=.* a whole number, 1 or more"),
        (
            dict(ratios=(2.0, 2.0, 2.0)),
            r"model.ratios=\(2.0, 2.0, 2.0\) is not valid; .* each value a tuple",
        ),
        (dict(ratios=2.0), "model.ratios=2.0 is not valid"),
        (dict(ratios=((2.0,), (0.0,), ())), "model.ratios=.* a number, above 0"),
        (dict(ratios=((2.0,), ("wide",), ())), "model.ratios=.* a number, above 0"),
        (
            dict(sizes=(0.2, 0.4, -0.6, 0.8)),
            r"model.sizes=\(0.2, 0.4, -0.6, 0.8\) is out of its range; .* a number, above 0",
        ),
        (dict(sizes=(0.0, 0.4, 0.6, 0.8)), "model.sizes="),
        (dict(sizes=(0.2, 0.4, 0.6, float("nan"))), "model.sizes="),
        (dict(sizes=(0.2, 0.4, 0.6, float("inf"))), "model.sizes="),
        (dict(steps=(8.0, 16.0)), r"model.steps=\(8.0, 16.0\): there are 3 maps; give a step for each, or \(\)"),
        (dict(steps=(8.0, 0.0, 32.0)), "model.steps=.* a number, above 0"),
        (dict(backbone=RESNET), "model.fc=16: backbone 'resnet' has no fc6 and fc7; choose 0"),
    ):
        with pytest.raises(UserError, match=message):
            outline(**fields)
