"""Slightly damaged files of every kind are read, or give one printable error line, within seconds.

The short profile runs some dozens of changes of each kind. `make test-slow` runs forty times as many.
"""

import io
import json
import random
import re
import shutil
import time
import xml.sax.saxutils

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from configs.common import get_config
from errors import UserError
from experiments.metrics import coco_files
from input_pipeline import decoding, stored_arrays
from input_pipeline.datasets.coco_folder import CocoFolder
from input_pipeline.datasets.voc_folder import VocFolder
from input_pipeline.datasets.yolo_folder import YoloFolder
from input_pipeline.proposals import Store
from input_pipeline.sources import open_source

SHORT, LONG = 25, 1000
SECONDS = 10.0  # the limit for one file on a busy machine
HEIGHT, WIDTH = 12, 16
BUILDERS = {"coco_folder": CocoFolder, "voc_folder": VocFolder, "yolo_folder": YoloFolder}

ODD_NUMBERS = [
    0,
    -1,
    1,
    0.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    1e6,
    10**5,
]
ODD_TEXTS = [
    "",
    " ",
    "\x1b[31m",
    "\ud800",
    "\0",
    "../../x.png",
    "/etc/passwd",
    "a" * 300,
    "=1+1",
    "\u202e",
    "nan",
    "1e999",
    "a.png",
]
ODD_VALUES = [
    *ODD_NUMBERS,
    *ODD_TEXTS,
    True,
    None,
    [],
    {},
    [[]],
    [None],
    [1, 2],
    [1] * 7,
    {"a": {}},
    [[0.0] * 6],
    [["x"] * 6],
]


def draw_image(seed=0, size=(HEIGHT, WIDTH)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))


def encode(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def read_folder(name, root, **folder):
    """Prepare a folder, without writing its records."""
    data = get_config().data
    data.folder.update(dict(root=str(root), first_pixel=0) | folder)
    builder = BUILDERS[name](folder=data.folder, largest=10_000, data_dir=str(root / ".prepared"))
    for split in builder._contents.splits:
        for _ in builder._generate_examples(split):
            pass


def expect(read, *arguments, **options):
    """Check that a read succeeds, or raises a one-line printable error, within the time limit."""
    began = time.monotonic()
    try:
        read(*arguments, **options)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 5000, str(error)
    assert time.monotonic() - began < SECONDS


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
            case 3:
                changed[at : at + rng.choice((1, 20))] = rng.choice(
                    (b"", b"\0", b"\xff\xff\xff\xff", b"\n", b" ", b"9" * 400)
                )
            case 4:
                changed[at:at] = changed[at : at + rng.choice((5, 50, 500))]
            case _ if changed:
                changed[at % len(changed)] = rng.randrange(256)
    return bytes(changed)


def change_value(rng: random.Random, value):
    """Return a JSON value with a part replaced, removed, repeated or moved."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place = rng.choice(places)
        copied = dict(value) if isinstance(value, dict) else list(value)
        match rng.randrange(8):
            case 0:
                del copied[place]
            case 1 if isinstance(copied, list):
                copied.append(copied[place])
            case 2:
                copied[place] = copied[rng.choice(places)]
            case _:
                copied[place] = change_value(rng, copied[place])
        return copied
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((-value, value * 1000, value + 0.5, str(value), [value], *ODD_NUMBERS))
    return rng.choice(ODD_VALUES)


def change_json(rng: random.Random, value) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = change_value(rng, value)
    text = json.dumps(value)
    if rng.random() < 0.1:  # a duplicate key
        text = text.replace('"id": ', f'"id": {rng.choice(("1", "null", "[]"))}, "id": ', 1)
    if rng.random() < 0.1:
        text = text.replace("1", rng.choice(("1e999", "-0", "1" * 5000, "1.5", "NaN")), 1)
    return change_bytes(rng, text.encode()) if rng.random() < 0.2 else text.encode()


def fuzz(test):
    """Make a short and a slow test from a function of a generator and an empty folder."""

    @pytest.mark.parametrize("examples", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
    def run(examples, tmp_path):
        suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

        @settings(max_examples=examples, deadline=None, suppress_health_check=suppressed, database=None)
        @given(st.randoms(use_true_random=False))
        def try_one(rng):
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
            test(rng, tmp_path)

        try_one()

    return run


def make_coco():
    box = {"bbox": [1.0, 2.0, 6.0, 5.0], "area": 30.0, "iscrowd": 0}
    polygon = [[1.0, 2.0, 7.0, 2.0, 7.0, 7.0, 1.0, 7.0]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [20, 5, HEIGHT * WIDTH - 25]}
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": polygon} | box,
            {"id": 2, "image_id": 2, "category_id": 5, "segmentation": runs} | box | {"iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "PPYo0"}}
            | box,
        ],
        "categories": [{"id": 3, "name": "fox", "supercategory": "animal"}, {"id": 5, "name": "boar"}],
    }


@fuzz
def test_coco(rng, place):
    for name in "ab":
        write(place / f"train/{name}.png", encode(draw_image()))
    write(place / "annotations/instances_train.json", change_json(rng, make_coco()))
    expect(read_folder, "coco_folder", place)


XML = """<annotation><size><width>16</width><height>12</height><depth>3</depth></size><object><name>fox</name>
<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox></object></annotation>"""


@fuzz
def test_voc(rng, place):
    write(place / "train/a.png", encode(draw_image()))
    text = XML
    for _ in range(rng.choice((0, 1, 3))):
        parts = re.split(r"(>[^<>]+<)", text)
        at = rng.randrange(len(parts))
        odd = xml.sax.saxutils.escape(str(rng.choice(ODD_VALUES)))
        parts[at] = rng.choice((f">{odd}<", parts[at] * 2, "", f"><a>{odd}</a><"))
        text = "".join(parts)
    content = text.encode("utf-8", "surrogatepass")
    write(place / "train/a.xml", change_bytes(rng, content) if rng.random() < 0.6 else content)
    expect(read_folder, "voc_folder", place)


@fuzz
def test_yolo(rng, place):
    write(place / "images/train/a.png", encode(draw_image()))
    data = {"path": ".", "train": "images/train", "names": {0: "fox", 1: "boar"}, "nc": 2}
    rows = "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.8 0.2 0.8 0.7 0.1 0.7\n"
    if rng.random() < 0.5:
        data |= rng.choice(
            ({"kpt_shape": [2, 2]}, {"task": "obb"}, {"task": "pose"}, {"names": ["fox", "boar"]}, {"val": ["x"]})
        )
    text = rng.choice((rows, rows.splitlines()[0], rows.splitlines()[1])).encode()
    match rng.randrange(3):
        case 0:
            content = yaml.safe_dump(data).encode()
            text = change_bytes(rng, text)
        case 1:
            content = change_bytes(rng, yaml.safe_dump(data).encode())
        case _:
            content = yaml.dump(change_value(rng, data), allow_unicode=True).encode("utf-8", "surrogatepass")
            words = text.decode().split()
            words[rng.randrange(len(words))] = str(rng.choice(ODD_VALUES))
            text = " ".join(words).encode("utf-8", "surrogatepass")
    write(place / "data.yaml", content)
    write(place / "labels/train/a.txt", text)
    expect(read_folder, "yolo_folder", place)


def open_masks(root, needs):
    data = get_config().data
    data.name, data.max_pixels, data.train_split = "image_mask", 10_000, "train"
    data.folder.update(root=str(root), instances="components" if needs == "boxes" else "")
    source = open_source(data, "train", str(root / ".prepared"), (needs,))
    for index in range(len(source)):
        source[index]


@fuzz
def test_masks(rng, place):
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:5, 3:9] = 1
    image, mask, names = encode(draw_image()), encode(Image.fromarray(label)), b"none\nfox\n"
    if rng.random() < 0.3:
        names = b"none 0 0 0\nfox 255 0 0\n"
    what = rng.randrange(3)
    write(place / "train/images/a.png", change_bytes(rng, image) if what == 0 else image)
    write(place / "train/masks/a.png", change_bytes(rng, mask) if what == 1 else mask)
    write(place / "classes.txt", change_bytes(rng, names) if what == 2 else names)
    expect(open_masks, place, rng.choice(("label", "boxes")))


ENCODED = [
    encode(draw_image(), "PNG"),
    encode(draw_image().convert("P"), "PNG"),
    encode(draw_image(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    encode(draw_image(), "TIFF"),
    encode(draw_image(), "TIFF", compression="tiff_lzw"),
    encode(draw_image(), "TIFF", save_all=True, append_images=[draw_image(1)]),
    encode(draw_image(), "GIF"),
    encode(draw_image(), "BMP"),
    encode(draw_image(), "WEBP"),
    encode(draw_image(), "PPM"),
    encode(draw_image(), "TGA"),
    encode(draw_image(), "JPEG2000"),
    encode(Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)), "PNG"),
]


def read_image(data):
    for read in (decoding.decode_image, decoding.decode_mask, decoding.decode_colours):
        array = read(data, "x", largest=100_000)
        assert array.shape[0] * array.shape[1] <= 100_000
    for read in (decoding.read_header, decoding.read_palette, decoding.decode_grey):
        read(data, "x")


@fuzz
def test_images(rng, place):
    for content in ENCODED:
        expect(read_image, change_bytes(rng, content))


DETECTIONS = [
    {"image_id": 1, "category_id": 3, "bbox": [1.0, 2.0, 6.0, 5.0], "score": 0.9},
    {"image_id": 2, "category_id": 5, "bbox": [0.0, 0.0, 6.0, 5.0], "score": 0.5},
]


@fuzz
def test_scored_files(rng, place):
    truth = make_coco()
    truth["images"][1] |= {"height": HEIGHT, "width": WIDTH}
    polygon, runs = truth["annotations"][0]["segmentation"], {"size": [HEIGHT, WIDTH], "counts": "PPYo0"}
    found = [entry | {"segmentation": mask} for entry, mask in zip(DETECTIONS, (polygon, runs), strict=True)]
    if rng.random() < 0.5:
        found = [
            entry | {"file_name": f"{name}.png", "category_name": "fox"}
            for entry, name in zip(found, "ab", strict=True)
        ]
    which = rng.random() < 0.5
    write(place / "gt.json", change_json(rng, truth) if which else json.dumps(truth).encode())
    write(place / "dt.json", json.dumps(found).encode() if which else change_json(rng, found))
    kind = rng.choice(("bbox", "segm", "boundary"))
    expect(lambda: coco_files.read(place / "gt.json", place / "dt.json", kind))


@fuzz
def test_stored_proposals(rng, place):
    boxes = [np.arange(8, dtype=np.float32).reshape(2, 4), np.zeros((0, 4), np.float32)]
    store = Store(place, 2)
    (rows,) = store.missing() or [range(2)]
    store.write(rows, boxes)
    (file,) = place.glob("*.npz")
    if rng.random() < 0.5:
        file.write_bytes(change_bytes(rng, file.read_bytes()))
    else:
        odd = [
            np.zeros(3),
            np.array([0, 5, 2]),
            np.array([0, 1, 9]),
            np.full((2, 4), np.nan, np.float32),
            np.zeros((2, 4), "U3"),
        ]
        own = {"boxes": boxes[0], "ends": np.array([0, 2, 2])}
        stored_arrays.write_arrays(file, own | {rng.choice(("boxes", "ends", "others")): rng.choice(odd)})
    expect(lambda: [Store(place, 2)[index] for index in range(2)])
