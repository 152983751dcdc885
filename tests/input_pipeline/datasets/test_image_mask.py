"""A folder of the user's: kinds of masks, and one clear line for everything that can be wrong with it."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE, check_batch
from input_pipeline.datasets.id_maps import find_components
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
    """Three good examples of three classes."""
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


def test_a_good_folder(root):
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


def test_grey_16_bit_palette_and_grey_stored_as_rgb_are_the_same(root):
    palette = Image.fromarray(MASK)
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    add(root, "d", mask=palette)
    add(root, "e", mask=MASK.astype(np.uint16))
    add(root, "f", mask=np.repeat(MASK[..., None], 3, -1))
    source = open_folder(root)
    for i in range(6):
        np.testing.assert_array_equal(source[i]["label"], MASK)


def test_colour_masks(root):
    colours = np.array([[10, 20, 30], [0, 0, 0], [200, 100, 0]], np.uint8)
    (root / "classes.txt").write_text("sky 10 20 30\ntraffic light 0 0 0\nroad 200 100 0\n")
    for stem in "abc":
        add(root, stem, mask=colours[MASK])
    source = open_folder(root)
    assert source.class_names == ("sky", "traffic light", "road")
    np.testing.assert_array_equal(source[0]["label"], MASK)
    add(root, "b", mask=(colours + np.uint8(1))[MASK])
    refuse(root, "b.png", "(11, 21, 31)", "classes file")


def test_black_and_white_masks_by_colours(root):
    (root / "classes.txt").write_text("background 0 0 0\ncell 255 255 255\n")
    mask = (MASK > 0).astype(np.uint8)
    for stem in "abc":
        add(root, stem, mask=mask * np.uint8(255))
    np.testing.assert_array_equal(open_folder(root)[0]["label"], mask)


def test_the_ignore_value(root):
    add(root, "d", mask=np.where(MASK == 2, 11, MASK).astype(np.uint8))
    message = refuse(root, "d.png", "11", "ignore_value")
    assert "a.png" not in message
    source = open_folder(root, ignore_value=11)
    np.testing.assert_array_equal(source[3]["label"], np.where(MASK == 2, IGNORE, MASK))


def test_gif_and_transparent_png_named_jpg(root):
    Image.new("RGBA", (5, 4), (9, 8, 7, 0)).save(root / "train/images/a.png", "PNG")
    (root / "train/images/a.png").rename(root / "train/images/a.jpg")
    Image.new("P", (5, 4)).save(root / "train/images/b.gif", "GIF")
    (root / "train/images/b.gif").rename(root / "train/images/b.jpg")
    source = open_folder(root)
    assert (source[0]["image"] == (9, 8, 7)).all() and source[1]["image"].shape == (4, 5, 3)


def test_a_missing_mask_is_named(root):
    (root / "train/masks/b.png").unlink()
    refuse(root, "b.png", "missing")


def test_a_mask_of_another_size_is_named(root):
    add(root, "b", mask=MASK.T)
    refuse(root, "b.png", "5x4", "4x5")


def test_many_bad_files_are_counted(root):
    for i in range(7):
        add(root, f"x{i}", mask=MASK.T)
    message = refuse(root, "7", "x0.png", "and 4 more")
    assert "x6" not in message


@pytest.mark.parametrize("place", ["images/b.jpg", "masks/b.png"])
@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_a_file_that_cannot_be_decoded(root, place, content):
    path = root / "train" / place
    noise = np.random.default_rng(0).integers(0, 3, (40, 50), dtype=np.uint8)
    add(root, "b", Image.fromarray(np.dstack([noise * 80] * 3)), noise)
    path.write_bytes(path.read_bytes()[:150] if content == "cut" else content)
    refuse(root, path.name, "drop_unreadable")
    source = open_folder(root, drop_unreadable=True)
    assert source.dropped == ("b.jpg",)
    assert [source.name(i) for i in range(len(source))] == ["a.jpg", "c.jpg"]


def test_splits_folders_and_classes_that_are_not_there(root):
    refuse(root, "train", split="val")
    refuse(root.parent / "nowhere", "folder.root")
    refuse(root, "names.txt", classes="names.txt")
    for path in (root / "train/images").iterdir():
        path.unlink()
    refuse(root, "no image")


@pytest.mark.parametrize("text", ["", "one\n", "a 1 2 3\nb\n", "a\na\n", "a 1 2 3\nb 1 2 3\n"])
def test_a_classes_file_that_cannot_be_used(root, text):
    (root / "classes.txt").write_text(text)
    refuse(root, "classes.txt")


def test_two_images_of_one_mask(root):
    Image.new("RGB", (5, 4)).save(root / "train/images/a.png")
    refuse(root, "a.jpg", "a.png")


def test_findings_are_remembered_until_a_file_changes(root, monkeypatch):
    open_folder(root)
    with monkeypatch.context() as patch:
        patch.setattr("input_pipeline.datasets.image_mask.ImageMask._check", lambda *_: pytest.fail("checked again"))
        open_folder(root)
    add(root, "b", mask=np.full((4, 5), 77, np.uint8))
    refuse(root, "b.png", "77")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unfit": 1}', '{"unfit": [], "unreadable": {}}'])
def test_a_corrupt_cache_is_made_anew(root, content):
    open_folder(root)
    (cache,) = (root.parent / "tfds" / "image_mask").iterdir()
    cache.write_text(content)
    assert len(open_folder(root)) == 3
    assert cache.read_text() != content


def test_a_cache_that_cannot_be_written_is_no_error(root):
    (root.parent / "tfds").write_text("a file where the folder should be")
    assert len(open_folder(root)) == 3


def add_instances(root, stem, ids):
    (root / "train/instances").mkdir(exist_ok=True)
    (ids if isinstance(ids, Image.Image) else Image.fromarray(ids)).save(root / f"train/instances/{stem}.png")


IDS = np.array([[0, 1, 1, 0, 300], [0, 0, 0, 0, 300], [7, 0, 0, 0, 0], [7, 7, 0, 0, 300]], np.uint16)


@pytest.fixture
def objects(root):
    """Three examples whose objects have ids and no masks."""
    shutil.rmtree(root / "train/masks")
    (root / "classes.txt").unlink()
    for stem in "abc":
        add_instances(root, stem, IDS)
    return root


def test_instances_have_their_own_folder(objects):
    add_instances(objects, "b", np.minimum(IDS, 255).astype(np.uint8))
    source = open_folder(objects, instances="folder")
    assert source.class_names == ("background", "object") and source.absent == ()
    example = source[0]
    assert example.keys() == {"image", "label", "instances"}
    assert example["instances"].dtype == np.int32 and example["label"].dtype == np.uint8
    np.testing.assert_array_equal(example["instances"], IDS)
    np.testing.assert_array_equal(example["label"], IDS > 0)
    np.testing.assert_array_equal(source[1]["instances"], np.minimum(IDS, 255))


def test_instances_beside_masks_do_not_change_the_label(root):
    for stem in "abc":
        add_instances(root, stem, IDS)
    source = open_folder(root, instances="folder")
    np.testing.assert_array_equal(source[0]["label"], MASK)
    np.testing.assert_array_equal(source[0]["instances"], IDS)
    assert source.class_names == ("sky", "traffic light", "road")
    assert open_folder(root)[0].keys() == {"image", "label"}, "not asked for"


def test_without_masks_there_are_two_classes(objects):
    (objects / "classes.txt").write_text("tissue\nnucleus\n")
    assert open_folder(objects, instances="folder").class_names == ("tissue", "nucleus")
    (objects / "classes.txt").write_text("tissue\nnucleus\ncell\n")
    refuse(objects, "classes.txt names 3 classes", instances="folder")
    (objects / "classes.txt").unlink()
    (objects / "train/masks").mkdir()
    refuse(objects, "masks that are missing: 3", instances="folder")


def test_components_are_regions_of_one_class_that_share_sides(root):
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


def test_instances_that_cannot_be_are_named(objects):
    good = [path.read_bytes() for path in sorted((objects / "train/instances").iterdir())]
    path = objects / "train/instances/b.png"
    path.unlink()
    refuse(objects, "instances that are missing: 1", str(path), instances="folder")
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


def test_the_fingerprint_knows_of_instances(root):
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


def test_ids_are_boxes_and_masks_of_objects(objects):
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


def test_an_image_without_an_object_is_an_example(objects):
    add_instances(objects, "b", np.zeros_like(IDS))
    source = open_folder(objects, needs=("boxes", "masks"), instances="folder")
    assert source[1]["boxes"].shape == (0, 4) and source[1]["masks"].shape == (0,) and len(source[2]["boxes"]) == 3


def test_an_objects_class_is_the_commonest_of_its_pixels(root):
    """The background is none, and no class is none: an object of them alone is left out."""
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
    assert source.bad_boxes == ("a.jpg: object 7: no pixel of it has a class",)
    size, listed = source.objects(0)
    np.testing.assert_array_equal(listed["boxes"], [BOXES[1], BOXES[300]])
    assert listed["classes"].tolist() == [0, 1], "of a tie the first"
    np.testing.assert_array_equal(whole(source[0]["masks"], size), [IDS == 1, IDS == 300])
    assert open_folder(root, "train[:1]", **fields).absent == ("river",)
    assert len(open_folder(root, "train[1:]", **fields).bad_boxes) == 1, "it is of the whole split"


def test_components_have_boxes(root):
    label = np.array([[1, 1, 0, 2, 2], [0, 0, 1, 2, 1], [2, 0, 1, 0, 1], [2, 2, 0, 0, 0]], np.uint8)
    add(root, "a", mask=label)
    source = open_folder(root, needs=("boxes", "masks"), instances="components")
    example, ids = source[0], find_components(label)
    assert example["classes"].tolist() == [label[ids == number][0] - 1 for number in range(1, 6)]
    np.testing.assert_array_equal(whole(example["masks"], (4, 5)), [ids == number for number in range(1, 6)])
    np.testing.assert_array_equal(example["boxes"], [bound(ids == number) for number in range(1, 6)])


def test_boxes_are_found_once(objects, monkeypatch):
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


def test_a_detector_trains_on_ids(objects):
    data = get_config().data
    data.update(image_size=(8, 10), max_boxes=4, mask_size=(4, 4), prefetch=1)
    data.augment.update(flip=0.0, copy_paste=0.5, mosaic=0.5)
    truth = make_truth(("boxes", "masks"), data)
    source = open_folder(objects, needs=truth.asks, instances="folder")
    loader = TrainLoader(source, truth, data, batch_size=3, seed=0)
    batch = next(loader)
    loader.close()
    check_batch(batch, truth.keys)
    assert batch["masks"][batch["valid"]].any() and batch["valid"].any()


def test_classes_without_a_pixel_are_known(root, monkeypatch):
    assert open_folder(root).absent == ()
    with open(root / "classes.txt", "a") as file:
        file.write("river\nbridge\n")
    assert open_folder(root).absent == open_folder(root, "train[:1]").absent == ("river", "bridge")
    monkeypatch.setattr("input_pipeline.datasets.image_mask.ImageMask._check", lambda *_: pytest.fail("checked again"))
    assert open_folder(root).absent == ("river", "bridge"), "remembered"


def test_a_class_of_a_file_that_is_left_out_is_absent(root):
    add(root, "d", mask=np.full((4, 5), 3, np.uint8))
    (root / "classes.txt").write_text("sky\ntraffic light\nroad\nriver\n")
    assert open_folder(root).absent == ()
    (root / "train/images/d.jpg").write_bytes(b"no image")
    assert open_folder(root, drop_unreadable=True).absent == ("river",)


def test_one_pixel(root):
    add(root, "d", Image.new("RGB", (1, 1)), np.full((1, 1), 2, np.uint8))
    source = open_folder(root, instances="components")
    assert source[3]["image"].shape == (1, 1, 3) and source.size(3) == (1, 1)
    assert source[3]["label"].tolist() == [[2]] and source[3]["instances"].tolist() == [[1]]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data next to the repository")
def test_camvid_and_isbi(tmp_path):
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
