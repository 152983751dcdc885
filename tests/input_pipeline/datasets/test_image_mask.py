"""Folders of images and masks are read with all kinds of masks, and each fault gives a one-line error."""

import pathlib
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE, check_batch
from input_pipeline.datasets.id_maps import find_components
from input_pipeline.datasets.mask_values import is_enlargement
from input_pipeline.loader import TrainLoader
from input_pipeline.masks import bound
from input_pipeline.objects import FIELDS, none
from input_pipeline.sources import open_source
from input_pipeline.truths import make_truth
from tests.input_pipeline.test_masks import whole

REAL = pathlib.Path(__file__).parents[4] / "shared" / "data"
MASK = np.arange(20, dtype=np.uint8).reshape(4, 5) % 3


@pytest.fixture
def root(tmp_path):
    """Write three valid examples with three classes."""
    root = tmp_path / "set"
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    (root / "classes.txt").write_text("sky\ntraffic light\nroad\n")
    for stem in "abc":
        add(root, stem)
    return root


def add(root, stem, image=None, mask=MASK, suffix=".jpg"):
    image = Image.new("RGB", (5, 4)) if image is None else image
    image.save(root / "train" / "images" / f"{stem}{suffix}")
    mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    mask.save(root / "train" / "masks" / f"{stem}.png")


def open_folder(root, split="train", needs=("label",), **fields):
    data = get_config().data
    data.name = "image_mask"
    data.folder.update(root=str(root), **fields)
    return open_source(data, split, str(root.parent / "tfds"), needs)


def refuse(root, *words, split="train", **fields):
    with pytest.raises(UserError) as caught:
        open_folder(root, split, **fields)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_valid_folder_is_read(root):
    source = open_folder(root)
    assert source.class_names == ("sky", "traffic light", "road")
    assert [source.name(i) for i in range(len(source))] == ["a.jpg", "b.jpg", "c.jpg"]
    np.testing.assert_array_equal(source[0]["label"], MASK)
    assert source.size(0) == (4, 5) and source.dropped == ()
    assert [open_folder(root, "train[1:]").name(i) for i in range(2)] == ["b.jpg", "c.jpg"]


def test_nothing_is_written_to_the_folder(root):
    before = sorted(root.rglob("*"))
    open_folder(root)
    assert sorted(root.rglob("*")) == before


def test_grey_16_bit_palette_and_rgb_masks_give_the_same_labels(root):
    palette = Image.fromarray(MASK)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    add(root, "d", mask=palette)
    add(root, "e", mask=MASK.astype(np.uint16))
    add(root, "f", mask=np.repeat(MASK[..., None], 3, -1))
    source = open_folder(root)
    for i in range(6):
        np.testing.assert_array_equal(source[i]["label"], MASK)


def test_colour_masks_are_read(root):
    colours = np.array([[10, 20, 30], [0, 0, 0], [200, 100, 0]], np.uint8)
    (root / "classes.txt").write_text("sky 10 20 30\ntraffic light 0 0 0\nroad 200 100 0\n")
    for stem in "abc":
        add(root, stem, mask=colours[MASK])
    source = open_folder(root)
    assert source.class_names == ("sky", "traffic light", "road")
    np.testing.assert_array_equal(source[0]["label"], MASK)
    add(root, "b", mask=(colours + np.uint8(1))[MASK])
    refuse(root, "b.png", "(11, 21, 31)", "classes file")


def test_black_and_white_masks_are_read_by_colour(root):
    (root / "classes.txt").write_text("background 0 0 0\ncell 255 255 255\n")
    mask = (MASK > 0).astype(np.uint8)
    for stem in "abc":
        add(root, stem, mask=mask * np.uint8(255))
    np.testing.assert_array_equal(open_folder(root)[0]["label"], mask)


def test_ignore_value_becomes_255(root):
    add(root, "d", mask=np.where(MASK == 2, 11, MASK).astype(np.uint8))
    message = refuse(root, "d.png", "11", "ignore_value")
    assert "a.png" not in message
    source = open_folder(root, ignore_value=11)
    np.testing.assert_array_equal(source[3]["label"], np.where(MASK == 2, IGNORE, MASK))


def test_gif_and_transparent_png_named_jpg_are_read(root):
    Image.new("RGBA", (5, 4), (9, 8, 7, 0)).save(root / "train/images/a.png", "PNG")
    (root / "train/images/a.png").rename(root / "train/images/a.jpg")
    Image.new("P", (5, 4)).save(root / "train/images/b.gif", "GIF")
    (root / "train/images/b.gif").rename(root / "train/images/b.jpg")
    source = open_folder(root)
    assert (source[0]["image"] == (9, 8, 7)).all() and source[1]["image"].shape == (4, 5, 3)


def test_missing_mask_is_named(root):
    (root / "train/masks/b.png").unlink()
    refuse(root, "b.png", "missing")


def test_mask_of_another_size_is_named(root):
    add(root, "b", mask=MASK.T)
    refuse(root, "b.png", "5x4", "4x5")


def test_many_bad_files_are_counted(root):
    for i in range(7):
        add(root, f"x{i}", mask=MASK.T)
    message = refuse(root, "7", "x0.png", "and 4 more")
    assert "x6" not in message


@pytest.mark.parametrize("place", ["images/b.jpg", "masks/b.png"])
@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_file_that_cannot_be_decoded_raises_an_error_or_is_dropped(root, place, content):
    path = root / "train" / place
    noise = np.random.default_rng(0).integers(0, 3, (40, 50), dtype=np.uint8)
    add(root, "b", Image.fromarray(np.dstack([noise * 80] * 3)), noise)
    path.write_bytes(path.read_bytes()[:150] if content == "cut" else content)
    refuse(root, path.name, "drop_unreadable")
    source = open_folder(root, drop_unreadable=True)
    assert source.dropped == ("b.jpg",)
    assert [source.name(i) for i in range(len(source))] == ["a.jpg", "c.jpg"]


def test_missing_splits_folders_and_classes_raise_an_error(root):
    refuse(root, "train", split="val")
    refuse(root.parent / "nowhere", "folder.root")
    refuse(root, "names.txt", classes="names.txt")
    for path in (root / "train/images").iterdir():
        path.unlink()
    refuse(root, "no image")


@pytest.mark.parametrize("text", ["", "one\n", "a 1 2 3\nb\n", "a\na\n", "a 1 2 3\nb 1 2 3\n"])
def test_unusable_classes_file_raises_an_error(root, text):
    (root / "classes.txt").write_text(text)
    refuse(root, "classes.txt")


def test_two_images_with_one_mask_raise_an_error(root):
    Image.new("RGB", (5, 4)).save(root / "train/images/a.png")
    refuse(root, "a.jpg", "a.png")


def test_findings_are_cached_until_a_file_changes(root, monkeypatch):
    open_folder(root)
    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.datasets.image_mask.ImageMask._check", lambda *_: pytest.fail("checked again"))
        open_folder(root)
    add(root, "b", mask=np.full((4, 5), 77, np.uint8))
    refuse(root, "b.png", "77")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unfit": 1}', '{"unfit": [], "unreadable": {}}'])
def test_corrupt_cache_is_replaced(root, content):
    open_folder(root)
    (cache,) = (root.parent / "tfds" / "image_mask").iterdir()
    cache.write_text(content)
    assert len(open_folder(root)) == 3
    assert cache.read_text() != content


def test_cache_that_cannot_be_written_is_not_an_error(root):
    (root.parent / "tfds").write_text("a file where the folder should be")
    assert len(open_folder(root)) == 3


# Skipped files, names, formats


def test_skipped_files_are_counted_and_named(root):
    for name in ("c.png", "y.png", "z.png", "x.png", "w.png"):
        Image.fromarray(MASK).save(root / "train/masks" / name)
    (root / "train/images/photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (root / "train/images/clip.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    (root / "train/images/notes.txt").write_text("text is not reported")
    heic, video, masks = open_folder(root).remarks
    assert heic.startswith("1 file is skipped (HEIC): photo.HEIC") and "pip install pillow-heif" in heic
    assert video == "1 file is skipped (not a supported image): clip.mp4"
    assert masks == "4 files are skipped (masks without an image): w.png, x.png, y.png (and 1 more)"
    assert open_folder(root).remarks == (heic, video, masks), "a cached finding gives the same remarks"


def test_error_for_a_folder_of_heic_explains_how_to_enable_it(root):
    for path in (root / "train/images").iterdir():
        path.rename(path.with_suffix(".heic")).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    refuse(root, "holds no image", "3 files", "a.heic", "pip install pillow-heif")


@pytest.mark.parametrize("suffix", [".jfif", ".ppm", ".webp", ".avif", ".jp2", ".PNG", ".TIF", ""])
def test_every_image_format_is_read(root, suffix):
    kind = {".jfif": "JPEG", ".PNG": "PNG", ".TIF": "TIFF", ".jp2": "JPEG2000", "": "PNG"}.get(suffix)
    Image.new("RGB", (5, 4)).save(root / "train/images" / f"d{suffix}", kind)
    Image.fromarray(MASK).save(root / "train/masks/d.png")
    source = open_folder(root)
    assert len(source) == 4 and source.name(3) == f"d{suffix}" and source[3]["image"].shape == (4, 5, 3)


@pytest.mark.parametrize("suffix", [".PNG", ".tif", ".bmp", ".gif"])
def test_masks_are_found_with_any_suffix(root, suffix):
    Image.fromarray(MASK).save(root / "train/masks" / f"b{suffix}")
    (root / "train/masks/b.png").unlink()
    np.testing.assert_array_equal(open_folder(root)[1]["label"], MASK)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_both_unicode_forms(root, forms):
    stems = [unicodedata.normalize(form, "möwe") for form in forms]
    assert stems[0] != stems[1]
    Image.new("RGB", (5, 4)).save(root / "train/images" / f"{stems[0]}.jpg")
    Image.fromarray(MASK).save(root / "train/masks" / f"{stems[1]}.png")
    source = open_folder(root)
    np.testing.assert_array_equal(source[3]["label"], MASK)
    assert source.remarks == ()


def test_two_masks_for_one_image_raise_an_error(root):
    Image.fromarray(MASK).save(root / "train/masks/b.tif")
    refuse(root, "b.png", "b.tif", "same image")


# EXIF


def turn(root, stem, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "train/images" / f"{stem}.jpg").unlink(missing_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(root / "train/images" / f"{stem}.png", exif=exif)


RED = np.where(MASK[..., None] == 2, (255, 0, 0), (0, 0, 0)).astype(np.uint8)


@pytest.mark.parametrize(
    ("stored", "orientation", "view"),
    [(np.rot90(RED), 6, "upright"), (RED, 6, "as stored"), (RED[::-1, ::-1], 3, "upright"), (RED, 1, "")],
)
def test_size_of_the_mask_decides_the_view(root, stored, orientation, view):
    turn(root, "b", stored, orientation)
    source = open_folder(root)
    example = source[1]
    np.testing.assert_array_equal(example["image"], RED)
    np.testing.assert_array_equal(example["label"], MASK)
    assert source.size(1) == (4, 5) and bool(source.remarks) == bool(view)
    assert all(view in line and "b.png" in line and line.startswith("1 file is") for line in source.remarks)


def test_error_names_both_views_and_exif_if_no_size_fits(root):
    turn(root, "b", np.rot90(RED), 6)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "train/masks/b.png")
    refuse(root, "9x9", "4x5", "5x4", "EXIF orientation 6")


def test_objects_follow_the_view(root):
    turn(root, "b", np.rot90(RED), 6)
    source = open_folder(root, needs=("boxes", "masks"), instances="components")
    size, objects = source.objects(1)
    assert size == (4, 5) == source[1]["image"].shape[:2]
    np.testing.assert_array_equal(objects["boxes"], source.objects(0)[1]["boxes"])


def test_another_way_of_reading_images_changes_the_fingerprint(root):
    turn(root, "b", RED, 1)
    plain = open_folder(root).fingerprint
    turn(root, "b", RED, 3)
    assert open_folder(root).fingerprint != plain


# Values: noise, thresholds, sizes, depth


def make_binary(root, noise, suffix=".png", **options):
    (root / "classes.txt").write_text("ground\ncrack\n")
    truth = np.zeros((32, 32), np.uint8)
    truth[8:20, 4:28] = 1
    for stem in "abc":
        (root / "train/masks" / f"{stem}.png").unlink()
        Image.new("RGB", (32, 32)).save(root / "train/images" / f"{stem}.jpg")
        Image.fromarray(noise(truth * np.uint8(255))).save(root / "train/masks" / f"{stem}{suffix}", **options)
    return truth


def roughen(mask):
    return np.clip(mask + np.random.default_rng(0).normal(0, 4, mask.shape).round(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("noise", "suffix"),
    [(roughen, ".png"), (lambda mask: cv2.GaussianBlur(mask, (3, 3), 0), ".png"), (lambda mask: mask, ".jpg"),
     (lambda mask: np.dstack([roughen(mask), mask, mask]), ".jpg")],
)  # fmt: skip
def test_error_for_noisy_black_and_white_masks_asks_for_a_threshold(root, noise, suffix):
    truth = make_binary(root, noise, suffix)
    if suffix == ".png" or noise(truth).ndim == 2:
        message = refuse(root, "a.", "--config.data.folder.threshold=128")
        assert "ignore_value" not in message
    label = open_folder(root, threshold=128)[0]["label"]
    assert (label != truth).mean() < 0.01 and set(np.unique(label)) == {0, 1}


@pytest.mark.parametrize("values", [MASK, np.where(MASK > 1, 255, np.arange(20).reshape(4, 5))])
def test_forgotten_class_is_not_reported_as_noise(root, values):
    (root / "classes.txt").write_text("ground\ncrack\n")
    for stem in "abc":
        add(root, stem, mask=values.astype(np.uint8))
    message = refuse(root, "has the value", "ignore_value")
    assert "threshold" not in message


@pytest.mark.parametrize(
    ("high", "threshold"), [((65535,), 128), ((128,), 64), ((200,), 100), ((60, 127, 255), 128), ((2,), 1)]
)
def test_error_for_black_and_white_masks_suggests_a_working_threshold(root, high, threshold):
    truth = make_binary(root, lambda mask: mask)
    mask = truth.astype(np.uint16 if high[-1] > 255 else np.uint8) * high[-1]
    mask[8, 4 : 4 + len(high)] = high
    for stem in "abc":
        Image.fromarray(mask).save(root / "train/masks" / f"{stem}.png")
    message = refuse(root, f"config.data.folder.threshold={threshold} if", "add the class")
    assert ("ignore_value" in message) == (high[-1] < 256)
    np.testing.assert_array_equal(open_folder(root, threshold=threshold)[0]["label"], mask >= threshold)


def save_masks(root, *masks):
    for stem, mask in zip("abc", masks, strict=True):
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(root / "train/masks" / f"{stem}.png")


def test_threshold_that_no_mask_reaches_raises_an_error(root):
    truth = make_binary(root, lambda mask: mask)
    save_masks(root, *[truth] * 3)
    refuse(root, "no mask reaches", "threshold=128", "largest value is 1", threshold=128)
    np.testing.assert_array_equal(open_folder(root, threshold=1)[0]["label"], truth)
    save_masks(root, truth * np.uint8(255), truth, truth * 0)
    source = open_folder(root, threshold=128)
    assert source.remarks == ("1 file is all ground (every value is below config.data.folder.threshold=128): b.jpg",)
    save_masks(root, *[truth * 0] * 3)
    assert open_folder(root, threshold=128).absent == ("crack",), "empty masks are empty"


def paint(mask, *colours):
    image = Image.fromarray(mask)
    image.putpalette([value for colour in colours for value in colour])
    return image


WHITE, BLACK = (255,) * 3, (0,) * 3


def test_threshold_applies_to_the_grey_of_palettes_and_of_1_bit_masks(root):
    truth = make_binary(root, lambda mask: mask)
    one_bit = Image.fromarray(truth * np.uint8(255)).convert("1")
    save_masks(root, one_bit, paint(truth, BLACK, WHITE), paint(1 - truth, WHITE, BLACK))
    source = open_folder(root, threshold=128)
    for index in range(3):
        np.testing.assert_array_equal(source[index]["label"], truth)


def test_palette_with_white_as_0_gives_a_remark(root):
    truth = make_binary(root, lambda mask: mask)
    save_masks(root, paint(truth, BLACK, WHITE), paint(1 - truth, WHITE, BLACK), paint(truth, WHITE, (255, 0, 0)))
    (line,) = open_folder(root).remarks
    assert (
        line.startswith("1 file is") and "0 (ground) in white" in line and "threshold=128" in line and "b.jpg" in line
    )


def test_masks_of_0_and_255_among_others_give_a_remark(root):
    truth = make_binary(root, lambda mask: mask)
    save_masks(root, truth, truth * np.uint8(255), np.where(truth == 1, 255, np.eye(32)).astype(np.uint8))
    (line,) = open_folder(root).remarks
    assert line.startswith("1 file is") and "255 means no class, not crack" in line and line.endswith("b.jpg")


def test_error_for_a_clean_black_and_white_mask_names_both_ways(root):
    make_binary(root, lambda mask: mask)
    refuse(root, "threshold=128", "255 255 255")


def test_threshold_needs_two_classes_without_colours(root):
    refuse(root, "threshold=128", "3 classes", threshold=128)
    (root / "classes.txt").write_text("ground 0 0 0\ncrack 255 255 255\n")
    refuse(root, "threshold=128", "colours", threshold=128)


def test_jpeg_with_several_classes_raises_an_error(root):
    Image.fromarray(MASK).save(root / "train/masks/b.jpg")
    (root / "train/masks/b.png").unlink()
    refuse(root, "b.jpg is a JPEG", "PNG")


def test_colour_near_a_named_one_is_reported_as_noise(root):
    (root / "classes.txt").write_text("sky 10 20 30\ntraffic light 0 0 0\nroad 200 100 0\n")
    for stem in "abc":
        add(root, stem, mask=np.full((4, 5, 3), (190, 105, 3), np.uint8))
    refuse(root, "(190, 105, 3)", "near (200, 100, 0) of 'road'", "JPEG noise")


@pytest.mark.parametrize("factor", [2, 0.5])
def test_masks_of_the_same_aspect_ratio_are_resized_on_request(root, factor):
    image = Image.new("RGB", (int(10 * factor), int(8 * factor)))
    mask = MASK.repeat(2, 0).repeat(2, 1)
    add(root, "b", image, mask)
    refuse(root, "b.png", "8x10", "resize_masks=True")
    source = open_folder(root, resize_masks=True)
    expected = mask.repeat(2, 0).repeat(2, 1) if factor == 2 else MASK
    np.testing.assert_array_equal(source[1]["label"], expected)
    assert source.remarks == ("1 mask was resized to its image: b.jpg",)
    assert source.fingerprint != open_folder(root, "train[1:]", resize_masks=True).fingerprint


@pytest.mark.parametrize(
    ("mask", "image", "fits"),
    [
        ((33, 50), (67, 101), True),
        ((83, 125), (667, 1001), True),
        ((50, 50), (67, 101), False),
        ((4, 5), (5, 4), False),
    ],
)
def test_aspect_ratios_match_within_one_pixel(mask, image, fits):
    assert is_enlargement(mask, image) == is_enlargement(image, mask) == fits


def test_mask_with_too_many_pixels_is_not_decoded(root):
    data = get_config().data
    data.update(name="image_mask", max_pixels=20)
    data.folder.root = str(root)
    assert len(open_source(data, "train", str(root.parent / "tfds"), ("label",))) == 3
    add(root, "b", mask=np.zeros((8, 10), np.uint8))
    with pytest.raises(UserError, match=r"b\.png has 80 pixels, more than config.data.max_pixels=20; raise it"):
        open_source(data, "train", str(root.parent / "tfds"), ("label",))


def test_masks_of_another_aspect_ratio_are_never_resized(root):
    add(root, "b", mask=MASK.T)
    assert "resize_masks" not in refuse(root, "b.png", "same size", resize_masks=True)


def test_images_of_12_bits_are_not_black(root):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 200
    (root / "train/images/b.jpg").unlink()
    Image.fromarray(values).save(root / "train/images/b.png")
    source = open_folder(root)
    assert (source.peak, source.white) == (3800, 4095)
    np.testing.assert_array_equal(source[1]["image"][..., 0], values.astype(int) * 255 // 4095)
    assert source.remarks == ("16-bit images reach 3800; 4095 is read as white (config.data.white_level)",)
    data = get_config().data
    data.update(name="image_mask", white_level=65535)
    data.folder.root = str(root)
    fixed = open_source(data, "train", str(root.parent / "tfds"), ("label",))
    np.testing.assert_array_equal(fixed[1]["image"][..., 0], values // 257)
    assert fixed.fingerprint != source.fingerprint
    both = open_folder(root, "train[:1]+train[1:]")
    assert both.white == 4095 and both[1]["image"].max() == source[1]["image"].max()


def add_instances(root, stem, ids):
    (root / "train/instances").mkdir(exist_ok=True)
    (ids if isinstance(ids, Image.Image) else Image.fromarray(ids)).save(root / f"train/instances/{stem}.png")


IDS = np.array([[0, 1, 1, 0, 300], [0, 0, 0, 0, 300], [7, 0, 0, 0, 0], [7, 7, 0, 0, 300]], np.uint16)


@pytest.fixture
def objects(root):
    """Write three examples whose objects have ids but no masks."""
    shutil.rmtree(root / "train/masks")
    (root / "classes.txt").unlink()
    for stem in "abc":
        add_instances(root, stem, IDS)
    return root


def test_instances_are_read_from_their_own_folder(objects):
    add_instances(objects, "b", np.minimum(IDS, 255).astype(np.uint8))
    source = open_folder(objects, instances="folder")
    assert source.class_names == ("background", "object") and source.absent == ()
    example = source[0]
    assert example.keys() == {"image", "label", "instances"}
    assert example["instances"].dtype == np.int32 and example["label"].dtype == np.uint8
    np.testing.assert_array_equal(example["instances"], IDS)
    np.testing.assert_array_equal(example["label"], IDS > 0)
    np.testing.assert_array_equal(source[1]["instances"], np.minimum(IDS, 255))


def test_instances_next_to_masks_do_not_change_the_label(root):
    for stem in "abc":
        add_instances(root, stem, IDS)
    source = open_folder(root, instances="folder")
    np.testing.assert_array_equal(source[0]["label"], MASK)
    np.testing.assert_array_equal(source[0]["instances"], IDS)
    assert source.class_names == ("sky", "traffic light", "road")
    assert open_folder(root)[0].keys() == {"image", "label"}, "instances are not needed"


def test_instances_without_masks_have_two_classes(objects):
    (objects / "classes.txt").write_text("tissue\nnucleus\n")
    assert open_folder(objects, instances="folder").class_names == ("tissue", "nucleus")
    (objects / "classes.txt").write_text("tissue\nnucleus\ncell\n")
    refuse(objects, "classes.txt names 3 classes", instances="folder")
    (objects / "classes.txt").unlink()
    (objects / "train/masks").mkdir()
    refuse(objects, "missing masks (3)", instances="folder")


def test_components_are_connected_regions_of_one_class(root):
    label = np.array([[1, 1, 0, 2, 2], [0, 0, 1, 2, 1], [2, 0, 1, 0, 1], [2, 9, 9, 9, 0]], np.uint8)
    expected = np.array([[1, 1, 0, 4, 4], [0, 0, 2, 4, 3], [5, 0, 2, 0, 3], [5, 0, 0, 0, 0]])
    add(root, "a", mask=label)
    source = open_folder(root, instances="components", ignore_value=9)
    example = source[0]
    assert example["instances"].dtype == np.int32
    np.testing.assert_array_equal(example["label"], np.where(label == 9, IGNORE, label))
    np.testing.assert_array_equal(example["instances"], expected)
    for value in (0, IGNORE):
        assert not find_components(np.full((3, 4), value, np.uint8)).any()
    assert find_components(np.full((1, 1), 1, np.uint8)).tolist() == [[1]]


def test_unusable_instances_are_named(objects):
    good = [path.read_bytes() for path in sorted((objects / "train/instances").iterdir())]
    path = objects / "train/instances/b.png"
    path.unlink()
    refuse(objects, "missing instances (1)", str(path), instances="folder")
    add_instances(objects, "b", IDS.T.copy())
    refuse(objects, str(path), "5x4", "4x5", instances="folder")
    colours = np.zeros((4, 5, 3), np.uint8)
    add_instances(objects, "b", colours + np.uint8([1, 2, 3]))
    refuse(objects, str(path), "colour", "grey", instances="folder")
    Image.fromarray(np.full((4, 5), -3, np.int32)).save(path, "TIFF")
    refuse(objects, str(path), "id -3", instances="folder")
    path.write_bytes(good[1][:40])
    refuse(objects, str(path), "decoded", instances="folder")
    source = open_folder(objects, instances="folder", drop_unreadable=True)
    assert source.dropped == ("b.jpg",) and len(source) == 2


def test_fingerprint_depends_on_instances(root):
    for stem in "abc":
        add_instances(root, stem, IDS)
    prints = {mode: open_folder(root, instances=mode).fingerprint for mode in ("", "folder", "components")}
    assert len(set(prints.values())) == 3
    add_instances(root, "b", (np.arange(20, dtype=np.uint16) * 3001).reshape(4, 5))
    assert open_folder(root, instances="folder").fingerprint != prints["folder"]
    for mode in ("", "components"):
        assert open_folder(root, instances=mode).fingerprint == prints[mode]


BOXES = {1: [0, 1, 1, 3], 7: [2, 0, 4, 2], 300: [0, 4, 4, 5]}
AREAS = {1: 2, 7: 3, 300: 3}


def test_ids_give_boxes_and_masks_of_objects(objects):
    source = open_folder(objects, needs=("boxes", "masks"), instances="folder")
    assert source.class_names == ("object",) and source.category_ids == (1,) and source.absent == ()
    assert source.bad_boxes == source.dropped == source.find_bad_boxes(0) == () and source.clipped_boxes == 0
    assert [source.image_id(i) for i in range(3)] == [1, 2, 3]
    example = source[0]
    size, listed = source.objects(0)
    assert size == (4, 5) and listed.keys() == set(FIELDS) and example.keys() == {"image", "masks", *FIELDS}
    for name in FIELDS:
        np.testing.assert_array_equal(example[name], listed[name])
        assert listed[name].dtype == none()[name].dtype
    np.testing.assert_array_equal(listed["boxes"], list(BOXES.values()))
    np.testing.assert_array_equal(listed["area"], list(AREAS.values()))
    assert not listed["crowd"].any() and not listed["difficult"].any() and not listed["classes"].any()
    np.testing.assert_array_equal(whole(example["masks"], size), [number == IDS for number in BOXES])
    assert open_folder(objects, needs=("boxes",), instances="folder")[0].keys() == {"image", *FIELDS}
    part = open_folder(objects, "train[1:]", needs=("boxes",), instances="folder")
    assert [part.name(i) for i in range(len(part))] == ["b.jpg", "c.jpg"]


def test_image_without_objects_is_an_example(objects):
    add_instances(objects, "b", np.zeros_like(IDS))
    source = open_folder(objects, needs=("boxes", "masks"), instances="folder")
    assert source[1]["boxes"].shape == (0, 4) and source[1]["masks"].shape == (0,) and len(source[2]["boxes"]) == 3


def test_class_of_an_object_is_the_most_frequent_of_its_pixels(root):
    """Background and ignored pixels do not count. An object with only such pixels is left out."""
    label = np.array([[0, 1, 2, 0, 0], [0, 0, 0, 0, 2], [9, 0, 0, 0, 0], [9, 9, 0, 0, 9]], np.uint8)
    for stem in "abc":
        add(root, stem, mask=label if stem == "a" else MASK)
        add_instances(root, stem, np.where(IDS == 1, 2, IDS) if stem == "a" else IDS)
    with open(root / "classes.txt", "a") as file:
        file.write("river\n")
    fields = dict(needs=("boxes", "masks"), instances="folder", ignore_value=9)
    source = open_folder(root, **fields)
    assert source.class_names == ("traffic light", "road", "river") and source.category_ids == (1, 2, 3)
    assert source.absent == ("river",)
    assert source.bad_boxes == ("a.jpg: object 7: none of its pixels has a class",)
    size, listed = source.objects(0)
    np.testing.assert_array_equal(listed["boxes"], [BOXES[1], BOXES[300]])
    assert listed["classes"].tolist() == [0, 1], "the first class wins a tie"
    np.testing.assert_array_equal(whole(source[0]["masks"], size), [IDS == 1, IDS == 300])
    assert open_folder(root, "train[:1]", **fields).absent == ("river",)
    assert len(open_folder(root, "train[1:]", **fields).bad_boxes) == 1, "it covers the whole split"


def test_components_give_boxes(root):
    label = np.array([[1, 1, 0, 2, 2], [0, 0, 1, 2, 1], [2, 0, 1, 0, 1], [2, 2, 0, 0, 0]], np.uint8)
    add(root, "a", mask=label)
    source = open_folder(root, needs=("boxes", "masks"), instances="components")
    example, ids = source[0], find_components(label)
    assert example["classes"].tolist() == [label[ids == number][0] - 1 for number in range(1, 6)]
    np.testing.assert_array_equal(whole(example["masks"], (4, 5)), [ids == number for number in range(1, 6)])
    np.testing.assert_array_equal(example["boxes"], [bound(ids == number) for number in range(1, 6)])


def test_boxes_are_computed_once(objects, monkeypatch):
    open_folder(objects, needs=("boxes",), instances="folder")
    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.datasets.image_mask.read_ids", lambda *_: pytest.fail("read again"))
        source = open_folder(objects, needs=("boxes", "masks"), instances="folder")
        assert len(source.objects(0)[1]["boxes"]) == 3
    add_instances(objects, "a", np.minimum(IDS, 1))
    assert len(open_folder(objects, needs=("boxes",), instances="folder").objects(0)[1]["boxes"]) == 1
    for cache in (objects.parent / "tfds" / "image_mask").glob("*.objects.json"):
        cache.write_text('{"a.jpg": []}')
    assert len(open_folder(objects, needs=("boxes",), instances="folder").objects(1)[1]["boxes"]) == 3


def test_detector_trains_on_instance_ids(objects):
    data = get_config().data
    data.update(image_size=(8, 10), max_boxes=4, mask_size=(4, 4), prefetch=1)
    data.augment.update(flip=0.0, copy_paste=0.5, mosaic=0.5)
    truth = make_truth(("boxes", "masks"), data)
    source = open_folder(objects, needs=truth.source_keys, instances="folder")
    loader = TrainLoader(source, truth, data, batch_size=3, seed=0)
    batch = next(loader)
    loader.close()
    check_batch(batch, truth.keys)
    assert batch["masks"][batch["valid"]].any() and batch["valid"].any()


def test_classes_without_pixels_are_reported_as_absent(root, monkeypatch):
    assert open_folder(root).absent == ()
    with open(root / "classes.txt", "a") as file:
        file.write("river\nbridge\n")
    assert open_folder(root).absent == open_folder(root, "train[:1]").absent == ("river", "bridge")
    monkeypatch.setattr("input_pipeline.datasets.image_mask.ImageMask._check", lambda *_: pytest.fail("checked again"))
    assert open_folder(root).absent == ("river", "bridge"), "from the cache"


def test_class_of_a_dropped_file_is_absent(root):
    add(root, "d", mask=np.full((4, 5), 3, np.uint8))
    (root / "classes.txt").write_text("sky\ntraffic light\nroad\nriver\n")
    assert open_folder(root).absent == ()
    (root / "train/images/d.jpg").write_bytes(b"no image")
    assert open_folder(root, drop_unreadable=True).absent == ("river",)


def test_image_of_one_pixel_is_read(root):
    add(root, "d", Image.new("RGB", (1, 1)), np.full((1, 1), 2, np.uint8))
    source = open_folder(root, instances="components")
    assert source[3]["image"].shape == (1, 1, 3) and source.size(3) == (1, 1)
    assert source[3]["label"].tolist() == [[2]] and source[3]["instances"].tolist() == [[1]]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data next to the repository")
def test_camvid_and_isbi_are_read(tmp_path):
    data = get_config().data
    data.name = "image_mask"
    data.folder.update(root=str(REAL / "camvid"), ignore_value=11)
    source = open_source(data, "val[:5]", str(tmp_path), ("label",))
    assert len(source) == 5 and len(source.class_names) == 11
    labels = np.unique(np.concatenate([source[i]["label"].ravel() for i in range(5)]))
    assert labels.max() == IGNORE and labels[labels != IGNORE].max() < 11
    data.folder.update(root=str(REAL / "isbi2012"), ignore_value=255)
    assert open_source(data, "val", str(tmp_path), ("label",)).class_names == ("membrane", "cell")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data next to the repository")
def test_nuclei_have_ids(tmp_path):
    data = get_config().data
    data.name = "image_mask"
    data.folder.update(root=str(REAL / "dsb2018"), instances="folder")
    source = open_source(data, "val", str(tmp_path), ("label",))
    assert len(source) == 50 and source.class_names == ("background", "object") and source.absent == ()
    example = source[0]
    assert example["instances"].max() > 1 and ((example["instances"] > 0) == example["label"]).all()
    boxes = open_source(data, "val", str(tmp_path), ("boxes", "masks"))
    assert boxes.class_names == ("object",) and boxes.bad_boxes == ()
    size, listed = boxes.objects(0)
    numbers = np.unique(example["instances"])[1:]
    masks = whole(boxes[0]["masks"], size)
    np.testing.assert_array_equal(masks, [example["instances"] == number for number in numbers])
    np.testing.assert_array_equal(listed["boxes"], [bound(mask) for mask in masks])
    np.testing.assert_array_equal(listed["area"], masks.sum((1, 2)))
    assert sum(len(boxes.objects(i)[1]["boxes"]) for i in range(50)) == sum(
        len(np.unique(source[i]["instances"])) - 1 for i in range(50)
    )


# Layouts


def test_masks_without_instances_give_no_boxes(root):
    with pytest.raises(UserError, match="folder.instances='' gives no boxes: .* folder .* or components"):
        open_folder(root, needs=("boxes",))


def test_penn_fudan_is_read_unchanged_and_held_out(tmp_path):
    """It has PNGImages and PedMasks. The values of a mask are the numbers of the pedestrians."""
    root, names = tmp_path / "set", [f"F{number}.png" for number in range(6)]
    for kind in ("PNGImages", "PedMasks"):
        (root / kind).mkdir(parents=True)
    ids = np.array([[0, 1, 1, 0, 2], [0, 1, 1, 0, 2]], np.uint8)
    for name in names:
        Image.new("RGB", (5, 2)).save(root / "PNGImages" / name)
        Image.fromarray(ids).save(root / "PedMasks" / name.replace(".", "_mask."))
    source = open_folder(root)
    assert source.class_names == ("background", "object") and "PennFudan's" in source.layout
    np.testing.assert_array_equal(source[0]["label"], ids > 0)
    objects = open_folder(root, needs=("boxes", "masks"))
    assert objects[0]["boxes"].tolist() == [[0, 1, 2, 3], [0, 4, 2, 5]]
    data = get_config().data
    data.update(name="image_mask", holdout=0.5)
    data.folder.root = str(root)
    parts = [open_source(data, split, str(tmp_path), ("label",)) for split in ("train", "validation")]
    held = [[part.name(i) for i in range(len(part))] for part in parts]
    assert sorted(held[0] + held[1]) == names and all(held)
    (root / "PNGImages/F0.png").rename(root / "PNGImages/G.png")
    (root / "PedMasks/F0_mask.png").rename(root / "PedMasks/G_mask.png")
    again = open_source(data, "train", str(tmp_path), ("label",))
    assert {again.name(i) for i in range(len(again))} - {"G.png"} == set(held[0]) - {"F0.png"}
