"""With EXIF orientation, annotations decide which view of an image they describe. Remarks report the view that is read."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs.common import get_config
from errors import UserError
from input_pipeline.decoding import encode_png
from input_pipeline.sources import open_source
from tests.input_pipeline.datasets import test_detection_folders as folders
from tests.input_pipeline.datasets.test_tfds_named import make

UPRIGHT = np.zeros((20, 30, 3), np.uint8)
UPRIGHT[4:10, 3:12] = (255, 0, 0)
BOX = (4, 3, 10, 12)
STORED = np.rot90(UPRIGHT)  # the file of a rotated camera, with orientation 6
STORED_BOX = (18, 4, 27, 10)


def photograph(path, pixels=STORED, orientation=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)


def is_the_red_one(source, index=0):
    """Check that the box that was read contains all red pixels and no others."""
    example = source[index]
    assert example["image"].shape[:2] == source.size(index) == source.objects(index)[0]
    (box,) = example["boxes"]
    rows, columns = np.nonzero(example["image"][..., 0])
    np.testing.assert_allclose(box, [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], atol=1e-4)


def write_yolo(root, box=BOX, size=(20, 30)):
    (root / "labels/train").mkdir(parents=True)
    (root / "data.yaml").write_text("names: [thing]")
    top, left, bottom, right = np.divide(box, np.tile(size, 2))
    (root / "labels/train/a.txt").write_text(
        f"0 {(left + right) / 2} {(top + bottom) / 2} {right - left} {bottom - top}"
    )


def write_coco(root, box, size):
    top, left, bottom, right = box
    (root / "annotations").mkdir(parents=True)
    content = {"images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}]}
    content["categories"] = [{"id": 1, "name": "thing"}]
    content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
    ]
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


def test_yolo_describes_the_upright_view(tmp_path):
    root = tmp_path / "set"
    write_yolo(root)
    photograph(root / "images/train/a.png")
    source = folders.open_folder("yolo_folder", root, "train", tmp_path / "tfds")
    is_the_red_one(source)
    assert source.size(0) == (20, 30)
    assert source.remarks == ("1 file is read upright, as the EXIF orientation says: a.png",)
    again = folders.open_folder("yolo_folder", root, "train", tmp_path / "tfds")
    is_the_red_one(again)
    assert again.remarks == source.remarks, "a prepared copy repeats the remark"


@pytest.mark.parametrize(("box", "size", "view"), [(BOX, (20, 30), "upright"), (STORED_BOX, (30, 20), "as stored")])
def test_size_in_the_annotation_decides_the_view(tmp_path, box, size, view):
    root = tmp_path / "set"
    write_coco(root, box, size)
    photograph(root / "train/a.png")
    source = folders.open_folder("coco_folder", root, "train", tmp_path / "tfds")
    is_the_red_one(source)
    assert source.size(0) == size and len(source.remarks) == 1 and view in source.remarks[0]


def test_size_in_voc_xml_decides_the_view(tmp_path):
    root = tmp_path / "set"
    folders.make_voc(root)
    path = next((root / "JPEGImages").glob("one.*"))
    pixels = np.asarray(Image.open(path).convert("RGB"))
    photograph(path, np.rot90(pixels))
    upright = folders.open_folder("voc_folder", root, "train", tmp_path / "tfds")
    assert upright.size(0) == pixels.shape[:2] and any("upright" in line for line in upright.remarks)
    photograph(path, pixels)
    stored = folders.open_folder("voc_folder", root, "train", tmp_path / "tfds")
    assert stored.size(0) == pixels.shape[:2] and any("as stored" in line for line in stored.remarks)


def test_error_names_both_sizes_and_exif_if_no_view_fits(tmp_path):
    root = tmp_path / "set"
    write_coco(root, BOX, (25, 30))
    photograph(root / "train/a.png")
    words = ["20x30", "30x20", "EXIF orientation 6", "25x30"]
    folders.refuse("coco_folder", root, tmp_path / "tfds", *words)


def test_rotation_by_180_degrees_is_read_upright_with_a_remark(tmp_path):
    root = tmp_path / "set"
    write_coco(root, BOX, (20, 30))
    photograph(root / "train/a.png", UPRIGHT[::-1, ::-1], 3)
    source = folders.open_folder("coco_folder", root, "train", tmp_path / "tfds")
    is_the_red_one(source)
    assert "upright" in source.remarks[0]


def test_copy_prepared_without_exif_orientation_is_not_reused(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    write_yolo(root)
    photograph(root / "images/train/a.png")
    folders.open_folder("yolo_folder", root, "train", place)
    (made,) = place.glob("yolo_folder/*/2.0.0")
    made.rename(made.with_name("1.0.0"))
    with pytest.raises(UserError, match="not prepared"):
        folders.open_folder("yolo_folder", "", "train", place)
    is_the_red_one(folders.open_folder("yolo_folder", root, "train", place))


def test_16_bit_images_are_scaled_by_the_largest_value_of_the_split(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    write_yolo(root)
    values = np.zeros((20, 30), np.uint16)
    values[4:10, 3:12] = 3900
    Image.fromarray(values).save(tmp_path / "a.png")
    (root / "images/train").mkdir(parents=True)
    (tmp_path / "a.png").rename(root / "images/train/a.png")
    source = folders.open_folder("yolo_folder", root, "train", place)
    assert source.peak == 3900 and source.white == 4095 and source[0]["image"].max() == 3900 * 255 // 4095
    assert source.remarks == ("16-bit images reach 3900; 4095 is read as white (config.data.white_level)",)


def make_tfds(place, name, pixels, **features):
    """Make a tfds dataset with one image of orientation 6, and more features with their values."""
    photograph(place / "a.png", pixels)
    kinds = {"image": tfds.features.Image(shape=(None, None, pixels.shape[2])), "file_name": tfds.features.Text()}
    kinds |= {key: kind for key, (kind, _) in features.items()}
    values = {key: value for key, (_, value) in features.items()}
    make(place, name, kinds, [{"image": (place / "a.png").read_bytes(), "file_name": "a.png"} | values])


def test_boxes_of_tfds_refer_to_the_pixels_that_it_decodes(tmp_path):
    box = tfds.features.BBox(*np.divide(STORED_BOX, (30, 20, 30, 20)))
    label = tfds.features.ClassLabel(names=["thing"]), 0
    make_tfds(tmp_path, "boxes", STORED, bbox=(tfds.features.BBoxFeature(), box), label=label)
    source = folders.open_folder("tfds:boxes", "", "train", tmp_path)
    assert source.size(0) == (30, 20)
    is_the_red_one(source)


@pytest.mark.parametrize(("pixels", "size"), [(UPRIGHT, (20, 30)), (STORED, (30, 20))])
def test_size_of_a_tfds_mask_decides_the_view(tmp_path, pixels, size):
    mask = encode_png((pixels[..., 0] > 0).astype(np.uint8))
    kind = tfds.features.LabeledImage(labels=["ground", "thing"], shape=(None, None, 1))
    make_tfds(tmp_path, "masks", STORED, mask=(kind, mask))
    data = get_config().data
    data.name = "tfds:masks"
    source = open_source(data, "train", str(tmp_path), ("label",))
    example = source[0]
    assert source.size(0) == size
    np.testing.assert_array_equal(example["image"][..., 0] > 0, example["label"] == 1)


def test_16_bit_images_of_tfds_need_a_white_level(tmp_path):
    values = np.full((4, 5), 2000, np.uint16)
    features = {"image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)}
    features |= {"mask": tfds.features.LabeledImage(labels=["a", "b"], shape=(None, None, 1))}
    make(tmp_path, "deep", features, [{"image": encode_png(values), "mask": encode_png(np.zeros((4, 5), np.uint8))}])
    data = get_config().data
    data.name = "tfds:deep"
    with pytest.raises(UserError, match="set config.data.white_level to 4095"):
        open_source(data, "train", str(tmp_path), ("label",))
    data.white_level = 4095
    source = open_source(data, "train", str(tmp_path), ("label",))
    assert (source[0]["image"] == 2000 * 255 // 4095).all()
    data.white_level = 65535
    assert open_source(data, "train", str(tmp_path), ("label",)).fingerprint != source.fingerprint
