"""The command line of datacheck, with its report and the lines that a user pastes."""

import ast
import os
import pathlib
import shlex
import subprocess
import sys

from PIL import Image

from tests.experiments.test_label_counts import LABELS, NAMES

ROOT = pathlib.Path(__file__).parents[2]
PASTED = [(0.8333, 2.333, 0.0, 1.0), (0.9129, 1.528, 0.0, 1.0)]  # the weights and their square roots


def run(*arguments, **environment):
    command = [sys.executable, "main.py", "--mode=datacheck", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def test_the_mode_needs_no_workdir_and_its_line_can_be_pasted(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "set/train" / kind).mkdir(parents=True)
    (tmp_path / "set/classes.txt").write_text("\n".join(NAMES))
    for number, label in enumerate(LABELS):
        Image.fromarray(label).save(tmp_path / f"set/train/masks/{number}.png")
        Image.new("RGB", label.shape[::-1]).save(tmp_path / f"set/train/images/{number}.png")
    arguments = [f"--tfds_data_dir={tmp_path / 'tfds'}", f"--config.data.folder.root={tmp_path / 'set'}"]
    (tmp_path / "tmp").mkdir()
    done = run("--config=configs/unet_masks.py", *arguments, TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "warning: train: no pixel is river; a class without an example gets the weight 0"
    ]
    lines = [line for line in done.stdout.splitlines() if line.startswith("--")]
    flags, _, values = zip(*(line.partition("=") for line in lines), strict=True)
    assert set(flags) == {"--config.task.class_weights"}
    assert [ast.literal_eval(value.strip("'")) for value in values] == PASTED
    again = run("--config=configs/unet_masks.py", *arguments, *shlex.split(lines[1]), f"--workdir={tmp_path / 'run'}")
    (drawn,), (kept,) = (
        [line for line in text.splitlines() if line.startswith("pictures: ")] for text in (done.stdout, again.stdout)
    )
    assert again.stdout.replace(kept, drawn) == done.stdout, "the field accepts the pasted value"
    places = [[pathlib.Path(place) for place in line.split()[1:]] for line in (drawn, kept)]
    assert [place.name for place in places[0]] == ["examples.png", "augmented.png"]
    assert places[0][0].parents[1] == tmp_path / "tmp", "without a folder they are in the temporary folder"
    assert places[1][0].parent == tmp_path / "run/datacheck"
    assert [place.read_bytes() for place in places[0]] == [place.read_bytes() for place in places[1]]
    assert {path.name for path in tmp_path.iterdir()} == {"set", "tmp", "run"} | ({"tfds"} & set(os.listdir(tmp_path)))


def test_the_mode_needs_a_config():
    done = run()
    assert done.returncode == 1 and done.stderr.startswith("error: --config is missing")
    assert len(done.stderr.splitlines()) == 1
