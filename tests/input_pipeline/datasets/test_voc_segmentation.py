"""A small VOCdevkit is read exactly, and each possible fault gives a one-line error."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE
from input_pipeline.datasets import prepared as prepared_sets
from input_pipeline.datasets import voc_segmentation
from input_pipeline.sources import open_source

LISTS = {"train": ["2007_02", "2007_01"], "val": ["2008_03"], "trainval": ["2007_01", "2007_02", "2008_03"]}
CLASSES = 21


def palette() -> list[int]:
    """Return the colours of VOC. The bits of an index go in turn to red, green and blue, from the highest bit down."""
    return [
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for index in range(256)
        for channel in range(3)
    ]


def make_mask(values: np.ndarray) -> Image.Image:
    mask = Image.fromarray(values)
    mask.putpalette(palette())
    return mask


def values_of(number: int) -> np.ndarray:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    return np.where(values < CLASSES, (values + number) % CLASSES, IGNORE).astype(np.uint8)


@pytest.fixture
def year(tmp_path):
    """Write three examples in VOCdevkit/VOC2012."""
    year = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (year / name).mkdir(parents=True)
    for split, stems in LISTS.items():
        (year / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(stems) + "\n")
    for number, stem in enumerate(LISTS["trainval"]):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(year / f"JPEGImages/{stem}.jpg")
        make_mask(values_of(number)).save(year / f"SegmentationClass/{stem}.png")
    return year


def open_voc(place, root, split="train"):
    data = get_config().data
    data.name, data.folder.root = "voc_segmentation", str(root)
    return open_source(data, split, str(place), ("label",))


def refuse(place, root, *words):
    with pytest.raises(UserError) as caught:
        open_voc(place, root)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not list(place.glob("voc_segmentation/*")), "a failed preparation leaves nothing"
    assert not list(place.glob(".voc*"))


def test_examples_equal_the_files(year, tmp_path):
    assert palette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] and palette()[-3:] == [224, 224, 192]
    for split, stems in LISTS.items():
        source = open_voc(tmp_path / "tfds", year.parent, split)
        assert [source.name(i) for i in range(len(source))] == [f"{stem}.jpg" for stem in stems]
        for i, stem in enumerate(stems):
            example = source[i]
            np.testing.assert_array_equal(example["label"], values_of(LISTS["trainval"].index(stem)))
            pixels = np.asarray(Image.open(year / f"JPEGImages/{stem}.jpg"))
            np.testing.assert_array_equal(example["image"], pixels)
            assert example.keys() == {"image", "label"} and source.size(i) == (4, 6)
            assert source._records[i]["segmentation_mask"] == (year / f"SegmentationClass/{stem}.png").read_bytes()
            assert source._records[i]["image"] == (year / f"JPEGImages/{stem}.jpg").read_bytes()
    source = open_voc(tmp_path / "tfds", year.parent)
    names = source.class_names
    assert len(names) == CLASSES and list(names[1:]) == sorted(names[1:]) and names[0] == "background"
    assert (names[9], names[15], names[20]) == ("chair", "person", "tvmonitor")
    assert source.dropped == source.absent == ()


def test_year_and_devkit_folders_share_one_prepared_dataset(year, tmp_path, monkeypatch):
    place = tmp_path / "tfds"
    whole = open_voc(place, year.parent)
    monkeypatch.setattr(prepared_sets, "prepare", lambda *_: pytest.fail("prepared again"))
    assert open_voc(place, year).fingerprint == whole.fingerprint
    shutil.copytree(year.parent, tmp_path / "moved")  # keeps the times
    assert open_voc(place, tmp_path / "moved").fingerprint == whole.fingerprint
    assert [path.name for path in place.iterdir()] == ["voc_segmentation"]
    assert len(list(place.glob("voc_segmentation/*/1.0.0/dataset_info.json"))) == 1


def test_changed_devkit_is_prepared_again_and_no_root_needs_one_copy(year, tmp_path):
    place = tmp_path / "tfds"
    refuse(place, "", "not prepared", "config.data.folder.root")
    first = open_voc(place, year)
    assert open_voc(place, "").fingerprint == first.fingerprint
    mask = year / "SegmentationClass/2007_02.png"
    before = mask.stat()
    make_mask(np.full((4, 6), 20, np.uint8)).save(mask)
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert (open_voc(place, year)[0]["label"] == 20).all()
    with pytest.raises(UserError, match="prepared 2 times.*config.data.folder.root"):
        open_voc(place, "")
    (year / "ImageSets/Segmentation/train.txt").write_text("2007_01\n")
    assert len(open_voc(place, year)) == 1


def test_suffixes_have_no_effect_and_jpeg_masks_raise_an_error(year, tmp_path):
    image, mask = year / "JPEGImages/2007_02.jpg", year / "SegmentationClass/2007_02.png"
    image.rename(image.with_suffix(".JFIF"))
    mask.rename(mask.with_suffix(".PNG"))
    source = open_voc(tmp_path / "tfds", year)
    assert source.name(0) == "2007_02.JFIF"
    np.testing.assert_array_equal(source[0]["label"], values_of(LISTS["trainval"].index("2007_02")))
    make_mask(values_of(LISTS["trainval"].index("2007_02"))).convert("L").save(mask.with_suffix(".PNG"), "JPEG")
    refuse(tmp_path / "other", year, "2007_02.PNG", "JPEG")


@pytest.mark.parametrize("missing", ["JPEGImages/2008_03.jpg", "SegmentationClass/2008_03.png"])
def test_missing_file_is_named(year, tmp_path, missing):
    (year / missing).unlink()
    refuse(tmp_path / "tfds", year, str(year / missing), "missing", "remove their names from the list")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (make_mask(np.zeros((6, 4), np.uint8)), ["6x4", "4x6", "same size"]),
        (make_mask(np.zeros((4, 6), np.uint8)).convert("RGB"), ["colours", "palette"]),
        (make_mask(np.full((4, 6), 21, np.uint8)), ["value 21", "255"]),
        (make_mask(np.full((4, 6), 254, np.uint8)), ["value 254"]),
        (None, ["cannot be decoded"]),
    ],
)
def test_unusable_mask_is_named(year, tmp_path, mask, words):
    path = year / "SegmentationClass/2007_01.png"
    mask.save(path) if mask else path.write_bytes(b"no image")
    refuse(tmp_path / "tfds", year, str(path), *words)


def test_many_bad_files_are_counted_once_each(year, tmp_path):
    for path in (year / "SegmentationClass").iterdir():
        make_mask(np.full((4, 6), 99, np.uint8)).save(path)
    refuse(tmp_path / "tfds", year, "cannot be used (3): ")


def test_grey_masks_and_images_of_one_pixel_are_read(year, tmp_path):
    Image.fromarray(values_of(7)).save(year / "SegmentationClass/2007_02.png")
    Image.new("RGB", (1, 1)).save(year / "JPEGImages/2007_01.jpg")
    make_mask(np.full((1, 1), IGNORE, np.uint8)).save(year / "SegmentationClass/2007_01.png")
    source = open_voc(tmp_path / "tfds", year)
    np.testing.assert_array_equal(source[0]["label"], values_of(7))
    assert source[1]["label"].tolist() == [[IGNORE]] and source[1]["image"].shape == (1, 1, 3)


def test_missing_folders_and_lists_raise_an_error(year, tmp_path):
    place, lists = tmp_path / "tfds", year / "ImageSets/Segmentation"
    refuse(place, tmp_path / "nowhere", "nowhere", "VOCdevkit")
    shutil.copytree(year, year.parent / "VOC2010")
    assert voc_segmentation.find_year(str(year.parent)) == year
    year.rename(year.parent / "VOC2011")
    refuse(place, year.parent, "VOC2010, VOC2011", "set it to one")
    (year.parent / "VOC2011").rename(year)
    (lists / "val.txt").write_text("2008_03\n2008_03\n")
    refuse(place, year, "val.txt", "once")
    (lists / "val.txt").write_text("\n")
    refuse(place, year, "val.txt", "no image")
    (lists / "val.txt").unlink()
    (lists / "trainval.txt").unlink()
    with pytest.raises(UserError, match="no split 'val'; choose one of train"):
        open_voc(place, year, "val")
    (lists / "train.txt").unlink()
    with pytest.raises(UserError, match="none of train.txt, val.txt, trainval.txt"):
        open_voc(place, year)


def test_full_disk_raises_a_one_line_error_and_leaves_no_files(year, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(voc_segmentation.VocSegmentation, "_generate_examples", full)
    refuse(tmp_path / "tfds", year, "No space left", "--tfds_data_dir")


def test_tensorflow_and_jax_are_not_needed(year, tmp_path):
    script = f"""
import sys
from configs.common import get_config
from input_pipeline.sources import open_source
data = get_config().data
data.name, data.folder.root = "voc_segmentation", {str(year)!r}
source = open_source(data, "train", {str(tmp_path / "tfds")!r}, ("label",))
print(source[0]["label"].shape, {{"jax", "tensorflow"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(4, 6) set()"


def test_records_of_tfds_keep_the_palette(year, tmp_path):
    record = open_voc(tmp_path / "tfds", year)._records[0]
    assert Image.open(io.BytesIO(record["segmentation_mask"])).mode == "P"


def test_name_with_spaces_is_one_name(year, tmp_path):
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (year / folder / f"2008_03.{suffix}").rename(year / folder / f"my photo 3.{suffix}")
    for split in ("val", "trainval"):
        (year / f"ImageSets/Segmentation/{split}.txt").write_text("my photo 3\n2007_01 2007_02\n")
    source = open_voc(tmp_path / "tfds", year.parent, "val")
    assert [source.name(i) for i in range(3)] == ["my photo 3.jpg", "2007_01.jpg", "2007_02.jpg"]


@pytest.mark.parametrize("name", ["../../../outside", "a/../../outside", "/etc/passwd"])
def test_name_that_leads_out_of_the_folder_raises_an_error(year, tmp_path, name):
    for folder, source in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tmp_path / f"outside.{source}").write_bytes((year / folder / f"2007_01.{source}").read_bytes())
    (year / "ImageSets/Segmentation/train.txt").write_text(f"2007_01\n{name}\n")
    with pytest.raises(
        UserError, match=rf"train.txt: names that lead out of .* \(1\): {name}; remove them from the list"
    ):
        open_voc(tmp_path / "tfds", year)
