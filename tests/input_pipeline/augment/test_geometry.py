"""All geometry is one map. It is exact where possible, and labels move with the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from errors import UserError
from input_pipeline.augment import geometry
from input_pipeline.batch import IGNORE

GREY = (127.0, 127.0, 127.0)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
LABEL = RNG.integers(0, 6, (9, 14), dtype=np.uint8)


def make_augment(**fields):
    augment = get_config().data.augment
    augment.update(flip=0.0, crop=False)
    augment.update(fields)
    return augment


def warp(matrix, size, displacement=None, image=IMAGE, label=LABEL):
    return (
        geometry.warp_image(image, matrix, size, GREY, displacement),
        geometry.warp_label(label, matrix, size, displacement),
    )


def test_identity_is_exact():
    for displacement in (None, np.zeros((9, 14, 2), np.float32)):
        image, label = warp(geometry.IDENTITY, (9, 14), displacement)
        np.testing.assert_array_equal(image, IMAGE)
        np.testing.assert_array_equal(label, LABEL)


def test_flip_and_rotation_by_90_degrees_are_exact():
    image, label = warp(geometry.about((7, 4.5), geometry.scaling(-1, 1)), (9, 14))
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    np.testing.assert_array_equal(label, LABEL[:, ::-1])
    image, label = warp(geometry.translation(9, 0) @ geometry.rotation(90), (14, 9))
    np.testing.assert_array_equal(image, np.rot90(IMAGE, -1))
    np.testing.assert_array_equal(label, np.rot90(LABEL, -1))


def test_shift_by_whole_pixels_fills_with_grey_and_ignore():
    image, label = warp(geometry.translation(3, 2), (9, 14))
    np.testing.assert_array_equal(image[2:, 3:], IMAGE[:-2, :-3])
    np.testing.assert_array_equal(label[2:, 3:], LABEL[:-2, :-3])
    outside = np.ones((9, 14), bool)
    outside[2:, 3:] = False
    assert (image[outside] == 127).all() and (label[outside] == IGNORE).all()


def test_halving_is_the_mean_of_four_pixels():
    image = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    small = geometry.warp_image(image, geometry.fit((8, 12), (4, 6), "stretch"), (4, 6), GREY)
    means = image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.51


def test_enlarging_by_two_and_three_repeats_the_label():
    for factor in (2, 3):
        size = (9 * factor, 14 * factor)
        label = geometry.warp_label(LABEL, geometry.fit((9, 14), size, "stretch"), size)
        np.testing.assert_array_equal(label, LABEL.repeat(factor, 0).repeat(factor, 1))


affine = st.tuples(
    st.floats(0.3, 3), st.floats(0.3, 3), st.floats(-180, 180), st.floats(-50, 50), st.floats(-50, 50), st.booleans()
)


def build(parameters) -> np.ndarray:
    x, y, angle, right, down, mirrored = parameters
    shape = geometry.scaling(-x if mirrored else x, y)
    return geometry.translation(right, down) @ geometry.rotation(angle) @ shape


@given(affine, affine, st.tuples(st.floats(-100, 100), st.floats(-100, 100)))
def test_maps_compose_and_invert(first, second, point):
    first, second, point = build(first), build(second), np.array([*point, 1.0])
    np.testing.assert_allclose((second @ first) @ point, second @ (first @ point), atol=1e-8)
    np.testing.assert_allclose(np.linalg.inv(first) @ (first @ point), point, atol=1e-8)


@given(affine, st.tuples(st.floats(-100, 100), st.floats(-100, 100)))
def test_about_keeps_the_centre_fixed(parameters, centre):
    np.testing.assert_allclose(
        geometry.about(centre, geometry.rotation(parameters[2])) @ [*centre, 1.0], [*centre, 1.0], atol=1e-9
    )


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.tuples(st.integers(8, 300), st.integers(8, 300)))
def test_fit_places_the_whole_image_inside_the_output(source, output):
    for how in ("stretch", "letterbox"):
        matrix = geometry.fit(source, output, how)
        corners = matrix @ np.array([[0, source[1]], [0, source[0]], [1, 1]])
        assert (corners[:2] >= -1e-6).all()
        assert corners[0, 1] <= output[1] + 1e-6 and corners[1, 1] <= output[0] + 1e-6
    assert geometry.fit(source, output, "stretch")[0, 0] * source[1] == pytest.approx(output[1])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((427, 640), (800, 1199)),
        ((640, 427), (1199, 800)),
        ((360, 640), (749, 1333)),  # limited by the longer side
        ((539, 640), (799, 949)),  # 539 * (800 / 539) is a little less than 800
        ((1600, 2000), (800, 1000)),
        ((1, 3000), (1, 1333)),
    ],
)
def test_shortest_gives_the_same_size_as_torchvision(source, expected):
    assert geometry.scale_shortest(source, (800, 1333)) == expected
    matrix = geometry.fit(source, (1344, 1344), "shortest", 0, (800, 1333))
    np.testing.assert_allclose(matrix @ [source[1], source[0], 1], [expected[1], expected[0], 1])
    np.testing.assert_array_equal(matrix @ [0, 0, 1], [0, 0, 1])
    np.testing.assert_array_equal(geometry.fit(source, (1350, 1350), "shortest", 3, (800, 1333)) @ [0, 0, 1], [3, 3, 1])


def test_shortest_scales_down_further_if_the_output_is_too_small():
    matrix = geometry.fit((200, 100), (80, 160), "shortest", 0, (80, 160))
    np.testing.assert_allclose(matrix, geometry.scaling(0.4, 0.4))
    np.testing.assert_allclose(geometry.fit((200, 100), (160, 80), "shortest", 0, (80, 160))[0, 0], 0.8)


@pytest.mark.parametrize(("flip", "scale"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.5), (1.0, 1.5), (0.0, 4.0)])
@pytest.mark.parametrize("margin", [0, 3])
def test_image_at_the_top_left_stays_there_without_a_crop(flip, scale, margin):
    """Along an axis where the image is larger than the output, its centre is visible."""
    augment, size, content = make_augment(flip=flip, vertical_flip=flip, scale=(scale, scale)), (46, 86), (30, 40)
    draw = geometry.draw_geometry(np.random.default_rng(0), size, augment, content, margin, corner=True)
    corners = draw @ np.array([[margin, margin, 1], [margin + 40, margin + 30, 1]]).T
    for (one, other), length, side in zip(corners[:2], (40, 30), (86, 46), strict=True):
        expected = scale * length
        low = margin if expected <= side - 2 * margin else (side - expected) / 2
        np.testing.assert_allclose(sorted((one, other)), [low, low + expected], atol=1e-9)
    assert (corners[:2, 0] > corners[:2, 1]).tolist() == [bool(flip)] * 2


def test_crop_moves_an_image_at_the_top_left_to_any_place():
    augment, corner = make_augment(crop=True, flip=0.5, scale=(0.5, 3.0)), np.array([[0, 0, 1], [40, 30, 1]]).T
    rng, places = np.random.default_rng(0), []
    for _ in range(400):
        corners = geometry.draw_geometry(rng, (46, 86), augment, (30, 40), 0, corner=True) @ corner
        for low, high, side in zip(corners[:2].min(1), corners[:2].max(1), (86, 46), strict=True):
            room = side - (high - low)
            assert min(room, 0) - 1e-6 <= low <= max(room, 0) + 1e-6
            places.append(low / room if abs(room) > 1 else 0.5)
    np.testing.assert_allclose(np.quantile(places, [0.02, 0.5, 0.98]), [0.02, 0.5, 0.98], atol=0.04)


def resize(image, size):
    """Sample bilinearly between the centres of pixels, with a repeated border, in loops over the axes."""
    for axis, length in enumerate(size):
        old = image.shape[axis]
        place = ((np.arange(length) + 0.5) * old / length - 0.5).clip(0, old - 1)
        low = np.floor(place).astype(int)
        high, part = np.minimum(low + 1, old - 1), (place - low).reshape(-1, *[1] * (2 - axis))
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


@pytest.mark.parametrize("size", [(12, 25), (9, 14), (7, 9), (3, 4)])
def test_sampling_without_antialiasing_equals_bilinear_sampling(size):
    """They are equal within rounding. With averaging, a side that shrinks to less than half is different."""
    data = get_config().data
    data.antialias = False
    matrix = geometry.fit((9, 14), size, "stretch")
    found, expected = geometry.sample(IMAGE, matrix, size, data), resize(IMAGE.astype(float), size)
    assert np.abs(found - expected).max() < 0.51
    data.antialias = True
    other = geometry.sample(IMAGE, matrix, size, data)
    assert (np.abs(other - expected).max() > 20) == (size == (3, 4))


@pytest.mark.parametrize("source", [(48, 64), (97, 70), (31, 200), (160, 230)])
def test_images_equal_the_transform_of_torchvision(source):
    torch = pytest.importorskip("torch", reason="compares with torchvision, which is not installed")
    transform = pytest.importorskip("torchvision.models.detection.transform")
    image = RNG.integers(0, 256, (*source, 3), dtype=np.uint8)
    data, size = get_config().data, (128, 128)
    data.update(fit="shortest", shortest=(64, 107), antialias=False, mean=(120.0, 110.0, 100.0))
    mean, std = [value / 255 for value in data.mean], [0.25, 0.25, 0.25]
    make = transform.GeneralizedRCNNTransform(64, 107, mean, std).eval()
    shown, _ = make([torch.tensor(image.transpose(2, 0, 1) / 255, dtype=torch.float32)])
    theirs = np.full((*size, 3), data.mean)
    rows, columns = shown.tensors.shape[2:]
    theirs[:rows, :columns] = shown.tensors[0].numpy().transpose(1, 2, 0) * std * 255 + data.mean
    matrix = geometry.fit(source, size, data.fit, 0, data.shortest)
    assert np.abs(geometry.sample(image, matrix, size, data) - theirs).max() < 0.51


FIELDS = {
    "nothing": {},
    "flip": {"flip": 1.0},
    "vertical flip": {"vertical_flip": 1.0},
    "scale": {"scale": (0.6, 1.6), "crop": True},
    "aspect": {"aspect": 1.5},
    "rotation": {"rotation": 40.0},
    "translate": {"translate": 0.3},
    "elastic": {"elastic": (2.0, 6.0)},
    "all": {"flip": 0.5, "scale": (0.6, 1.6), "crop": True, "aspect": 1.3, "rotation": 30.0, "elastic": (1.5, 6.0)},
}


def test_translation_shifts_by_at_most_its_share_of_each_side():
    augment = make_augment(translate=0.2, flip=0.0)
    shifts = [geometry.draw_geometry(np.random.default_rng(seed), (50, 80), augment)[:2, 2] for seed in range(200)]
    np.testing.assert_allclose(np.abs(shifts).max(0), [16, 10], rtol=0.05)
    assert (np.abs(shifts).max(0) <= [16, 10]).all()


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("how", ["stretch", "letterbox"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_label_and_image_stay_aligned(fields, how, seed):
    """The image shows its label in two grey levels. Both must agree after any augmentation."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:70, :90]
    label = ((x - 50) ** 2 + (y - 30) ** 2 < 20**2).astype(np.uint8)
    image = np.repeat((40 + 160 * label)[..., None], 3, -1).astype(np.uint8)
    size, augment = (64, 64), make_augment(**fields)
    matrix = geometry.draw_geometry(rng, size, augment) @ geometry.fit((70, 90), size, how)
    displacement = geometry.draw_displacement(rng, size, augment)
    image, label = warp(matrix, size, displacement, image, label)
    inside = label != IGNORE
    shown = (image[..., 0] > 120).astype(np.uint8)
    # Linear and nearest sampling may differ at the outline, and the fill may blend in at the edge of the image.
    assert (shown[inside] != label[inside]).mean() < 0.05
    clear = inside & ((image[..., 0] <= 41) | (image[..., 0] >= 199))
    assert (shown[clear] == label[clear]).mean() > 0.995


def test_augmentation_depends_only_on_the_generator():
    augment = make_augment(**FIELDS["all"])
    first, second = (geometry.draw_geometry(np.random.default_rng(5), (8, 8), augment) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_map_without_augmentation_is_the_identity():
    matrix = geometry.draw_geometry(np.random.default_rng(0), (8, 10), make_augment())
    np.testing.assert_allclose(matrix, geometry.IDENTITY, atol=1e-12)
    assert geometry.draw_displacement(np.random.default_rng(0), (8, 10), make_augment()) is None


def test_scale_is_log_uniform_and_flips_have_the_configured_probability():
    augment = make_augment(scale=(0.5, 2.0), flip=0.25, vertical_flip=0.7)
    rng = np.random.default_rng(0)
    matrices = [geometry.draw_geometry(rng, (8, 8), augment) for _ in range(2000)]
    zooms = np.array([abs(matrix[0, 0]) for matrix in matrices])
    assert zooms.min() >= 0.5 and zooms.max() <= 2.0
    assert abs(np.log(zooms).mean()) < 0.03
    assert abs(np.mean([matrix[0, 0] < 0 for matrix in matrices]) - 0.25) < 0.03
    assert abs(np.mean([matrix[1, 1] < 0 for matrix in matrices]) - 0.7) < 0.03


def test_elastic_displacement_has_the_configured_standard_deviation():
    field = geometry.draw_displacement(np.random.default_rng(0), (128, 128), make_augment(elastic=(3.0, 4.0)))
    assert field.std() == pytest.approx(3.0, rel=0.05)


def test_large_scale_jitter_crops_large_images_and_keeps_small_ones_whole():
    """The scale is 0.1 to 2 times the letterboxed size (Ghiasi et al. 2021), and the place or the crop is random."""
    augment, size, content = make_augment(scale=(0.1, 2.0), crop=True), (60, 60), (30, 60)
    corners = np.array([[0, 15, 1], [60, 45, 1]]).T  # corners of the image in the letterbox
    rng = np.random.default_rng(0)
    zooms, places = [], []
    for _ in range(600):
        matrix = geometry.draw_geometry(rng, size, augment, content)
        (left, right), (top, bottom), _ = matrix @ corners
        zooms.append(matrix[0, 0])
        assert right - left == pytest.approx(60 * matrix[0, 0]) and bottom - top == pytest.approx(30 * matrix[0, 0])
        for low, high in ((left, right), (top, bottom)):
            room = 60 - (high - low)
            assert min(room, 0) - 1e-6 <= low <= max(room, 0) + 1e-6
            places.append(low / room if abs(room) > 1 else 0.5)
    assert 0.1 <= min(zooms) < 0.11 and 1.9 < max(zooms) <= 2.0
    assert np.median(zooms) == pytest.approx(0.2**0.5, rel=0.15), "the median is sqrt(0.1 x 2)"
    np.testing.assert_allclose(np.quantile(places, [0.02, 0.5, 0.98]), [0.02, 0.5, 0.98], atol=0.04)


def test_window_crops_the_image_without_changing_the_map():
    matrix = geometry.scaling(2, 3)
    part, from_part = geometry.cut((-2, 4, 6, 30), (9, 14), matrix)
    assert LABEL[part].shape == (6, 10)
    np.testing.assert_array_equal(from_part @ [0, 0, 1], matrix @ [4, 0, 1])


@pytest.mark.parametrize("fill", [None, (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("across", [False, True])
def test_images_longer_than_the_opencv_limit_are_sampled_everywhere(fill, across):
    """Sampling a long image equals sampling its visible part, also at the ends."""
    image = np.random.default_rng(0).integers(0, 256, (12, 40_000, 3), np.uint8)
    for left in (-7, 0, 39_971.3):
        near = slice(max(0, int(left) - 40), int(left) + 70)
        moved, own = geometry.translation(-left, 0), geometry.translation(near.start - left, 0)
        size, long, part = (12, 32), image, image[:, near]
        if across:
            moved, own, size, long, part = moved.T, own.T, size[::-1], long.swapaxes(0, 1), part.swapaxes(0, 1)
            moved, own = (geometry.translation(0, -left), geometry.translation(0, near.start - left))
        found, wanted = (
            geometry.warp_image(source, matrix, size, fill) for source, matrix in ((long, moved), (part, own))
        )
        assert np.abs(found.astype(int) - wanted).max() <= 1
    with pytest.raises(UserError, match="side of 40000 pixels is too long to sample at once"):
        geometry.warp_image(image, geometry.fit((12, 40_000), (8, 8), "stretch"), (8, 8), fill, antialias=False)
