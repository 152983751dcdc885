"""The white level of 16-bit images comes from the training split, and the run keeps it for all other images."""

import numpy as np
import pytest
from PIL import Image

from configs import common
from experiments.run import checkpoints
from experiments.run.inputs import Inputs


@pytest.fixture
def config(tmp_path):
    """A config of 12-bit training images and darker evaluation images."""
    for split, top in (("train", 3900), ("val", 900)):
        for kind in ("images", "masks"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        Image.fromarray(np.array([[0, top]], np.uint16)).save(tmp_path / "set" / split / "images/a.png")
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "set" / split / "masks/a.png")
    (tmp_path / "set/classes.txt").write_text("ground\ncrack\n")
    config = common.get_config()
    config.task.name = "segmentation"
    config.data.update(name="image_mask", eval_split="val")
    config.data.folder.root = str(tmp_path / "set")
    return config


def test_both_splits_have_the_white_of_the_training_split(config, tmp_path, capsys):
    inputs = Inputs(config, str(tmp_path / "tfds"))
    assert inputs.source.white == inputs.eval_source.white == 4095
    assert inputs.source[0]["image"].max() == 3900 * 255 // 4095
    assert inputs.eval_source[0]["image"].max() == 900 * 255 // 4095, "with its own white level it would be brighter"
    inputs.introduce(config)
    assert "train: 16-bit images reach 3900; 4095 is read as white" in capsys.readouterr().out
    assert config.data.white_level == 0, "the config of the run does not change"


def test_a_resumed_run_keeps_its_white(config, tmp_path, monkeypatch):
    older = Inputs(config, str(tmp_path / "tfds"), white=65535)
    assert older.source[0]["image"].max() == 3900 // 257
    for notes, white in (({"white_level": 1023}, 1023), ({}, 65535), (None, 65535)):
        monkeypatch.setattr(checkpoints.Checkpoints, "read_notes", lambda self, notes=notes: notes)
        assert checkpoints.read_white(tmp_path / "run") == white


def test_the_field_overrides_the_rule(config, tmp_path):
    config.data.white_level = 16383
    assert Inputs(config, str(tmp_path / "tfds"), white=4095).source.white == 16383
