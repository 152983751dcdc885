"""Layouts give the files of each split, and ambiguous folders give a one-line error. No file is decoded."""

import json
import os

import pytest

from errors import UserError
from input_pipeline.datasets import mask_folder
from input_pipeline.datasets.layouts import coco, masks, voc, yolo
from input_pipeline.datasets.layouts.recognition import recognise

ROWS = "0 0.5 0.5 0.2 0.2\n"


def write(root, files):
    """Write files from `{path: text}`, or from paths with YOLO rows in .txt files."""
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        text = files[path] if isinstance(files, dict) else ROWS if path.endswith(".txt") else ""
        (root / path).write_text(text)
    return root


def show(layout):
    """Return the names of images and of their annotations by split, as `{split: {image: annotation}}`."""
    return {
        split: {pair.name: pair.annotation and pair.annotation.name for pair in pairs}
        for split, pairs in layout.splits.items()
    }


def refuse(find, root, *words):
    with pytest.raises(UserError) as caught:
        find(root)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("find", "pipe", "files"),
    [
        (yolo.find, "labels/b.txt", ["images/a.jpg", "images/b.jpg", "labels/a.txt"]),
        (voc.find, "b.xml", ["a.jpg", "b.jpg", "a.xml"]),
        (coco.find, "annotations/instances_train.json", ["train/a.jpg", "annotations/a.txt"]),
        (coco.find, "a.json", ["a.jpg"]),
        (coco.find, "train/_annotations.coco.json", ["train/a.jpg"]),
    ],
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_pipes_instead_of_annotations_raise_an_error(tmp_path, find, pipe, files, make):
    make(write(tmp_path, files) / pipe)
    refuse(find, tmp_path, "broken links or pipes in the place of files (1): ", pipe)


# YOLO


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["images/train/a.jpg", "labels/train/a.txt"], {"train": {"a.jpg": "a.txt"}}),
        (["train/images/a.jpg", "train/labels/a.txt"], {"train": {"a.jpg": "a.txt"}}),
        (["images/train/b/a.jpg", "labels/train/b/a.txt"], {"train": {"b/a.jpg": "a.txt"}}),
        (["images/train/a.jpg", "images/train/a.txt", "classes.txt"], {"train": {"a.jpg": "a.txt"}}),
        (["images/a.jpg", "labels/a.txt", "README.txt"], {"train": {"a.jpg": "a.txt"}}),
        (["a.jpg", "a.txt", "classes.txt"], {"train": {"a.jpg": "a.txt"}}),
        (["obj_train_data/a.jpg", "obj_train_data/a.txt", "train.txt"], {"train": {"a.jpg": "a.txt"}}),
        (
            ["cam1/a.jpg", "cam1/a.txt", "cam2/a.jpg", "cam2/a.txt"],
            {"cam1": {"a.jpg": "a.txt"}, "cam2": {"a.jpg": "a.txt"}},
        ),
        (["images/val/a.jpg", "images/val/b.jpg", "labels/val/a.txt"], {"val": {"a.jpg": "a.txt", "b.jpg": None}}),
        (["images/val/a.JPG", "Labels/val/a.TXT"], {"val": {"a.JPG": "a.TXT"}}),
    ],
)
def test_yolo_layouts_are_recognised(tmp_path, files, expected):
    layout = yolo.find(write(tmp_path, files))
    assert show(layout) == expected
    assert "layout: YOLO's" in layout.describe()


FLAT = [
    f"{folder}/{stem}.{suffix}" for folder, suffix in (("images", "jpg"), ("labels", "txt")) for stem in ("a", "b", "c")
]


@pytest.mark.parametrize(
    "start", ["./images/", "images/", "/home/ann/set/images/", "C:\\ann\\set\\images\\", "data/images/"]
)
def test_lists_in_a_data_file_are_splits(tmp_path, start):
    """Paths in the lists are relative to the folder, or come from another machine."""
    write(tmp_path, FLAT)
    write(tmp_path, {"data.yaml": "path: .\ntrain: train.txt\nval: val.txt\nnames: [x]"})
    write(tmp_path, {"train.txt": f"{start}b.jpg\n{start}a.jpg\n", "val.txt": f"{start}c.jpg"})
    layout = yolo.find(tmp_path)
    assert show(layout) == {"train": {"b.jpg": "b.txt", "a.jpg": "a.txt"}, "val": {"c.jpg": "c.txt"}}
    assert layout.files == tuple(tmp_path / name for name in ("data.yaml", "train.txt", "val.txt"))
    assert "splits by data.yaml" in layout.describe()


TWO = [
    f"{kind}/{folder}/a.{suffix}"
    for kind, suffix in (("images", "jpg"), ("labels", "txt"))
    for folder in ("one", "two", "val", "test")
]


@pytest.mark.parametrize("path", ["path: .", "path: ../datasets/set", "path: /content/drive/set", ""])
def test_folders_in_a_data_file_are_splits_and_others_keep_their_names(tmp_path, path):
    write(tmp_path, TWO)
    write(tmp_path, {"data.yaml": f"{path}\ntrain: [images/one, images/two]\nval: ../images/val\nnames: [x]"})
    assert show(yolo.find(tmp_path)) == {
        "train": {"one/a.jpg": "a.txt", "two/a.jpg": "a.txt"},
        "val": {"a.jpg": "a.txt"},
        "test": {"a.jpg": "a.txt"},
    }


def test_data_file_from_another_machine_does_not_change_the_folders(tmp_path):
    """`train/images` does not exist, and images/ must not be used for both splits."""
    write(tmp_path, FLAT)
    write(tmp_path, {"data.yaml": "train: train/images\nval: valid/images\nnames: [x]"})
    layout = yolo.find(tmp_path)
    assert list(layout.splits) == ["train"] and len(layout.splits["train"]) == 3
    assert layout.remarks("train") == [
        "data.yaml names train: train/images, which is missing or holds no images",
        "data.yaml names val: valid/images, which is missing or holds no images",
    ]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [(("train", "valid", "test"), ["test", "train", "valid"]), (("train", "valid", "val"), ["train", "val"])],
)
def test_split_keeps_the_name_of_its_folder(tmp_path, folders, expected):
    """Earlier versions read only folders and trained on `valid`. A folder `val` next to it is a different one."""
    for folder in folders:
        write(tmp_path, [f"{folder}/images/a.jpg", f"{folder}/labels/a.txt"])
    write(tmp_path, {"data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [x]"})
    splits = yolo.find(tmp_path).splits
    assert list(splits) == expected
    assert splits[expected[-1]][0].image == tmp_path / "valid/images/a.jpg"


def test_darknet_data_file_is_read(tmp_path):
    write(tmp_path, ["obj_train_data/a.jpg", "obj_train_data/a.txt", "obj_train_data/b.jpg", "obj_train_data/b.txt"])
    write(tmp_path, {"obj.data": "classes = 1\ntrain = data/train.txt\nnames = data/obj.names", "obj.names": "x"})
    write(tmp_path, {"train.txt": "data/obj_train_data/b.jpg"})
    layout = yolo.find(tmp_path)
    assert show(layout) == {"train": {"b.jpg": "b.txt"}}
    assert "1 label file is skipped (images that obj.data does not name): a.txt" in layout.remarks("train")


def test_images_without_labels_are_counted_and_one_label_is_needed(tmp_path):
    write(tmp_path, ["images/train/a.jpg", "images/train/b.jpg", "labels/train/a.txt", "images/test/c.jpg"])
    write(tmp_path, {"data.yaml": "train: images/train\ntest: images/test\nnames: [x]"})
    layout = yolo.find(tmp_path)
    assert list(layout.splits) == ["train"]
    assert layout.remarks("train") == [
        "test is not a split: none of its images has a label file (1)",
        "1 image has no label file and counts as an image without objects: b.jpg",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["images/train/a.jpg", "labels/train/a.txt", "labels/train/b.txt"],
            ["label files without their image", "labels/train/b.txt"],
        ),
        (["images/train/a.jpg", "images/train/a.png", "labels/train/a.txt"], ["would share one label file"]),
        (["images/train/a.jpg", "images/train/a.txt", "labels/train/a.txt"], ["two label files of one image"]),
        (
            ["set/train/images/a.jpg", "set/train/labels/a.txt"],
            ["holds set/, which holds the split 'train'", "set it to "],
        ),
        (["a.jpg", "a.txt", "cam/b.jpg", "cam/b.txt"], ["are in folders (cam), and others are not"]),
        (
            {"images/a.jpg": "", "labels/a.txt": ROWS, "a.yaml": "names: [x]", "b.yaml": "names: [y]"},
            ["a.yaml, b.yaml", "keep only one"],
        ),
        ({"images/a.jpg": "", "labels/a.txt": ROWS, "data.yaml": "train: 7"}, ["train is 7", "a folder of images"]),
        (
            {
                "images/a.jpg": "",
                "labels/a.txt": ROWS,
                "data.yaml": "train: t.txt",
                "t.txt": "images/a.jpg\n../../etc/b.jpg\n",
            },
            ["t.txt: lines that do not name an image", "../../etc/b.jpg"],
        ),
        (
            {"images/a.jpg": "", "labels/a.txt": ROWS, "data.yaml": "train: [images, more]"},
            ["train names 'more', which is missing"],
        ),
    ],
)
def test_ambiguous_yolo_folders_raise_an_error(tmp_path, files, words):
    refuse(yolo.find, write(tmp_path, files), *words)


# VOC


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["train/a.jpg", "train/a.xml", "val/b.jpg", "val/b.xml"],
            {"train": {"a.jpg": "a.xml"}, "val": {"b.jpg": "b.xml"}},
        ),
        (["a b.jpg", "a b.XML"], {"train": {"a b.jpg": "a b.XML"}}),
        (["images/a.png", "annotations/a.xml"], {"train": {"a.png": "a.xml"}}),
        (["images/a.png", "annotations/xmls/a.xml"], {"train": {"a.png": "a.xml"}}),
        (["JPEGImages/a.jpg", "Annotations/a.xml", "SegmentationClass/a.png"], {"train": {"a.jpg": "a.xml"}}),
        (["images/train/c/a.jpg", "annotations/train/c/a.xml"], {"train": {"c/a.jpg": "a.xml"}}),
        (["test/images/a.jpg", "test/Annotations/a.xml"], {"test": {"a.jpg": "a.xml"}}),
        (["train/a.jpg", "train/a.xml", "__MACOSX/train/a.xml", ".cache/a.xml"], {"train": {"a.jpg": "a.xml"}}),
    ],
)
def test_voc_layouts_without_lists_are_recognised(tmp_path, files, expected):
    layout = voc.find(write(tmp_path, files))
    assert show(layout) == expected and "without lists; found" in layout.describe()


def test_voc_lists_may_contain_names_with_spaces(tmp_path):
    stems = ("my photo 1", "my photo", "plain")
    write(tmp_path, [f"JPEGImages/{stem}.jpg" for stem in stems] + [f"Annotations/{stem}.xml" for stem in stems])
    write(
        tmp_path,
        {"ImageSets/Main/train.txt": "my photo 1\nplain\n", "ImageSets/Main/cat_train.txt": "my photo  1\nplain -1\n"},
    )
    assert show(voc.find(tmp_path)) == {"train": {"my photo 1.jpg": "my photo 1.xml", "plain.jpg": "plain.xml"}}
    write(tmp_path, {"ImageSets/Main/train.txt": "my photo 2\nplain\n"})
    refuse(voc.find, tmp_path, "missing files", "my photo 2.jpg", "my photo 2.xml")


def test_voc_files_are_found_in_any_case_and_unicode_form(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    write(tmp_path, [f"JPEGImages/{apart}.JPG", f"Annotations/{composed}.XML"])
    write(tmp_path, {"ImageSets/Main/train.TXT": f"{apart}\n"})
    assert show(voc.find(tmp_path)) == {"train": {f"{apart}.JPG": f"{composed}.XML"}}


def test_voc_lists_may_contain_names_with_folders(tmp_path):
    write(tmp_path, ["JPEGImages/c/a.b.jpg", "JPEGImages/d/a.b.png", "Annotations/c/a.b.xml", "Annotations/d/a.b.xml"])
    write(tmp_path, {"ImageSets/Main/val.txt": "d/a.b\n"})
    layout = voc.find(tmp_path)
    assert show(layout) == {"val": {"d/a.b.png": "a.b.xml"}}
    assert layout.remarks("val") == ["1 image is not in any split's list: a.b.jpg"]


def test_images_without_xml_are_skipped_and_named(tmp_path):
    layout = voc.find(write(tmp_path, ["train/a.jpg", "train/a.xml", "train/b.jpg", "others/c.jpg"]))
    assert layout.remarks("train") == ["1 image without an XML file is skipped: b.jpg"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train/a.xml", "train/b.jpg"], ["annotations without their image", "train/a.xml"]),
        (["train/a.xml", "train/a.jpg", "train/a.png"], ["share one name", "a.jpg and "]),
        (["set/train/a.xml", "set/train/a.jpg"], ["which holds the split 'train'"]),
    ],
)
def test_ambiguous_voc_folders_raise_an_error(tmp_path, files, words):
    refuse(voc.find, write(tmp_path, files), *words)


# COCO and masks

COCO = json.dumps({"images": [], "annotations": [], "categories": []})


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_val.json", "val/a.jpg", "val"),
        ("annotations/val.json", "images/val/a.jpg", "val"),
        ("annotations/instances_val.json", "images/c/a.jpg", "val"),
        ("val/_annotations.coco.json", "val/a.jpg", "val"),
        ("_annotations.coco.json", "a.jpg", "train"),
        ("result.json", "images/a.jpg", "result"),
        ("val.json", "val/a.jpg", "val"),
    ],
)
def test_coco_layouts_are_recognised(tmp_path, file, images, split):
    layout = coco.find(write(tmp_path, {file: COCO, images: "", "package.json": "{}"}))
    assert {name: path.name for name, (path, _) in layout.splits.items()} == {split: file.split("/")[-1]}


@pytest.mark.parametrize(
    ("files", "split", "kinds"),
    [
        (["val/images/a.png", "val/masks/a.png"], "val", {"images", "masks"}),
        (["images/val/a.png", "masks/val/a.png"], "val", {"images", "masks"}),
        (["images/a.png", "masks/a.png"], "train", {"images", "masks"}),
        (["PNGImages/a.png", "PedMasks/a_mask.png"], "train", {"images", "instances"}),
    ],
)
def test_mask_layouts_are_recognised(tmp_path, files, split, kinds):
    layout = masks.find(write(tmp_path, files))
    assert {name: set(folders) for name, folders in layout.splits.items()} == {split: kinds}
    ((example,), _) = mask_folder.find_files(layout.splits[split], False)
    assert set(example) == kinds and all(path.is_file() for path in example.values())


def test_links_and_pipes_among_images_are_skipped_and_named(tmp_path):
    write(tmp_path, ["images/a.png", "masks/a.png"])
    (tmp_path / "images/b.png").symlink_to(tmp_path / "images/c.png")
    (tmp_path / "images/c.png").symlink_to(tmp_path / "images/b.png")
    (tmp_path / "images/d.png").mkdir()
    os.mkfifo(tmp_path / "images/e.png")
    examples, remarks = mask_folder.find_files(masks.find(tmp_path).splits["train"], False)
    assert [files["images"].name for files in examples] == ["a.png"]
    assert remarks == ["3 files are skipped (not a supported image): b.png, c.png, e.png"]


@pytest.mark.parametrize("find", [yolo.find, voc.find])
def test_other_files_among_images_are_named(tmp_path, find):
    suffix = "txt" if find is yolo.find else "xml"
    layout = find(write(tmp_path, ["train/a.jpg", f"train/a.{suffix}", "train/clip.mp4", "elsewhere/x.mp4"]))
    assert layout.remarks("train")[-1] == "1 file is skipped (not a supported image): clip.mp4"


def test_folder_with_a_link_to_itself_is_read_once(tmp_path):
    write(tmp_path, ["images/train/a.jpg", "labels/train/a.txt"])
    (tmp_path / "images/train/again").symlink_to(tmp_path / "images")
    assert show(yolo.find(tmp_path)) == {"train": {"a.jpg": "a.txt"}}


@pytest.mark.parametrize("name", ["coco_folder", "voc_folder", "yolo_folder", "image_mask"])
def test_error_names_the_format_that_the_folder_has(tmp_path, name):
    others = {
        "voc_folder": ["train/a.jpg", "train/a.xml"],
        "yolo_folder": ["images/train/a.jpg", "labels/train/a.txt"],
    }
    (other, files) = next((other, files) for other, files in others.items() if other != name)
    write(tmp_path, files)
    refuse(
        lambda root: recognise(name, root),
        tmp_path,
        f"does not have a layout of {name}",
        f"looks like {other}",
        f"--config.data.name={other}",
    )
    refuse(lambda root: recognise(name, root / "empty"), tmp_path, f"does not have a layout of {name}", "which needs")
