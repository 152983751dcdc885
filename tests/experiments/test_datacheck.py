"""What a split holds, against numbers counted by hand, and the line that a user pastes."""

import ast
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from experiments import datacheck
from experiments.datacheck import count_labels, describe, median_frequency_weights
from input_pipeline.batch import IGNORE

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("sky", "tree", "river", "bridge")
LABELS = [  # nobody saw a river
    np.array([[0, 0, 0, 0], [0, 0, 1, 1]], np.uint8),
    np.array([[1, IGNORE], [3, 3], [0, 0], [IGNORE, 3]], np.uint8),
    np.array([[0]], np.uint8),
    np.full((2, 2), IGNORE, np.uint8),
]
# sky: 6 + 2 + 1 of 8 + 6 + 1, tree: 2 + 1 of 8 + 6, bridge: 3 of 6. The median of 0.6, 3/14 and 0.5 is 0.5.
WEIGHTS = [0.5 / 0.6, 0.5 / (3 / 14), 0.0, 1.0]
PASTED = (0.8333, 2.333, 0.0, 1.0)


class Made:
    """Labels as a source."""

    class_names, fingerprint, dropped, absent = NAMES, "", (), ()

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": np.zeros((*self.labels[index].shape, 3), np.uint8), "label": self.labels[index]}

    def name(self, index):
        return f"{index}.png"


@pytest.fixture(params=[(1, 256), (3, 3)], ids=["one thread", "chunks"])
def counts(request, monkeypatch):
    threads, chunk = request.param
    monkeypatch.setattr(datacheck, "CHUNK", chunk)
    return count_labels(Made(LABELS), threads)


def test_counts_by_hand(counts):
    assert counts.sizes.tolist() == [[2, 4], [4, 2], [1, 1], [2, 2]]
    assert counts.pixels.tolist() == [9, 3, 0, 3]
    assert counts.images.tolist() == [3, 2, 0, 1]
    assert counts.around.tolist() == [15, 14, 0, 6]
    assert counts.ignored == 6


def test_weights_by_hand(counts):
    np.testing.assert_allclose(median_frequency_weights(counts), WEIGHTS, rtol=1e-12)


def test_what_is_printed(counts):
    title, head, *rows = describe("mine", NAMES, counts, median_frequency_weights(counts))
    assert title == (
        "mine: 4 images, height 1 to 4 (median 2), width 1 to 4 (median 2); 28.57% of the pixels have no class"
    )
    assert head.split() == ["class", "pixels", "share", "images", "weight"]
    assert [row.split() for row in rows] == [
        ["sky", "9", "60.00%", "3", "0.8333"],
        ["tree", "3", "20.00%", "2", "2.333"],
        ["river", "0", "0.00%", "0", "0.0"],
        ["bridge", "3", "20.00%", "1", "1.0"],
    ]
    assert len({len(line) for line in (head, *rows)}) == 1, "a table"


def test_equally_frequent_classes_weigh_the_same():
    weights = median_frequency_weights(count_labels(Made([np.arange(4, dtype=np.uint8).reshape(2, 2)] * 3), 2))
    np.testing.assert_array_equal(weights, np.ones(4))


def test_nothing_but_void_weighs_nothing():
    counts = count_labels(Made(LABELS[3:]), 1)
    np.testing.assert_array_equal(median_frequency_weights(counts), np.zeros(4))
    assert "100.00% of the pixels have no class" in describe("mine", NAMES, counts, np.zeros(4))[0]


def test_a_label_that_is_no_class_is_named():
    with pytest.raises(UserError, match="1.png holds the class 4, but 4 are named"):
        count_labels(Made([LABELS[0], np.array([[0, 4]], np.uint8)]), 2)


def run(*arguments):
    command = [sys.executable, "main.py", "--mode=datacheck", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_mode_needs_no_workdir_and_its_line_can_be_pasted(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "set/train" / kind).mkdir(parents=True)
    (tmp_path / "set/classes.txt").write_text("\n".join(NAMES))
    for number, label in enumerate(LABELS):
        Image.fromarray(label).save(tmp_path / f"set/train/masks/{number}.png")
        Image.new("RGB", label.shape[::-1]).save(tmp_path / f"set/train/images/{number}.png")
    arguments = [f"--tfds_data_dir={tmp_path / 'tfds'}", f"--config.data.folder.root={tmp_path / 'set'}"]
    done = run("--config=configs/unet_masks.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "warning: train: no pixel is river; a class without an example gets the weight 0"
    ]
    line = done.stdout.splitlines()[-1]
    flag, _, value = line.partition("=")
    assert flag == "--config.task.class_weights" and ast.literal_eval(value.strip("'")) == PASTED
    again = run("--config=configs/unet_masks.py", *arguments, f"{flag}={value.strip(chr(39))}")
    assert again.stdout == done.stdout, "the field takes it"
    assert not (tmp_path / "set/runs").exists() and len(list(tmp_path.iterdir())) == 2


def test_the_mode_needs_a_config():
    done = run()
    assert done.returncode == 1 and done.stderr.startswith("error: --config is missing")
    assert len(done.stderr.splitlines()) == 1
