import os
import shutil
import time

import pytest

from input_pipeline.copies import list_copies, main
from tests.input_pipeline.datasets.test_detection_folders import make_coco, open_folder, write_coco


@pytest.fixture
def place(tmp_path):
    """Make an old and a current copy of a folder, a copy of a deleted folder, and two unfinished preparations."""
    place = tmp_path / "tfds"
    for root in ("set", "gone"):
        (tmp_path / root).mkdir()
        write_coco(tmp_path / root, make_coco())
        open_folder("coco_folder", tmp_path / root, "train", place)
    content = make_coco()
    content["images"][0]["id"] = content["annotations"][0]["image_id"] = 71
    content["annotations"] = content["annotations"][:1]
    write_coco(tmp_path / "set", content)
    open_folder("coco_folder", tmp_path / "set", "train", place)
    shutil.rmtree(tmp_path / "gone")
    for name in (".coco_folder-now", ".coco_folder-then"):
        (place / name).mkdir()
    os.utime(place / ".coco_folder-then", times=(time.time() - 7200,) * 2)
    (place / "coco_folder" / "mine").mkdir()
    return place


def test_old_copies_are_listed_and_removed_on_request(place, capsys):
    root = str(place.parent / "set")
    found = sorted((copy.state, copy.root) for copy in list_copies(place))
    gone = str(place.parent / "gone")
    assert found == [("alone", gone), ("current", root), ("old", root), ("unfinished", ""), ("unfinished", "")]
    assert main([f"--tfds_data_dir={place}"]) == 0
    assert "5 copies listed" in capsys.readouterr().out
    assert main([f"--tfds_data_dir={place}", "--remove=old"]) == 0
    assert "2 copies removed" in capsys.readouterr().out
    left = {copy.state: copy for copy in list_copies(place)}
    assert sorted(left) == ["alone", "current", "unfinished"] and left["unfinished"].path.name == ".coco_folder-now"
    assert len(open_folder("coco_folder", root, "train", place)) == 3
    assert main([f"--tfds_data_dir={place}", f"--remove={left['alone'].path}"]) == 0
    assert [copy.state for copy in list_copies(place)] == ["unfinished", "current"]
    assert not left["alone"].path.parent.exists() and (place / "coco_folder" / "mine").is_dir()


def test_copy_of_another_version_is_old(place):
    current = next(copy.path for copy in list_copies(place) if copy.state == "current")
    shutil.copytree(current, current.with_name("1.0.0"))
    assert {copy.path.name: copy.state for copy in list_copies(place) if copy.path.parent == current.parent} == {
        "1.0.0": "old",
        current.name: "current",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "is not a folder"),
        (("--remove=/",), "--remove=/ is not a prepared copy; give a path from the list, or old"),
    ],
)
def test_invalid_arguments_print_an_error(tmp_path, capsys, arguments, message):
    place = tmp_path if arguments else tmp_path / "nowhere"
    assert main([f"--tfds_data_dir={place}", *arguments]) == 1
    assert message in capsys.readouterr().err
