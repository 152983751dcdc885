"""Small folders in three formats are read exactly, and each mistake gives a one-line error."""

import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import boxes
from configs.common import get_config
from errors import UserError
from experiments.run.inputs import Inputs
from input_pipeline.datasets import prepared as prepared_sets
from input_pipeline.datasets.coco_folder import CocoFolder, number_images
from input_pipeline.masks import bound
from input_pipeline.relabelling import relabel
from input_pipeline.sources import open_source
from tests.input_pipeline.test_masks import whole

REAL = pathlib.Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data next to the repository")
HEIGHT, WIDTH = SIZE = 20, 30


def folder_of(root):
    data = get_config().data
    data.folder.root = str(root)
    return data.folder


def open_folder(name, root, split, place, *more, **folder):
    """Open a folder with boxes, and with the kinds of ground truth in `more`."""
    data = get_config().data
    data.name = name
    data.folder.update(dict(root=str(root), first_pixel=0) | folder)
    return open_source(data, split, str(place), ("boxes", *more))


def refuse(name, root, place, *words, split="train", **folder):
    with pytest.raises(UserError) as caught:
        open_folder(name, root, split, place, **folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not list(place.glob(f"{name}/*/2.0.0")) and not list(place.glob(".*")), "a failure leaves nothing"


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def fill(top, left, bottom, right):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


# COCO

COUNTS = [3 * HEIGHT + 2, 5, HEIGHT - 5, 5, HEIGHT * WIDTH - 4 * HEIGHT - 7]  # rows 2 to 6 of columns 3 and 4


def square(top, left, bottom, right):
    return [left, top, right, top, right, bottom, left, bottom]


def make_coco():
    """Make the train split, with two categories, crowds, polygons, bad boxes, and an image without objects."""

    def annotate(number, image_id, category_id, bbox, **fields):
        return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0} | fields

    images = [(70, "b.jpg"), (5, "a.jpg"), (900, "empty.png")]
    return {
        "images": [dict(id=number, file_name=name, height=HEIGHT, width=WIDTH) for number, name in images],
        "categories": [{"id": 44, "name": "fox"}, {"id": 7, "name": " wild  boar"}],
        "annotations": [
            annotate(1, 70, 44, [1.1, 2.3, 4.7, 5.9], area=17.25, segmentation=[square(2, 1, 8, 6)]),
            annotate(2, 5, 7, [3, 2, 2, 5], iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": COUNTS}),
            annotate(3, 70, 7, [4, 4, 0, 3], area=1.0),
            annotate(4, 70, 7, [4, 4, -1, 3]),
            annotate(5, 70, 44, [float("nan"), 4, 2, 3]),
            annotate(6, 70, 44, [WIDTH, 4, 2, 3]),
            annotate(
                7, 70, 7, [-2.5, 15, 5, 10], segmentation=[square(15, 0, 20, 2), square(16, 2, 20, 3), [1, 2, 3, 4]]
            ),
        ],
    }


def write_coco(root, content, split="train"):
    for number, entry in enumerate(content["images"]):
        draw(root / split / entry["file_name"], number)
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco") / "set"
    root.mkdir()
    write_coco(root, make_coco())
    second = make_coco()
    second["annotations"] = second["annotations"][2:5]
    write_coco(root, second, "val2")
    return root, root.parent / "tfds"


def test_coco_annotations_are_read_exactly(coco):
    root, place = coco
    source = open_folder("coco_folder", root, "train", place, "masks")
    assert source.class_names == ("wild boar", "fox") and source.category_ids == (7, 44)
    assert [(source.image_id(i), source.name(i)) for i in range(3)] == [(70, "b.jpg"), (5, "a.jpg"), (900, "empty.png")]
    first, second, empty = (source[i] for i in range(3))
    np.testing.assert_array_equal(first["boxes"], [[2.3, 1.1, 2.3 + 5.9, 1.1 + 4.7], [15, 0, HEIGHT, 2.5]])
    assert first["classes"].tolist() == [1, 0] and first["crowd"].tolist() == [False, False]
    assert first["area"].tolist() == [17.25, 5 * 2.5], "the second area is the area of the clipped box"
    np.testing.assert_array_equal(
        whole(first["masks"], SIZE), [fill(2, 1, 8, 6), fill(15, 0, 20, 2) | fill(16, 2, 20, 3)]
    )
    assert second["boxes"].tolist() == [[2, 3, 7, 5]] and second["crowd"].tolist() == [True]
    np.testing.assert_array_equal(whole(second["masks"], SIZE), [fill(2, 3, 7, 5)])
    assert empty["masks"].shape == (0,) and empty["boxes"].shape == (0, 4) and len(empty["area"]) == 0
    assert [str(empty[key].dtype) for key in ("boxes", "classes", "crowd", "difficult")] == [
        *("float64", "int32", "bool", "bool")
    ]
    assert source.objects(2)[0] == source.size(2) == (HEIGHT, WIDTH)
    assert source.objects(0)[1]["area"].tolist() == [17.25, 12.5] and source.find_bad_boxes(0) == ()


def test_images_are_stored_byte_for_byte(coco):
    root, place = coco
    source = open_folder("coco_folder", root, "train", place)
    for i in range(3):
        assert source._records[i]["image"] == (root / "train" / source.name(i)).read_bytes()
        np.testing.assert_array_equal(source[i]["image"], np.asarray(Image.open(root / "train" / source.name(i))))
        assert "masks" not in source[i]


def test_later_runs_report_the_same_bad_and_clipped_boxes(coco, monkeypatch):
    root, place = coco
    open_folder("coco_folder", root, "train", place)
    monkeypatch.setattr(prepared_sets, "prepare", lambda *_: pytest.fail("prepared again"))
    source = open_folder("coco_folder", root, "train", place)
    assert source.bad_boxes == (
        "b.jpg: object 2 of class wild boar: zero area",
        "b.jpg: object 3 of class wild boar: reversed",
        "b.jpg: object 4 of class fox: not a finite number",
        "b.jpg: object 5 of class fox: outside the image",
    )
    assert source.clipped_boxes == 1 and source.dropped == ()
    other = open_folder("coco_folder", root, "val2", place)
    assert len(other.bad_boxes) == 3 and other.clipped_boxes == 0 and len(other) == 3
    assert sum(len(other.objects(i)[1]["boxes"]) for i in range(3)) == 0


def test_images_above_the_pixel_limit_raise_an_error_in_every_run(coco, tmp_path):
    root, place = coco
    open_folder("coco_folder", root, "train", place)
    data = get_config().data
    data.update(name="coco_folder", max_pixels=HEIGHT * WIDTH - 1)
    data.folder.update(root=str(root), first_pixel=0, drop_unreadable=True)
    for target in (tmp_path, place):
        with pytest.raises(UserError, match="has 600 pixels, more than config.data.max_pixels=599; raise it"):
            open_source(data, "train", str(target), ("boxes",))
    assert not list(tmp_path.iterdir())
    data.max_pixels += 1
    assert len(open_source(data, "train", str(place), ("boxes",))) == 3


def test_slices_keep_the_image_ids(coco):
    root, place = coco
    part = open_folder("coco_folder", root, "train[1:]", place)
    assert [part.image_id(i) for i in range(len(part))] == [5, 900]
    assert part.fingerprint != open_folder("coco_folder", root, "train", place).fingerprint


def test_fingerprint_depends_only_on_the_contents(tmp_path):
    """A changed box with the same number of digits changes it. The path of the folder and the times of files do not."""
    content = make_coco()
    for name in ("same", "other"):
        content["annotations"][0]["bbox"][0] = 1.1 if name == "same" else 1.2
        (tmp_path / name).mkdir()
        write_coco(tmp_path / name, content)
    (tmp_path / "alone").mkdir()
    write_coco(tmp_path / "alone", make_coco())
    opened = [
        open_folder("coco_folder", tmp_path / name, "train", tmp_path / "tfds") for name in ("alone", "same", "other")
    ]
    assert opened[0].fingerprint == opened[1].fingerprint != opened[2].fingerprint


def test_changed_folder_is_prepared_again(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    root.mkdir()
    content = make_coco()
    write_coco(root, content)
    assert len(open_folder("coco_folder", root, "train", place).objects(1)[1]["boxes"]) == 1
    content["annotations"].append(content["annotations"][0] | {"image_id": 5})
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    assert len(open_folder("coco_folder", root, "train", place).objects(1)[1]["boxes"]) == 2
    image = root / "train/a.jpg"
    before = image.stat()
    draw(image, 99)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    shown = open_folder("coco_folder", root, "train", place)[1]["image"]
    np.testing.assert_array_equal(shown, np.asarray(Image.open(image)))
    assert len(list(place.glob("coco_folder/*/2.0.0/dataset_info.json"))) == 3
    with pytest.raises(UserError, match="prepared 3 times.*config.data.folder.root"):
        open_folder("coco_folder", "", "train", place)


def test_moved_folder_is_not_prepared_again(coco, tmp_path, monkeypatch):
    root, place = coco
    first = open_folder("coco_folder", root, "train", place)
    shutil.copytree(root, tmp_path / "moved")  # keeps the times
    (tmp_path / "moved/train/.hidden.jpg").touch()
    monkeypatch.setattr(prepared_sets, "prepare", lambda *_: pytest.fail("prepared again"))
    assert open_folder("coco_folder", tmp_path / "moved", "train", place).fingerprint == first.fingerprint
    assert len(open_folder("coco_folder", "", "train", place)) == 3, "without a root, the only prepared copy"


@pytest.mark.parametrize("images", ["train", "images/train", "images", "next to them"])
def test_coco_layouts_are_read(tmp_path, images):
    root = tmp_path / "set"
    root.mkdir()
    write_coco(root, make_coco())
    annotated = root / "annotations/instances_train.json"
    if images == "next to them":
        annotated.rename(root / "train/_annotations.coco.json")
    else:
        annotated.rename(root / "annotations/train.json")
        (root / "train").rename(root / "moved")
        (root / images).parent.mkdir(exist_ok=True)
        (root / "moved").rename(root / images)
    assert len(open_folder("coco_folder", root, "train", tmp_path / "tfds")) == 3


def test_coco_annotations_without_images_give_no_split(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    root.mkdir()
    write_coco(root, make_coco())
    (root / "annotations/instances_test.json").write_text("{}")
    (root / "annotations/captions_train.json").write_text("{}")
    assert len(open_folder("coco_folder", root, "train", place)) == 3
    with pytest.raises(UserError, match="no split 'test'; choose one of train"):
        open_folder("coco_folder", root, "test", place)


def change(**fields):
    """Return a function that spoils a COCO file.

    KEY_PLACE=fields sets the fields of the entry at PLACE of the list KEY. A field that is None is removed.
    """

    def spoil(content):
        for key, changes in fields.items():
            kind, place = key.rsplit("_", 1)
            entry = content[kind][int(place)]
            entry.update(changes)
            for name in [name for name, value in entry.items() if value is None]:
                del entry[name]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change(annotations_0=dict(image_id=71)), ["annotation 1", "image_id=71"]),
        (change(annotations_0=dict(category_id=8)), ["annotation 1", "category_id=8"]),
        (change(annotations_1=dict(bbox=None, id=None)), ["annotation number 2", "lacks 'bbox'"]),
        (
            change(annotations_0=dict(bbox=[1, 2, "3", 4])),
            ["annotation 1", 'bbox=[1, 2, "3", 4], which must be [left, top, width, height] in pixels'],
        ),
        (change(annotations_0=dict(bbox=[1, 2, 3])), ["bbox=[1, 2, 3], which must be [left, top, width"]),
        (change(annotations_0=dict(bbox=[1, 2, 3, 10**400])), ["annotation 1", "which must be [left, top, width"]),
        (change(annotations_0=dict(iscrowd="0")), ["annotation 1", 'iscrowd="0", which must be 0 or 1']),
        (change(annotations_0=dict(iscrowd=2)), ["annotation 1", "iscrowd=2, which must be 0 or 1"]),
        (change(annotations_0=dict(segmentation=[[1, 2, 3, 4, 5, 10**400]])), ["annotation 1", "polygons"]),
        (change(annotations_0=dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]])), ["annotation 1", "polygons"]),
        (change(annotations_0=dict(segmentation=[[1, 2, 3, 4, 5, 1e9]])), ["annotation 1", "polygons"]),
        (change(annotations_1=dict(segmentation={"counts": [3]})), ["annotation 2", "polygons"]),
        (
            change(annotations_1=dict(segmentation={"size": [3, 3], "counts": [9]})),
            ["a.jpg", "object 1", "[3, 3]", "[20, 30]"],
        ),
        (change(annotations_1=dict(segmentation={"size": [20, 30], "counts": [9]})), ["a.jpg", "cannot be decoded"]),
        (change(annotations_1=dict(segmentation={"size": [20, 30], "counts": "Q"})), ["a.jpg", "cannot be decoded"]),
        (
            change(annotations_1=dict(segmentation={"size": [20, 30], "counts": [10**30]})),
            ["a.jpg", "cannot be decoded"],
        ),
        (change(images_1=dict(id=10**30)), ["image number 2", "int64"]),
        (change(images_1=dict(id=70)), ["image id 70", "more than once"]),
        (change(images_1=dict(file_name="b.jpg")), ["file b.jpg", "more than once"]),
        (change(images_1=dict(file_name=None)), ["image number 2", "file_name"]),
        (change(images_1=dict(height=HEIGHT + 1)), ["a.jpg is 20x30", "21x30"]),
        (change(images_1=dict(height="20")), ["image 5", "whole numbers"]),
        (change(images_1=dict(height=10**400)), ["image 5", "whole numbers"]),
        (change(images_1=dict(file_name="c.jpg")), ["c.jpg is missing"]),
        (change(categories_1=dict(id=44)), ["category id 44", "more than once"]),
        (change(categories_1=dict(name="fox ")), ["'fox'", "more than once"]),
        (change(categories_1=dict(name=None)), ["category without"]),
        (change(categories_1=dict(id=2**63)), ["category without", "int64"]),
        (change(categories_1=dict(name="\ud800x")), ["instances_train.json", r"'\ud800x'", "UTF-8"]),
        (lambda content: content.pop("annotations"), ["no list 'annotations'"]),
        (lambda content: content.update(images={}), ["no list 'images'"]),
        (lambda content: content.update(images=[]), ["lists no image"]),
        (lambda content: content.update(categories=[]), ["annotation"]),
    ],
)
def test_mistakes_in_a_coco_file_raise_a_one_line_error(tmp_path, spoil, words):
    root = tmp_path / "set"
    root.mkdir()
    content = make_coco()
    write_coco(root, content)
    path = root / "annotations/instances_train.json"
    spoil(content)
    path.write_text(json.dumps(content))
    refuse("coco_folder", root, tmp_path / "tfds", *words)


@pytest.mark.parametrize(
    ("fields", "key", "expected"),
    [
        (dict(area=10**400), "area", 4.7 * 5.9),
        (dict(area=float("nan")), "area", 4.7 * 5.9),
        (dict(iscrowd=True), "crowd", True),
        (dict(iscrowd=False), "crowd", False),
        (dict(iscrowd=None), "crowd", False),
    ],
)
def test_optional_fields_of_a_coco_object_have_defaults(tmp_path, fields, key, expected):
    root = tmp_path / "set"
    root.mkdir()
    content = make_coco()
    change(annotations_0=fields)(content)  # None removes the field
    write_coco(root, content)
    _, objects = open_folder("coco_folder", root, "train", tmp_path / "tfds").objects(0)
    assert objects[key][0] == pytest.approx(expected)


def test_coco_box_with_edges_beyond_float64_is_a_bad_box(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    content = make_coco()
    content["annotations"][0]["bbox"] = [10**308] * 4
    write_coco(root, content)
    source = open_folder("coco_folder", root, "train", tmp_path / "tfds")
    assert source.bad_boxes[0] == "b.jpg: object 1 of class fox: not a finite number"


def test_coco_split_may_lack_classes_and_objects(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    root.mkdir()
    train, val, test = make_coco(), make_coco(), make_coco()
    write_coco(root, train)
    val["categories"] = [entry for entry in val["categories"] if entry["name"] == "fox"]
    val["annotations"] = [entry for entry in val["annotations"] if entry["category_id"] == 44]
    write_coco(root, val, "val")
    write_coco(root, test | {"categories": [], "annotations": []}, "test")
    names = open_folder("coco_folder", root, "train", place).class_names
    for split, found in (("val", {"fox"}), ("test", set())):
        source = open_folder("coco_folder", root, split, place)
        assert source.class_names == names and source.category_ids == (7, 44)
        labels = {label for index in range(len(source)) for label in source[index]["classes"].tolist()}
        assert {names[label] for label in labels} == found


@pytest.mark.parametrize("name", ["coco_folder", "voc_folder"])
def test_folder_without_objects_is_scored_with_the_classes_of_the_run(tmp_path, name):
    root = tmp_path / "set"
    root.mkdir()
    if name == "coco_folder":
        write_coco(root, make_coco() | {"categories": [], "annotations": []}, "val")
    else:
        draw(root / "val" / "a.jpg")
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / "val" / "a.xml").write_text(f"<annotation>{size}</annotation>")
    source = open_folder(name, root, "val", tmp_path / "tfds")
    assert source.class_names == () and not len(source[0]["boxes"])
    assert relabel(source, ("cat",), "val").class_names == ("cat",)
    config = boxes.get_config("debug")
    config.data.update(name=name, train_split="val", eval_split="val")
    config.data.folder.root = str(root)
    with pytest.raises(UserError, match=f"val of {name} has neither objects nor class names"):
        Inputs(config, str(tmp_path / "tfds"))


def test_coco_images_have_the_ids_of_their_file(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    content = make_coco()
    write_coco(root, content)
    ids = {(root / "train" / entry["file_name"]).resolve(): entry["id"] for entry in content["images"]}
    assert CocoFolder.number(folder_of(root)) == ids
    content["images"][0]["id"] = 9999
    content["annotations"] = []
    write_coco(root, content, "val")  # the other ids are those of train
    numbers = CocoFolder.number(folder_of(root))
    own = root / "val" / content["images"][0]["file_name"]
    assert set(numbers.values()) == {9999, make_coco()["images"][0]["id"]} and numbers[own.resolve()] == 9999
    data = get_config().data
    data.folder = folder_of(root)
    assert number_images(data, [own]) == [9999]
    assert number_images(data, [own, root / "val" / content["images"][1]["file_name"]]) == []
    data.folder.root = str(root / "elsewhere")
    assert number_images(data, [own]) == []


def test_unusable_coco_files_and_folders_raise_an_error(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    refuse("coco_folder", root, place, "set", "not a folder")
    root.mkdir()
    refuse("coco_folder", root, place, "config.data.folder.root", "annotations/instances_SPLIT.json")
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text("{")
    refuse("coco_folder", root, place, "annotations (instances_train) but no images")
    (root / "train").mkdir()
    refuse("coco_folder", root, place, "instances_train.json", "is not JSON")
    write_coco(root, make_coco())
    other = make_coco()
    other["categories"][0]["name"] = "hare"
    write_coco(root, other, "val")
    refuse("coco_folder", root, place, "instances_val.json", "'hare' with the id 44", "another name or id")
    other["categories"][0].update(name="fox", id=45)
    write_coco(root, other | {"annotations": []}, "val")
    refuse("coco_folder", root, place, "instances_val.json", "'fox' with the id 45", "instances_train.json has another")
    (root / "annotations/instances_val.json").unlink()
    write_coco(root, make_coco(), "all")
    refuse("coco_folder", root, place, "split named 'all'", "rename it")


def test_coco_names_may_have_folders_and_windows_separators(tmp_path):
    root, content = tmp_path / "set", make_coco()
    for entry, name in zip(content["images"], ("c/b.jpg", "c/d/a.jpg", "empty.png"), strict=True):
        entry["file_name"] = name
    root.mkdir()
    write_coco(root, content)
    for entry in content["images"]:
        entry["file_name"] = entry["file_name"].replace("/", "\\")
    path = root / "annotations/instances_train.json"
    path.write_text(json.dumps(content))
    source = open_folder("coco_folder", root, "train", tmp_path / "tfds")
    assert [source.name(i) for i in range(3)] == ["c/b.jpg", "c/d/a.jpg", "empty.png"]
    for entry in content["images"]:  # below the root, not below the folder of the split
        entry["file_name"] = "train\\" + entry["file_name"]
    path.write_text(json.dumps(content))
    source = open_folder("coco_folder", root, "train", tmp_path / "tfds")
    assert [source.name(i) for i in range(3)] == ["train/c/b.jpg", "train/c/d/a.jpg", "train/empty.png"]


@pytest.mark.parametrize(
    "name", ["../../outside.jpg", "..\\..\\outside.jpg", "{}/outside.jpg", "c/../../../outside.jpg"]
)
def test_coco_names_that_leave_the_folder_raise_an_error(tmp_path, name):
    root, content = tmp_path / "set", make_coco()
    root.mkdir()
    write_coco(root, content)
    draw(tmp_path / "outside.jpg")
    (root / "train/c").mkdir()
    content["images"][0]["file_name"] = name.replace("{}", str(tmp_path))
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    refuse("coco_folder", root, tmp_path / "tfds", "outside.jpg is outside")


def test_coco_name_that_no_file_can_have_is_a_missing_image(tmp_path):
    root, content = tmp_path / "set", make_coco()
    root.mkdir()
    write_coco(root, content)
    for name in ("x" * 5000, "a\0b"):
        content["images"][0]["file_name"] = name
        (root / "annotations/instances_train.json").write_text(json.dumps(content))
        refuse("coco_folder", root, tmp_path / "tfds", "is missing; add the files")


@pytest.mark.parametrize(
    ("rewritten", "words"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "look like left, top, right, bottom"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "look like centre x, centre y, width, height"),
        (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT], "look like fractions"),
    ],
)
def test_bbox_in_another_format_raises_an_error(tmp_path, rewritten, words):
    """The polygons show the real format."""
    root, content = tmp_path / "set", make_coco()
    boxes = [(2, 3, 10, 8), (12, 5, 9, 11), (5, 8, 20, 10)]
    content["annotations"] = [
        dict(
            content["annotations"][0],
            id=i,
            bbox=rewritten(x, y, w, h),
            segmentation=[square(y, x, y + h, x + w)],
            area=w * h,
        )
        for i, (x, y, w, h) in enumerate(boxes)
    ]
    root.mkdir()
    write_coco(root, content)
    refuse("coco_folder", root, tmp_path / "tfds", "instances_train.json", words)


def test_object_without_a_mask_raises_an_error(tmp_path):
    root, place = tmp_path / "set", tmp_path / "tfds"
    root.mkdir()
    content = make_coco()
    content["annotations"][0]["segmentation"] = []
    write_coco(root, content)
    assert len(open_folder("coco_folder", root, "train", place)) == 3
    with pytest.raises(UserError, match=r"masks .* 1 object of train .* b.jpg; add .*a task of boxes") as caught:
        open_folder("coco_folder", root, "train", place, "masks")
    assert "\n" not in str(caught.value)


# VOC


def describe_object(name, xmin, ymin, xmax, ymax, more=""):
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def write_voc(root, stem, *objects, height=HEIGHT, suffix=".jpg"):
    size = f"<size><width>{WIDTH}</width><height>{height}</height><depth>3</depth></size>"
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    draw(root / f"JPEGImages/{stem}{suffix}", len(stem))


def make_voc(root):
    part = f"<part>{describe_object('head', 0, 0, 1, 1).removeprefix('<object>').removesuffix('</object>')}</part>"
    write_voc(root, "one", describe_object("fox", 3, 2, 10.5, 8), describe_object("boar", 5, 5, 5, 9))
    write_voc(
        root, "two", describe_object(" ant ", 1, 1, WIDTH, HEIGHT, f"<difficult>1</difficult>{part}"), suffix=".png"
    )
    write_voc(root, "three")
    lists = root / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("two\none\n")
    (lists / "val.txt").write_text("three\n")
    (lists / "fox_train.txt").write_text("one  1\ntwo -1\n")
    (lists / "test.txt").write_text("four\n")  # without annotations


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    make_voc(root)
    return root, root.parent / "tfds"


def test_voc_annotations_are_read_exactly(voc):
    root, place = voc
    source = open_folder("voc_folder", root, "train", place)
    assert source.class_names == ("ant", "boar", "fox") and source.category_ids == (1, 2, 3)
    assert [(source.image_id(i), source.name(i)) for i in range(2)] == [(1, "two.png"), (2, "one.jpg")]
    assert source.bad_boxes == ("one.jpg: object 2 of class boar: zero area",) and source.clipped_boxes == 0
    assert source[0]["boxes"].tolist() == [[1, 1, HEIGHT, WIDTH]] and source[0]["difficult"].tolist() == [True]
    assert source[1]["boxes"].tolist() == [[2, 3, 8, 10.5]] and source[1]["difficult"].tolist() == [False]
    assert source[1]["classes"].tolist() == [2] and source[1]["area"].tolist() == [6 * 7.5]
    assert len(open_folder("voc_folder", root, "val", place)[0]["boxes"]) == 0
    with pytest.raises(UserError, match="choose one of train, val"):
        open_folder("voc_folder", root, "test", place)


def test_first_pixel_of_1_shifts_voc_boxes(voc, monkeypatch):
    """With first_pixel=1, a box from pixel 5 to pixel 5 is one pixel wide."""
    root, place = voc
    open_folder("voc_folder", root, "train", place)
    source = open_folder("voc_folder", root.parent, "train", place, first_pixel=1)
    assert source.class_names == ("ant", "boar", "fox") and source.bad_boxes == ()
    assert source[0]["boxes"].tolist() == [[0, 0, HEIGHT, WIDTH]]
    assert source[1]["boxes"].tolist() == [[1, 2, 8, 10.5], [4, 4, 9, 5]]
    monkeypatch.setattr(prepared_sets, "prepare", lambda *_: pytest.fail("prepared again"))
    assert open_folder("voc_folder", root, "train", place).bad_boxes != ()


def rewrite(old, new):
    def spoil(root):
        path = root / "Annotations/one.xml"
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text, count=1))

    return spoil


@pytest.mark.parametrize(
    "untidy",
    [
        rewrite("<size>.*</size>", ""),
        rewrite("<size>.*</size>", "<size><width>0</width><height>0</height></size>"),
        rewrite("</name>", "</name><difficult> 0 </difficult>"),
        lambda root: (root / "ImageSets/Main/all.txt").mkdir(),
        lambda root: (root / "ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbftwo\r\none\r\n"),
    ],
)
def test_untidy_voc_folder_is_read(tmp_path, untidy):
    make_voc(tmp_path / "set")
    untidy(tmp_path / "set")
    source = open_folder("voc_folder", tmp_path / "set", "train", tmp_path / "tfds")
    assert source[1]["boxes"].tolist() == [[2, 3, 8, 10.5]] and source.size(1) == (HEIGHT, WIDTH)
    assert not source[1]["difficult"].any()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (rewrite("<height>20</height>", ""), ["one.xml", "size/height"]),
        (rewrite("<height>20", "<height>0"), ["one.jpg is 20x30", "0x30"]),
        (rewrite("</name>", "</name><difficult>true</difficult>"), ["one.xml: object 1", "difficult='true'"]),
        (rewrite("<bndbox>.*?</bndbox>", ""), ["one.xml: object 1", "bndbox"]),
        (rewrite("<xmax>10.5</xmax>", ""), ["one.xml: object 1", "xmax"]),
        (rewrite("10.5", "wide"), ["one.xml: object 1", "'wide'", "must be a number"]),
        (rewrite("<name>fox</name>", "<name> </name>"), ["one.xml: object 1", "no name"]),
        (rewrite("</annotation>", ""), ["one.xml", "cannot be parsed"]),
        (rewrite("<height>20", "<height>21"), ["one.jpg is 20x30", "21x30"]),
        (lambda root: (root / "JPEGImages/one.jpg").unlink(), ["one.jpg", "missing"]),
        (lambda root: (root / "Annotations/one.xml").unlink(), ["one.xml", "missing"]),
        (lambda root: draw(root / "JPEGImages/one.png"), ["two images share", "one"]),
        (lambda root: (root / "ImageSets/Main/train.txt").write_text("one\none\n"), ["train.txt", "more than once"]),
        (lambda root: (root / "ImageSets/Main/train.txt").write_text("\n"), ["train.txt", "no image"]),
        (lambda root: [path.unlink() for path in root.glob("ImageSets/Main/*")], ["no SPLIT.txt"]),
        (
            lambda root: [path.write_text("one.jpg\n") for path in root.glob("ImageSets/Main/*")],
            ["no SPLIT.txt", "train.txt begins with 'one.jpg'", "no one.jpg.xml", "without suffix"],
        ),
        (
            lambda root: (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/all.txt"),
            ["split named 'all'"],
        ),
        (lambda root: shutil.rmtree(root / "Annotations"), ["Annotations is missing"]),
        (lambda root: shutil.rmtree(root / "JPEGImages"), ["JPEGImages is missing"]),
    ],
)
def test_mistakes_in_a_voc_folder_raise_a_one_line_error(tmp_path, spoil, words):
    make_voc(tmp_path / "set")
    spoil(tmp_path / "set")
    refuse("voc_folder", tmp_path / "set", tmp_path / "tfds", *words)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([(20, 10, 5, 5), (15, 6, 10, 9), (12, 9, 9, 10)], "look like left, top, width, height"),
        ([(20, 10, 5, 5), (15, 9, 10, 6), (22, 9, 9, 1)], "look like right, bottom, left, top"),
        (
            [(300, 400, 500, 600), (200, 300, 700, 700), (100, 100, 990, 900)],
            "nearly all boxes in its XML files reach out of their images",
        ),
    ],
)
def test_voc_boxes_that_are_not_pixel_edges_raise_an_error(tmp_path, edges, words):
    """Otherwise all boxes would be dropped as bad, and a model trained on images without objects."""
    for stem, box in zip(("one", "two", "four"), edges, strict=True):
        write_voc(tmp_path / "set", stem, describe_object("fox", *box))
    refuse("voc_folder", tmp_path / "set", tmp_path / "tfds", words)


@pytest.mark.parametrize("name", ["B.JPG", "/data/upload/1/b.jpg", "C:\\data\\b.jpg"])
def test_error_for_a_missing_coco_image_names_a_similar_file(tmp_path, name):
    (tmp_path / "set").mkdir()
    content = make_coco()
    write_coco(tmp_path / "set", content)
    content["images"][0]["file_name"] = name
    (tmp_path / "set/annotations/instances_train.json").write_text(json.dumps(content))
    words = ["images that cannot be used (1)", f"{name} may be {tmp_path}/set/train/b.jpg; names must be paths below"]
    refuse("coco_folder", tmp_path / "set", tmp_path / "tfds", *words)


def test_skipped_lists_are_named(tmp_path):
    make_voc(tmp_path / "set")
    (tmp_path / "set/ImageSets/all.txt").write_text("one")
    remarks = open_folder("voc_folder", tmp_path / "set", "train", tmp_path / "tfds").remarks
    assert "skipped (not a list of annotated images): test.txt begins with 'four', but there is no four.xml" in remarks
    assert "1 file is skipped (lists are only read in ImageSets/Main): all.txt" in remarks


def test_voc_folder_without_lists_is_one_split_that_holdout_divides(tmp_path):
    make_voc(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/ImageSets")
    place = tmp_path / "tfds"
    source = open_folder("voc_folder", tmp_path / "set", "train", place)
    assert [source.name(i) for i in range(3)] == ["one.jpg", "three.jpg", "two.png"]
    assert source.layout.startswith("layout: VOC's XML and images in folders, without lists; found Annotations/one.xml")
    with pytest.raises(UserError, match="no split 'val'; choose one of train, or set config.data.holdout=0.2"):
        open_folder("voc_folder", tmp_path / "set", "val", place)
    data = get_config().data
    data.update(name="voc_folder", holdout=0.5)
    data.folder.root = str(tmp_path / "set")
    parts = [open_source(data, split, str(place), ("boxes",)) for split in ("train", "val", "val[:1]")]
    names = [[part.name(i) for i in range(len(part))] for part in parts]
    assert sorted(names[0] + names[1]) == ["one.jpg", "three.jpg", "two.png"] and names[0] and names[1][:1] == names[2]
    assert len({part.fingerprint for part in (*parts, source)}) == 4
    assert len(list(place.glob("voc_folder/*"))) == 1, "both sides come from one prepared set"


@pytest.mark.parametrize("named", ['<annotation xmlns="http://x.org/voc">', '<v:annotation xmlns:v="http://x.org">'])
def test_voc_xml_with_a_namespace_is_read(tmp_path, named):
    make_voc(tmp_path / "set")
    path = tmp_path / "set/Annotations/one.xml"
    text = path.read_text()
    if "v:" in named:
        text = re.sub(r"<(/?)(\w)", r"<\1v:\2", text).replace("<v:annotation>", named)
    path.write_text(text.replace("<annotation>", named))
    source = open_folder("voc_folder", tmp_path / "set", "train", tmp_path / "tfds")
    assert source[1]["boxes"].tolist() == [[2, 3, 8, 10.5]]


def test_xml_of_another_tool_raises_an_error(tmp_path):
    make_voc(tmp_path / "set")
    path = tmp_path / "set/Annotations/one.xml"
    path.write_text("<annotations><image/></annotations>")
    refuse("voc_folder", tmp_path / "set", tmp_path / "tfds", "one.xml is not VOC's XML", "<annotations>")
    turned = "<robndbox><cx>5</cx><cy>5</cy><w>2</w><h>3</h><angle>0.3</angle></robndbox>"
    path.write_text(f"<annotation><object><name>fox</name>{turned}</object></annotation>")
    refuse("voc_folder", tmp_path / "set", tmp_path / "tfds", "one.xml: object 1 has an oriented box (robndbox)")


def test_fractions_in_voc_xml_raise_an_error(tmp_path):
    for stem in ("a", "b"):
        write_voc(tmp_path / "set", stem, describe_object("fox", 0.1, 0.2, 0.5, 0.6))
    refuse(
        "voc_folder", tmp_path / "set", tmp_path / "tfds", "look like fractions of the image", "multiply x by the width"
    )


@pytest.mark.parametrize(
    ("low", "first_pixel", "words"), [(0, 1, "begin at 0"), (1, 0, "set config.data.folder.first_pixel=1 if")]
)
def test_boxes_that_contradict_first_pixel_give_a_remark(tmp_path, low, first_pixel, words):
    objects = [describe_object("fox", low, 2 + i % 5, WIDTH, 9 + i % 5) for i in range(20)]
    write_voc(tmp_path / "set", "a", *objects)
    for given, expected in ((first_pixel, True), (1 - first_pixel, False)):
        source = open_folder("voc_folder", tmp_path / "set", "train", tmp_path / "tfds", first_pixel=given)
        assert any(words in line for line in source.remarks) == expected


# YOLO

BOX = (0.3, 0.45, 0.25, 0.4)


def make_yolo(root):
    for stem in ("a", "b", "none"):
        draw(root / f"images/train/{stem}.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text(f"1 {' '.join(map(str, BOX))}\n\n0 0.9 0.5 0.4 0.2\n0 0.5 0.5 0 0.2\n")
    (root / "labels/train/b.txt").write_text("1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75")
    (root / "labels/train.cache").write_text("of Ultralytics")
    (root / "data.yaml").write_text("names:\n  0: fox\n  1: boar\nnc: 2\n")


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    root = tmp_path_factory.mktemp("yolo") / "set"
    make_yolo(root)
    return root, root.parent / "tfds"


def test_yolo_annotations_are_read_exactly(yolo):
    root, place = yolo
    source = open_folder("yolo_folder", root, "train", place)
    assert source.class_names == ("fox", "boar") and source.category_ids == (1, 2)
    assert [source.name(i) for i in range(3)] == ["a.png", "b.png", "none.png"] and source.image_id(2) == 3
    x, y, width, height = BOX
    box = [(y - height / 2) * HEIGHT, (x - width / 2) * WIDTH, (y + height / 2) * HEIGHT, (x + width / 2) * WIDTH]
    np.testing.assert_array_equal(source[0]["boxes"][0], box)
    np.testing.assert_allclose(source[0]["boxes"][1], [8, 21, 12, WIDTH], atol=1e-12)
    assert source.clipped_boxes == 1 and source.bad_boxes == ("a.png: object 3 of class fox: zero area",)
    assert source[0]["classes"].tolist() == [1, 0]
    assert source[1]["boxes"].tolist() == [[5, 3, 15, 15]] and source[1]["area"].tolist() == [120]
    assert len(source[2]["boxes"]) == 0 and source[2]["image"].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UserError, match="2 objects of train .* the first in"):
        open_folder("yolo_folder", root, "train", place, "masks")


def test_data_file_that_renames_folders_keeps_the_fingerprint(tmp_path):
    """A run of an earlier version, which read only folders, can resume."""
    for name in ("train", "valid", "test"):
        draw(tmp_path / f"set/{name}/images/a.png")
        (tmp_path / f"set/{name}/labels").mkdir()
        (tmp_path / f"set/{name}/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2")
    prints = []
    for text in ("names: [x]", "names: [x]\ntrain: ../train/images\nval: ../valid/images\ntest: ../test/images"):
        (tmp_path / "set/data.yaml").write_text(text)
        source = open_folder("yolo_folder", tmp_path / "set", "valid", tmp_path / "tfds")
        prints.append((source.fingerprint, source.name(0)))
    assert prints[0] == prints[1]


def test_images_in_two_splits_are_named(tmp_path):
    """The splits come from data.yaml or from VOC's lists. trainval contains train and val by design."""
    for name in ("a", "b"):
        draw(tmp_path / f"yolo/images/{name}.png")
        (tmp_path / "yolo/labels").mkdir(exist_ok=True)
        (tmp_path / f"yolo/labels/{name}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "yolo/data.yaml").write_text("names: [x]\ntrain: images\nval: images")
    source = open_folder("yolo_folder", tmp_path / "yolo", "train", tmp_path / "tfds")
    warned = "also in val, so do not train on one split and score the other"
    assert f"2 images are {warned}: a.png; b.png" in source.remarks
    make_voc(tmp_path / "voc")
    for name in ("trainval", "val"):
        (tmp_path / f"voc/ImageSets/Main/{name}.txt").write_text(
            "three\none\n" if name == "val" else "one\ntwo\nthree\n"
        )
    remarks = [
        [
            line
            for line in open_folder("voc_folder", tmp_path / "voc", split, tmp_path / "tfds").remarks
            if "do not train" in line
        ]
        for split in ("train", "trainval")
    ]
    assert remarks == [[f"1 image is {warned}: one.jpg"], [f"2 images are {warned}: one.jpg; three.jpg"]]


def test_yolo_polygons_are_read_as_masks_in_the_other_layout(tmp_path):
    root = tmp_path / "set"
    draw(root / "train/images/b.png")
    (root / "train/labels").mkdir()
    (root / "train/labels/b.txt").write_text("1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75")
    (root / "classes.txt").write_text("fox\nwild boar\n")
    source = open_folder("yolo_folder", root, "train", tmp_path / "tfds", "masks")
    np.testing.assert_array_equal(whole(source[0]["masks"], SIZE), [fill(5, 3, 15, 15)])
    assert source.class_names == ("fox", "wild boar")
    (root / "data.yaml").write_text("names: [elk, 7, 'on']")
    assert open_folder("yolo_folder", root, "train", tmp_path / "tfds").class_names == ("elk", "7", "on")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", ["a.txt line 1", "class 2", "0 to 1"]),
        ("-1 0.5 0.5 0.1 0.1", ["class -1"]),
        ("0.5 0.5 0.5 0.1 0.1", ["class 0.5"]),
        ("0 0.5 0.5 0.1 wide", ["'0 0.5 0.5 0.1 wide'", "not a number"]),
        ("0 0.5 0.5 0.1", ["3 numbers", "a box has 4"]),
        ("0 0.5 0.5 0.1 0.1 0.9", ["5 numbers", "a polygon", "or an angle"]),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ["7 numbers"]),
        ("0 0.1 0.1 0.2 0.2 0.3 nan", ["6 numbers"]),
        ("0 12 15 4 5", ["12 is not a fraction"]),
    ],
)
def test_mistakes_in_a_yolo_row_raise_a_one_line_error(tmp_path, row, words):
    make_yolo(tmp_path / "set")
    (tmp_path / "set/labels/train/a.txt").write_text(row)
    refuse("yolo_folder", tmp_path / "set", tmp_path / "tfds", *words)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "images/train/a.png").unlink(), ["label files without their image", "a.txt"]),
        (lambda root: draw(root / "images/train/a.jpg"), ["share one label file"]),
        (lambda root: [path.unlink() for path in root.glob("labels/train/*.txt")], ["labels/train", "no labels"]),
        (
            lambda root: [path.unlink() for path in root.glob("images/train/*")],
            ["label files without their image", "a.txt"],
        ),
        (
            lambda root: [(root / kind / "train").rename(root / kind / "a b") for kind in ("images", "labels")],
            ["a b", "rename"],
        ),
        (lambda root: (root / "classes.txt").write_bytes(b"f\xf6x\n") and (root / "data.yaml").unlink(), ["class 1"]),
        (lambda root: shutil.rmtree(root / "labels"), ["config.data.folder.root", "images/SPLIT and labels/SPLIT"]),
        (lambda root: (root / "data.yaml").unlink(), ["no data.yaml and no classes.txt"]),
        (lambda root: (root / "data.yaml").write_text("names: {0: fox, 2: boar}"), ["class 1", "2 (0, 2)"]),
        (lambda root: (root / "data.yaml").write_text("names: {a: fox}"), ["data.yaml", "names"]),
        (lambda root: (root / "data.yaml").write_text("names: [fox, fox]"), ["'fox'", "more than once"]),
        (lambda root: (root / "data.yaml").write_text("names: [fox"), ["data.yaml", "cannot be parsed"]),
        (lambda root: (root / "data.yaml").write_text("names: [2024-13-45]"), ["data.yaml", "cannot be parsed"]),
        (lambda root: (root / "data.yaml").write_text("names: [on, 7]"), ["data.yaml", "0 is True", "in quotes"]),
        (lambda root: (root / "data.yaml").write_text("names: {0: fox, 1: null}"), ["1 is None", "in quotes"]),
        (lambda root: (root / "data.yaml").write_text("names: [fox, 1.5]"), ["1 is 1.5", "in quotes"]),
        (
            lambda root: (root / "data.yaml").write_text(r'names: [fox, "\ud800"]'),
            ["data.yaml", "invalid Unicode character"],
        ),
        (
            lambda root: (
                (root / "images/train/b.png").rename(root / os.fsdecode(b"images/train/\xff.png"))
                and (root / "labels/train/b.txt").unlink()
            ),
            [r"'\udcff.png'", "UTF-8", "rename"],
        ),
        (lambda root: (root / "data.yaml").write_text("fox"), ["data.yaml", "names"]),
    ],
)
def test_mistakes_in_a_yolo_folder_raise_a_one_line_error(tmp_path, spoil, words):
    make_yolo(tmp_path / "set")
    spoil(tmp_path / "set")
    refuse("yolo_folder", tmp_path / "set", tmp_path / "tfds", *words)


# All of them


def test_exact_duplicates_are_removed_counted_and_named(tmp_path):
    place, content = tmp_path / "tfds", make_coco()
    first, second = content["annotations"][:2]
    again = [
        first | {"id": 90},
        second | {"id": 91, "area": 3},
        first | {"id": 92, "segmentation": []},
        first | {"id": 93},
    ]
    content["annotations"] += again
    (tmp_path / "coco").mkdir()
    write_coco(tmp_path / "coco", content)
    source = open_folder("coco_folder", tmp_path / "coco", "train", place)
    assert len(source[0]["boxes"]) == 3, "another mask is another object"
    assert source.remarks[-1] == (
        "3 exact duplicates of objects are ignored: b.jpg: object 7 of class fox: the same as object 1; "
        "b.jpg: object 9 of class fox: the same as object 1; a.jpg: object 2 of class wild boar: the same as object 1"
    )
    make_yolo(tmp_path / "yolo")
    rows = tmp_path / "yolo/labels/train/b.txt"
    rows.write_text(f"{rows.read_text()}\n{rows.read_text()}")
    source = open_folder("yolo_folder", tmp_path / "yolo", "train", place, "boxes")
    assert len(source[1]["boxes"]) == 1 and "1 exact duplicate of an object is ignored: b.png" in source.remarks[-1]
    write_voc(tmp_path / "voc", "a", *[describe_object("fox", 1, 2, 3, 4)] * 2)
    source = open_folder("voc_folder", tmp_path / "voc", "train", place)
    assert len(source[0]["boxes"]) == 1 and "a.jpg: object 2 of class fox" in source.remarks[-1]


def test_error_explains_that_oriented_boxes_have_no_masks(tmp_path):
    make_yolo(tmp_path / "set")
    (tmp_path / "set/labels/train/a.txt").unlink()
    (tmp_path / "set/labels/train/b.txt").write_text("1 0.3 0.1 0.5 0.3 0.3 0.5 0.1 0.3")
    source = open_folder("yolo_folder", tmp_path / "set", "train", tmp_path / "tfds")
    np.testing.assert_allclose(source[1]["boxes"], [[2, 3, 10, 15]])
    assert "oriented boxes: they are read as the upright boxes around them" in source.remarks[-1]
    with pytest.raises(
        UserError,
        match=r"1 object of train .*\(the rows look like oriented boxes; set task: segment in data.yaml if not\)",
    ):
        open_folder("yolo_folder", tmp_path / "set", "train", tmp_path / "tfds", "masks")
    (tmp_path / "set/data.yaml").write_text("task: segment\nnames: [fox, boar]")
    assert open_folder("yolo_folder", tmp_path / "set", "train", tmp_path / "tfds", "masks")[1]["masks"].shape == (1,)


def test_classes_with_gaps_keep_their_numbers(tmp_path):
    make_yolo(tmp_path / "set")
    (tmp_path / "set/data.yaml").write_text("names: {1: boar, 0: fox, 9: elk}")
    source = open_folder("yolo_folder", tmp_path / "set", "train", tmp_path / "tfds")
    assert source.class_names == ("fox", "boar", "elk") and source.category_ids == (1, 2, 10)
    assert source[0]["classes"].tolist() == [1, 0]


def test_images_that_cannot_be_decoded_raise_an_error_or_are_dropped(tmp_path):
    """The files are cut in the middle of the pixels. The header alone does not show this."""
    root, place = tmp_path / "set", tmp_path / "tfds"
    make_yolo(root)
    path = root / "images/train/a.png"
    path.write_bytes(path.read_bytes()[:300])
    refuse("yolo_folder", root, place, str(path), "drop_unreadable")
    source = open_folder("yolo_folder", root, "train", place, drop_unreadable=True)
    assert source.dropped == ("a.png",) and [source.name(i) for i in range(len(source))] == ["b.png", "none.png"]
    with pytest.raises(UserError, match="a.png.*drop_unreadable"):
        open_folder("yolo_folder", root, "train", place)
    for path in (root / "images/train").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the images can be decoded"):
        open_folder("yolo_folder", root, "train", place, drop_unreadable=True)


# Real sets


@needs_data
def test_bad_boxes_of_bccd_are_found(tmp_path):
    opened = {split: open_folder("voc_folder", REAL / "bccd", split, tmp_path) for split in ("train", "val")}
    assert opened["train"].bad_boxes == ("BloodImage_00343.jpg: object 4 of class RBC: zero area",)
    assert opened["val"].bad_boxes == ("BloodImage_00338.jpg: object 13 of class RBC: zero area",)
    assert opened["train"].class_names == ("Platelets", "RBC", "WBC") and len(opened["train"]) == 205


@pytest.fixture(scope="module")
def real_coco(tmp_path_factory):
    """Open the validation images of the COCO subset. Preparing the training images would take longer."""
    place = tmp_path_factory.mktemp("real")
    root = place / "coco"
    (root / "annotations").mkdir(parents=True)
    content = json.loads((REAL / "coco/annotations/instances_val2017.json").read_bytes())
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    (root / "val2017").symlink_to(REAL / "coco/val2017")
    return content, root, place / "tfds"


@needs_data
def test_coco_source_equals_its_json(real_coco):
    content, root, place = real_coco
    source = open_folder("coco_folder", root, "val2017", place, "masks")
    assert len(source) == 80 and len(source.class_names) == 80 and source.category_ids[-1] == 90
    assert source.bad_boxes == () and source.clipped_boxes == 0
    by_image = {entry["id"]: [] for entry in content["images"]}
    for entry in content["annotations"]:
        by_image[entry["image_id"]].append(entry)
    for i in range(len(source)):
        listed = by_image[source.image_id(i)]
        _, objects = source.objects(i)
        edges = [(y, x, y + height, x + width) for x, y, width, height in (entry["bbox"] for entry in listed)]
        np.testing.assert_array_equal(objects["boxes"], np.reshape(edges, (-1, 4)))
        np.testing.assert_array_equal(objects["area"], [entry["area"] for entry in listed])
        np.testing.assert_array_equal(objects["crowd"], [bool(entry["iscrowd"]) for entry in listed])
        assert [source.category_ids[label] for label in objects["classes"]] == [
            entry["category_id"] for entry in listed
        ]
    example = source[next(i for i in range(80) if source.objects(i)[1]["crowd"].any())]
    for mask, box in zip(whole(example["masks"], example["image"].shape[:2]), example["boxes"], strict=True):
        np.testing.assert_allclose(bound(mask), box, atol=1.01)
    part = open_folder("coco_folder", root, "val2017[:8]", place)
    assert [part.image_id(i) for i in range(8)] == [source.image_id(i) for i in range(8)] and len(part) == 8


@needs_data
def test_tfds_coco_equals_the_coco_folder(real_coco):
    _, root, place = real_coco
    folder = open_folder("coco_folder", root, "val2017", place)
    own = open_folder("coco/2017", "", "validation", REAL / "tfds")
    assert own.class_names == folder.class_names and len(own) == len(folder)
    where = {folder.image_id(i): i for i in range(len(folder))}
    for i in range(len(own)):
        other = where[own.image_id(i)]
        (size, objects), (folder_size, expected) = own.objects(i), folder.objects(other)
        assert own.name(i) == folder.name(other) and size == folder_size
        np.testing.assert_allclose(objects["boxes"], expected["boxes"], atol=1e-3)
        np.testing.assert_array_equal(objects["area"], np.floor(expected["area"]))
        for key in ("classes", "crowd", "difficult"):
            np.testing.assert_array_equal(objects[key], expected[key])
    np.testing.assert_array_equal(own[0]["image"], folder[where[own.image_id(0)]]["image"])
    with pytest.raises(UserError, match="coco_folder"):
        open_folder("coco/2017", "", "validation", REAL / "tfds", "masks")
