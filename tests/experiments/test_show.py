"""The batch that is shown is the one that the step of that number sees."""

import types

import numpy as np
import pytest
from PIL import Image

from configs import ssd_shapes, unet_shapes
from errors import UserError
from experiments.command_line import Command
from experiments.run.checkpoints import Checkpoints
from experiments.run.config_file import resolve
from experiments.run.inputs import Inputs
from experiments.run.loop import Loop
from experiments.show import read_batch, show


def see_steps(config, inputs):
    """Return the batch of each step, as the loop gives it to a run that does not train."""
    seen = {}
    run = types.SimpleNamespace(config=config, loader=inputs.load(config), first=0, position=0)
    run.stop = types.SimpleNamespace(requested=lambda reserve: False, nothing_to_lose=True)
    run.checkpoints = types.SimpleNamespace(wait=lambda: None, longest_save=0.0)
    run.nonfinite, run.logs = types.SimpleNamespace(push=lambda *arguments: None), {}
    run.begin, run.finish = lambda: True, lambda step, row: True
    run.describe = lambda step: {"train/loss": 0.0}
    run.evaluator = types.SimpleNamespace(inference=types.SimpleNamespace(programs=()))
    run.best = types.SimpleNamespace(name=config.train.best, value=None, smaller_is_better=False)
    lane = types.SimpleNamespace(runs=[run], compile=lambda rows: None, settle=lambda: None, advance=seen.__setitem__)
    lane.compiled = lane.flops = None
    assert Loop([lane]).run(None)
    return seen


@pytest.mark.parametrize("configs", [unet_shapes, ssd_shapes])
def test_shown_batch_equals_the_batch_of_the_step(configs, data_dir):
    config = configs.get_config("debug")
    config.train.steps = 4
    inputs = Inputs(config, data_dir)
    seen = see_steps(config, inputs)
    assert list(seen) == [1, 2, 3, 4]
    for step in (4, 1, 3):
        shown = read_batch(inputs, config, step)
        assert shown.keys() == seen[step].keys()
        for name, values in shown.items():
            np.testing.assert_array_equal(values, seen[step][name])
    assert not np.array_equal(seen[3]["image"], seen[4]["image"])


def make_command(config, data_dir, **values):
    fields = dict(checkpoint="best", weights="auto", inputs=None, profile=False, workdir=None, output=None)
    return Command(config, True, data_dir=data_dir, **fields | {name: str(own) for name, own in values.items()})


def test_output_names_its_rows_and_replaces_no_file(tmp_path, data_dir, capsys):
    config = ssd_shapes.get_config("debug")
    command = make_command(config, data_dir, output=tmp_path)
    show(command)
    said = capsys.readouterr().out.splitlines()
    inputs = Inputs(config, data_dir)
    batch = read_batch(inputs, config, 1)
    assert said[0] == "step 1: 4 images of shapes train"
    assert said[1:5] == [f"{index}  {inputs.source.name(index)}" for index in batch["image_id"]]
    assert said[5] == f"picture: {tmp_path / 'step_0000001.png'}"
    show(command)
    config.seed.data = 7
    show(command)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000001-2.png", "step_0000001.png"]
    assert Image.open(tmp_path / "step_0000001.png").width > 300


def test_a_run_with_other_fields_gives_a_warning(tmp_path, data_dir, capsys, monkeypatch):
    config = unet_shapes.get_config("debug")
    (tmp_path / "config.json").write_text(resolve(config))
    config.eval.batch_size = 3
    show(make_command(config, data_dir, workdir=tmp_path))
    assert (tmp_path / "show/step_0000001.png").exists() and not capsys.readouterr().err
    config.seed.data, config.data.augment.flip = 1, 0.25
    show(make_command(config, data_dir, workdir=tmp_path))
    told = capsys.readouterr().err
    assert "trained with another data.augment.flip, seed.data: these are not the images" in told
    config = unet_shapes.get_config("debug")
    monkeypatch.setattr(Checkpoints, "read_notes", lambda self: {"data": {"train": "another"}})
    with pytest.raises(UserError, match="the data is not what .* \\(fingerprints another then"):
        show(make_command(config, data_dir, workdir=tmp_path))


@pytest.mark.parametrize("step", [0, 7])
def test_step_outside_the_run_raises_a_one_line_error(step, data_dir):
    command = make_command(unet_shapes.get_config("debug"), data_dir)
    object.__setattr__(command, "step", step)
    with pytest.raises(UserError, match=f"--step={step}: config.train.steps=6; steps count from 1"):
        show(command)
