import json
import shutil

import pytest
from PIL import Image

from configs import boxes, masks
from errors import UserError
from experiments.run.open_fields import settle


@pytest.fixture
def folder(tmp_path):
    """Five images in COCO's layout with a median size of 150x260, and masks of the same images."""
    root = tmp_path / "set"
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number, size in enumerate(((90, 60), (260, 150), (200, 150), (400, 300), (300, 150)), 1):
        for place, mode in ((root / "train", "RGB"), (root / "images/train", "RGB"), (root / "masks/train", "L")):
            place.mkdir(parents=True, exist_ok=True)
            Image.new(mode, size).save(place / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": size[1], "width": size[0]})
        box = {"bbox": [1, 2, 9, 9], "category_id": 1}
        content["annotations"].append({"id": number, "image_id": number} | box)
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    (root / "classes.txt").write_text("back\nfront\n")
    return root


@pytest.mark.parametrize(
    ("longest", "size"), [(512, (160, 256)), (130, (64, 128)), (20, (32, 32))], ids=["own", "smaller", "least"]
)
def test_the_data_settles_format_and_size(folder, tmp_path, capsys, longest, size):
    config = boxes.get_config()
    config.data.folder.root, config.data.longest = str(folder), longest
    settled = settle(config, str(tmp_path / "tfds"))
    assert settled.data.name == "coco_folder" and tuple(settled.data.image_size) == size
    out = capsys.readouterr().out
    assert "config.data.name=coco_folder" in out and "median of 5 training images is 150x260" in out
    assert config.data.name == "folder", "the given config is not changed"
    assert settle(settled, None) is settled


def test_masks_of_the_same_folder_are_found(folder, tmp_path):
    config = masks.get_config()
    config.data.folder.root = str(folder)
    settled = settle(config, str(tmp_path / "tfds"))
    assert settled.data.name == "image_mask" and tuple(settled.data.image_size) == (160, 256)


def test_a_resumed_run_keeps_its_image_size(folder, tmp_path):
    config = boxes.get_config()
    config.data.folder.root = str(folder)
    stored = settle(config, str(tmp_path / "tfds"))
    stored.data.image_size = (96, 96)
    assert tuple(settle(config, None, stored).data.image_size) == (96, 96)


def test_a_single_side_is_refused(folder):
    config = boxes.get_config()
    config.data.folder.root, config.data.image_size = str(folder), (64, 0)
    with pytest.raises(UserError, match=r"image_size=\(64, 0\) has one side of 0; give both sides, or \(0, 0\)"):
        settle(config, None)


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("", "needs config.data.folder.root.*set config.data.name to a format, such as coco_folder.*image_size"),
        ("nowhere", "is not a folder"),
    ],
)
def test_a_folder_must_be_given(root, said):
    config = boxes.get_config()
    config.data.folder.root = root
    with pytest.raises(UserError, match=said):
        settle(config, None)


def test_a_folder_of_no_layout_names_the_layouts(tmp_path):
    config = boxes.get_config()
    config.data.folder.root = str(tmp_path)
    with pytest.raises(
        UserError, match="has no supported layout; arrange it as one of these: coco_folder: .*yolo_folder: "
    ):
        settle(config, None)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/images/1.jpg", "train/annotations/one.xml"], r"annotations without their image \(1\): .*one.xml"),
        (["set/images/train/1.jpg", "set/labels/train/1.txt"], "set it to .*set"),
        (["train/images/1.jpg"], "has no supported layout"),
    ],
)
def test_boxes_that_are_refused_are_not_taken_for_masks(tmp_path, files, words):
    """The error of the right format is not hidden by an error on masks that do not exist."""
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("0 0.5 0.5 0.1 0.1")
    config = boxes.get_config()
    config.data.folder.root = str(tmp_path)
    with pytest.raises(UserError, match=words):
        settle(config, None)


def test_a_list_of_classes_in_json_is_not_coco(folder, tmp_path):
    """Label Studio writes such a list next to YOLO's labels."""
    for kind in ("annotations", "images", "masks"):
        shutil.rmtree(folder / kind)
    (folder / "train/1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (folder / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {}}')
    (folder / "train.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {}}')
    config = boxes.get_config()
    config.data.folder.root = str(folder)
    assert settle(config, str(tmp_path / "tfds")).data.name == "yolo_folder"


@pytest.mark.parametrize("masked", [False, True])
def test_a_dataset_one_folder_lower_is_named(folder, tmp_path, masked):
    """Archives are often unpacked this way."""
    for kind in ("images", "masks"):
        shutil.rmtree(folder / kind)
    if masked:
        shutil.rmtree(folder)
        for kind in ("images", "masks"):
            (folder / "train" / kind).mkdir(parents=True)
    config = boxes.get_config()
    config.data.folder.root = str(tmp_path)
    with pytest.raises(UserError, match=f"set config.data.folder.root to {folder}"):
        settle(config, None)


def test_a_folder_of_two_formats_needs_a_choice(folder):
    for kind in ("images", "masks"):
        shutil.rmtree(folder / kind)
    (folder / "train/1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (folder / "data.yaml").write_text("names: [cat]\ntrain: train\n")
    config = boxes.get_config()
    config.data.folder.root = str(folder)
    with pytest.raises(
        UserError, match="fits several formats; set config.data.name to one .*coco_folder: .*yolo_folder: "
    ):
        settle(config, None)
