"""A damaged prepared folder gives a one-line error with its name and the remedy, at any time."""

import json
import random
import re
import shutil

import numpy as np
import pytest

from configs import boxes
from errors import UserError
from input_pipeline.loader import TrainLoader
from input_pipeline.prepared_folder import SEAL
from input_pipeline.truths import make_truth
from tests.input_pipeline.datasets.test_detection_folders import make_coco, open_folder, write_coco

REPAIR = "is damaged .*; move it away, and it will be prepared again$"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder of boxes, and the place where it is prepared."""
    root, place = tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("tfds")
    write_coco(root, make_coco())
    open_folder("coco_folder", root, "train", place)
    return root, place


@pytest.fixture
def copy(prepared, tmp_path):
    """Return a function that opens a copy of that place, and the folder that was prepared in it."""
    root, place = prepared
    shutil.copytree(place, tmp_path / "tfds")
    (folder,) = (tmp_path / "tfds" / "coco_folder").glob("*/*")
    return lambda: open_folder("coco_folder", root, "train", tmp_path / "tfds", "masks"), folder


def read_all(source):
    examples = [source[index] for index in range(len(source))]
    facts = source.class_names, source.category_ids, source.remarks, source.bad_boxes, source.fingerprint
    return repr(
        [(example["image"].tobytes(), example["boxes"].tobytes(), example["classes"]) for example in examples]
    ), facts


def list_files(folder):
    return sorted(path for path in folder.iterdir() if "-val" not in path.name)


def test_truncation_and_flipped_bits_are_found_in_every_file(copy):
    source, folder = copy
    whole, generator = read_all(source()), random.Random(0)
    for path in list_files(folder):
        content = path.read_bytes()
        damaged = [content[: generator.randrange(len(content))], b""]
        for _ in range(4):
            places = [place for place, byte in enumerate(content) if byte or "record" not in path.name]
            flipped = bytearray(content)
            flipped[generator.choice(places)] ^= 1 << generator.randrange(8)
            damaged.append(bytes(flipped))
        for own in damaged:
            path.write_bytes(own)
            with pytest.raises(UserError, match=f"^{folder} {REPAIR}") as caught:
                assert read_all(source()) != whole, "bytes that no reader uses may be damaged"
                raise AssertionError(f"{path.name} is read differently, without an error")
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
        path.unlink()
        if path.name != SEAL:  # without it, an earlier version has prepared the folder
            with pytest.raises(UserError, match=f"^{folder} {REPAIR}"):
                read_all(source())
        path.write_bytes(content)
    assert read_all(source()) == whole


@pytest.mark.parametrize("content", ["[]", "null", '"text"', "[" * 100_000, '{"a": 1}', '{"features": {"a": 1}}'])
def test_wrong_json_raises_an_error_in_folders_of_earlier_versions(copy, content):
    source, folder = copy
    (folder / SEAL).unlink()
    for name in ("dataset_info.json", "features.json", "metadata.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=f"^{folder} {REPAIR}"):
            read_all(source())
        (folder / name).write_bytes(kept)


def test_classes_outside_tfds_are_not_imported(copy):
    source, folder = copy
    (folder / SEAL).unlink()
    features = (folder / "features.json").read_text()
    named = json.loads(features)["pythonClassName"]
    (folder / "features.json").write_text(features.replace(named, "antigravity.Feature", 1))
    with pytest.raises(UserError, match="names the class antigravity.Feature, which does not belong to tfds"):
        source()


def test_damaged_record_ends_the_training_with_a_one_line_error(copy):
    source, folder = copy
    config = boxes.get_config("debug")
    opened = source()
    (records,) = folder.glob("*-train.array_record*")
    content = bytearray(records.read_bytes())
    content[content.rindex(b"\xff\xd8\xff") + 100] ^= 1  # in the pixels of a JPEG
    records.write_bytes(content)
    config.data.image_size = (32, 32)
    loader = TrainLoader(opened, make_truth(("boxes",), config.data), config.data, batch_size=4, seed=0)
    with pytest.raises(UserError) as caught:
        for _ in range(8):
            assert np.isfinite(next(loader)["boxes"]).all()
    assert re.fullmatch(f"{folder} {REPAIR}", str(caught.value))  # grain adds a note, which is not part of the message
    loader.close()
