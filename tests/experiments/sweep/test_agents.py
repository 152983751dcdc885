"""The sweep for W&B's agents, as far as it can be tested without W&B's server."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run.config_file import flatten, read_config
from experiments.sweep import agents
from experiments.sweep.launch import Launch
from experiments.sweep.plan import make_plan
from tests.experiments.sweep import driver
from tests.experiments.sweep.test_local import ROOT, Sweep

GRID = (
    'sweeps.product(sweeps.grid({"optim.lr": (1e-5, 0.1), "data.image_size": ((32, 32), (64, 48))}), sweeps.seeds(2))'
)


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """A function that returns the content of the YAML for a definition of runs."""
    monkeypatch.chdir(ROOT)

    def call(runs: str) -> dict:
        sweep = Sweep(tmp_path, runs)
        jobs = make_plan(str(sweep.file), {"train.steps": "5"}, sweep.workdir, "data", resolve=driver.resolve)
        assert agents.launch(Launch(jobs, sweep.workdir, None)) == 0
        return yaml.safe_load((sweep.workdir / agents.FILE).read_text())

    return call


def test_a_grid_becomes_a_grid_of_wandb(describe, tmp_path):
    described = describe(GRID)
    assert described["method"] == "grid" and described["project"] == "dense-prediction" and "entity" not in described
    assert described["parameters"] == {
        "config.optim.lr": {"values": [1e-5, 0.1]},
        "config.data.image_size": {"values": ["(32, 32)", "(64, 48)"]},
        "config.seed.init": {"values": [0, 1]},
    }
    assert described["program"] == "main.py"
    _, program, *shared, workdir, args = described["command"]
    assert (program, args) == ("${program}", "${args}")
    assert shared == [f"--config={tmp_path / 'configs.py'}", "--config.train.steps=5", "--tfds_data_dir=data"]
    assert workdir == f"--workdir={tmp_path / 'sweep'}/$WANDB_RUN_ID"


def test_several_experiments_become_a_parameter(describe, tmp_path):
    places = [str(tmp_path / f"{name}.py") for name in "ab"]
    for size, place in enumerate(places, start=1):
        content = f"""
            from configs import common

            def get_config(variant=""):
                config = common.get_config()
                config.train.batch_size = {size}
                return config
        """
        pathlib.Path(place).write_text(textwrap.dedent(content))
    described = describe(f'[{{"config": place, "seed.init": seed}} for place in {places} for seed in (0, 1)]')
    assert described["parameters"]["config"] == {"values": places}
    assert not any(word.startswith("--config=") for word in described["command"])


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ('sweeps.draw(4, {"optim.lr": sweeps.uniform(0.1, 1), "optim.clip": sweeps.uniform(1, 2)})', "all 16 combin"),
        ('[{"optim.lr": 0.1}, {"optim.clip": 1.0}]', "set the same fields"),
        ('[{"name": "a"}, {"name": "b", "init_from": sweeps.run("a")}]', "start runs in an order"),
    ],
)
def test_runs_that_are_not_a_grid_are_refused(describe, tmp_path, runs, words):
    with pytest.raises(UserError) as caught:
        describe(runs)
    assert words in str(caught.value) and "--executor=print" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "sweep" / agents.FILE).exists()


def make_command(described: dict, draw: dict) -> list[str]:
    """Return the command that W&B's own agent makes for a draw of the server."""
    filled = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in draw.items()}})
    filled["program"] = [described["program"]]
    words = utils.create_sweep_command(described["command"])
    return [own for word in words for own in (filled[word[2:-1]] if word.startswith("${") else [word])]


def draw_last(described: dict) -> dict:
    return {name: own["values"][-1] for name, own in described["parameters"].items()}


def test_the_command_of_a_draw_sets_its_fields(describe):
    described = describe(GRID)
    _, program, experiment, *words = make_command(described, draw_last(described))
    assert program == "main.py"
    fields = [word for word in words if word.startswith("--config.")]
    config = read_experiment(experiment.removeprefix("--config="), fields)
    assert (config.optim.lr, config.data.image_size, config.seed.init, config.train.steps) == (0.1, (64, 48), 1, 5)


@pytest.mark.slow
def test_the_command_of_a_draw_trains(tmp_path, data_dir):
    folder = tmp_path / "sweep"
    wanted = ["--executor=wandb", f"--workdir={folder}", f"--tfds_data_dir={data_dir}", "--config.wandb.mode=disabled"]
    wanted += ["--config=configs/unet_shapes.py:debug", "--config.train.steps=2", "--config.optim.warmup_steps=1"]
    subprocess.run([sys.executable, "-m", "experiments.sweep", *wanted], cwd=ROOT, check=True)
    described = yaml.safe_load((folder / agents.FILE).read_text())
    draw = draw_last(described)
    command, environment = make_command(described, draw), os.environ | {"WANDB_RUN_ID": "ab12", "WANDB_SWEEP_ID": "cd"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "finished at step 2" in done.stdout, done.stderr
    config = flatten(read_config(folder / "ab12"))
    assert {name: config[name.removeprefix("config.")] for name in draw} == draw
