"""Proposals equal known boxes, are the same in every process, are stored once, and stay after a kill."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline import proposals
from input_pipeline.objects import overlap
from input_pipeline.proposals import SHARD, SelectiveSearch, Store, open_proposals
from input_pipeline.sources import Concatenation

ROOT = pathlib.Path(__file__).parents[2]
SEARCH = SelectiveSearch(mode="fast", longest=500, min_side=4, count=2000)
RED, GREEN = (10, 20, 30, 50), (36, 5, 56, 25)  # yxyx


def draw(seed, size=(64, 64)):
    """Draw two rectangles on a grey background, with noise."""
    rng, image = np.random.default_rng(seed), np.full((*size, 3), 60, np.uint8)
    for (top, left, bottom, right), colour in ((RED, (200, 30, 40)), (GREEN, (20, 180, 90))):
        image[top:bottom, left:right] = colour
    return np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)


class Pictures:
    """A source of these images. Image i has the noise of seed i."""

    fingerprint, class_names, category_ids, dropped, absent, bad_boxes = "pictures", ("box",), (1,), (), (), ()
    layout, remarks, peak, white = "", (), 0, 65535

    def __init__(self, count):
        self.decoded = []
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.decoded.append(index)
        return {"image": draw(index), "boxes": np.array([RED, GREEN], np.float64)}

    def name(self, index):
        return f"picture_{index}"


def make_data(**fields):
    data = get_config().data
    data.update(name="voc/2007", num_threads=1)
    data.proposals.update(dict(min_side=4) | fields)
    return data


@pytest.fixture
def found_here(monkeypatch):
    """Make searches run in this process. Another test covers several processes."""

    class Here:
        def submit(self, function, *arguments):
            result = function(*arguments)
            return type("Future", (), {"result": lambda self: result})()

        def shutdown(self, *, cancel_futures):
            pass

    monkeypatch.setattr(proposals, "start_processes", lambda count: Here())


def test_salient_rectangles_are_proposed():
    boxes = SEARCH.find(draw(0), (64, 64))
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,)
    assert overlap(np.array([RED, GREEN, (0, 0, 64, 64)]), boxes).max(1).min() > 0.95
    assert (boxes[:, 2:] - boxes[:, :2] >= 4).all() and (boxes >= 0).all() and (boxes <= 64).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 5


def test_same_pixels_give_the_same_proposals_in_the_same_order():
    first, other = SEARCH.find(draw(0), (64, 64)), SEARCH.find(draw(1), (64, 64))
    for _ in range(3):
        np.testing.assert_array_equal(SEARCH.find(draw(0), (64, 64)), first)
    assert not np.array_equal(first, other)


def test_best_proposals_are_kept_and_small_ones_are_dropped():
    every = SEARCH.find(draw(0), (64, 64))
    np.testing.assert_array_equal(dataclasses.replace(SEARCH, count=3).find(draw(0), (64, 64)), every[:3])
    large = dataclasses.replace(SEARCH, min_side=25).find(draw(0), (64, 64))
    np.testing.assert_array_equal(large, every[(every[:, 2:] - every[:, :2] >= 25).all(1)])
    assert 0 < len(large) < len(every)


def test_proposals_of_a_large_image_are_scaled_to_its_pixels():
    image = np.repeat(np.repeat(draw(0), 4, 0), 3, 1)  # 256x192
    search = dataclasses.replace(SEARCH, longest=64)
    small = search.shrink(image)
    assert small.shape == (64, 48, 3) and search.shrink(small) is small
    boxes = search.find(small, image.shape[:2])
    stored = np.array([RED, GREEN, (0, 0, 64, 64)]) * (4, 3, 4, 3)
    assert overlap(stored, boxes).max(1).min() > 0.85
    assert (boxes <= (256, 192, 256, 192)).all()


def test_colours_reach_opencv_as_bgr(monkeypatch):
    """OpenCV expects BGR."""
    given = []

    class Method:
        def setBaseImage(self, image):
            given.append(image[0, 0].tolist())

        def switchToSelectiveSearchQuality(self):
            given.append("quality")

        def process(self):
            return np.array([[1, 2, 30, 40], [1, 2, 30, 40], [0, 0, 3, 50]], np.int32)  # x, y, width, height

    monkeypatch.setattr(proposals.cv2.ximgproc.segmentation, "createSelectiveSearchSegmentation", Method)
    boxes = dataclasses.replace(SEARCH, mode="quality").find(np.full((50, 60, 3), (9, 5, 1), np.uint8), (50, 60))
    assert given == [[1, 5, 9], "quality"] and boxes.tolist() == [[2, 1, 42, 31]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 40), (30, 30)])
def test_image_may_have_no_proposals(size):
    boxes = SEARCH.find(np.zeros((*size, 3), np.uint8), size)
    assert boxes.shape == (size == (30, 30), 4) and boxes.dtype == np.float32


def test_stored_proposals_are_read_back(tmp_path):
    store = Store(tmp_path / "a", SHARD + 3)
    boxes = [np.arange(4 * n, dtype=np.float32).reshape(n, 4) for n in range(SHARD + 3)]
    assert store.missing() == [range(SHARD), range(SHARD, SHARD + 3)]
    store.write(range(SHARD, SHARD + 3), boxes[SHARD:])
    assert Store(tmp_path / "a", SHARD + 3).missing() == [range(SHARD)]
    store.write(range(SHARD), boxes[:SHARD])
    assert store.missing() == []
    for index in (SHARD + 2, 0, 1, SHARD - 1, SHARD):
        np.testing.assert_array_equal(store[index], boxes[index])
    (tmp_path / "a/000000.npz").write_bytes(b"cut short")
    with pytest.raises(
        UserError, match="000000.npz is damaged .*move it away and start again to make a new one"
    ) as caught:
        Store(tmp_path / "a", SHARD + 3)[0]
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("found_here")
def test_split_is_searched_once_and_missing_files_are_recreated(tmp_path, capsys):
    source = Pictures(SHARD + 2)
    opened = open_proposals(source, make_data(), "train[:50%]", tmp_path)
    (folder,) = (tmp_path / "proposals").iterdir()
    assert folder.name.startswith("voc_2007-train_50-") and source.decoded == list(range(SHARD + 2))
    printed = capsys.readouterr().out
    assert "now finds the proposals of 18 of 18 images, once" in printed and str(folder) in printed
    assert "proposals of 16/18 images" in printed and "left" in printed
    np.testing.assert_array_equal(opened.proposals(3), SEARCH.find(draw(3), (64, 64)))
    example = opened[17]
    np.testing.assert_array_equal(example["proposals"], SEARCH.find(draw(17), (64, 64)))
    assert example.keys() == {"image", "boxes", "proposals"} and len(opened) == 18 and opened.name(4) == "picture_4"

    again = Pictures(SHARD + 2)
    open_proposals(again, make_data(), "train[:50%]", tmp_path)
    assert not again.decoded and not capsys.readouterr().out
    (folder / "000001.npz").unlink()
    open_proposals(again, make_data(), "train[:50%]", tmp_path)
    assert again.decoded == [16, 17] and "2 of 18" in capsys.readouterr().out


@pytest.mark.usefixtures("found_here")
def test_changed_data_and_changed_settings_are_searched_again(tmp_path):
    other = Pictures(2)
    other.fingerprint = "other"
    opened = [
        open_proposals(Pictures(2), make_data(), "train", tmp_path),
        open_proposals(Pictures(2), make_data(count=2), "train", tmp_path),
        open_proposals(Pictures(2), make_data(longest=32), "train", tmp_path),
        open_proposals(other, make_data(), "train", tmp_path),
    ]
    assert len(list((tmp_path / "proposals").iterdir())) == len({source.fingerprint for source in opened}) == 4
    assert len(opened[1].proposals(0)) == 2 < len(opened[0].proposals(0))


@pytest.mark.usefixtures("found_here")
def test_joined_splits_have_the_proposals_of_each_split(tmp_path):
    parts = [open_proposals(Pictures(count), make_data(), f"part{count}", tmp_path) for count in (1, 2)]
    both = Concatenation(["part1", "part2"], parts)
    np.testing.assert_array_equal(both.proposals(2), parts[1].proposals(1))
    np.testing.assert_array_equal(both[0]["proposals"], parts[0].proposals(0))


PROGRAM = """
import pathlib, sys
from tests.input_pipeline import test_proposals as tests

class Slow(tests.Pictures):
    def __getitem__(self, index):
        if index == 56:
            print("half", flush=True)
            import time; time.sleep(60)
        return super().__getitem__(index)

data = tests.make_data()
data.num_threads = 2
tests.open_proposals(Slow(64) if sys.argv[2] == "slow" else tests.Pictures(64), data, "train", pathlib.Path(sys.argv[1]))
"""


def test_kill_keeps_finished_proposals_and_leaves_no_process(tmp_path):
    """Two processes search. They end with the process that is killed."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    killed = subprocess.Popen([*command, "slow"], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while "half" not in killed.stdout.readline():
        pass
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (folder,) = (tmp_path / "proposals").iterdir()
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert 0 < len(done) < 4
    for _ in range(100):
        try:
            os.killpg(killed.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("processes are left")
    resumed = subprocess.run([*command, "fast"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"proposals of {64 - SHARD * len(done)} of 64 images" in resumed.stdout
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert len(times) == 4 and done.items() <= times.items()
    store = Store(folder, 64)
    for index in (0, 30, 63):
        np.testing.assert_array_equal(store[index], SEARCH.find(draw(index), (64, 64)))


@pytest.mark.usefixtures("found_here")
def test_folder_that_cannot_be_written_raises_an_error(tmp_path):
    (tmp_path / "proposals").write_text("a file")
    with pytest.raises(UserError, match="cannot be stored in .*--tfds_data_dir or TFDS_DATA_DIR") as caught:
        open_proposals(Pictures(1), make_data(), "train", tmp_path)
    assert "\n" not in str(caught.value)
