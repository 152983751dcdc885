"""A small network compiled for the devices of this machine, with more or less memory."""

import dataclasses
import json

import pytest

from configs import common
from errors import UserError
from experiments.command_line import Command, read_experiment
from experiments.preflight import mode
from experiments.preflight.chips import CHIPS, Slice, open_slice
from experiments.preflight.hlo import Access
from experiments.preflight.remedies import list_remedies, try_remedies
from experiments.preflight.steps import MEGA, Step, Steps, compile_steps, read_wanted
from experiments.tasks.registry import make_task
from tests.experiments.test_summary import CLASSES, known  # noqa: F401 - a fixture


def compile_here(config, memory: int | None = None) -> Steps:
    where = dataclasses.replace(open_slice("local"), memory=memory)
    return compile_steps(config, make_task(config, CLASSES), len(CLASSES), where, lambda _: None)


@pytest.fixture
def command(known):  # noqa: F811
    known.data.image_size = (64, 64)
    known.train.batch_size = known.eval.batch_size = 16
    return Command(known, True, None, None, "best", "auto", None, None, False, topology="local", classes=len(CLASSES))


def test_a_run_that_fits_has_a_table_and_a_json_object(command, capsys, tmp_path):
    assert mode.preflight(dataclasses.replace(command, workdir=str(tmp_path))) == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["fits"] and found["chips"] == 1 and found["roofline"] is None and not found["tried"]
    assert json.loads((tmp_path / "preflight.json").read_text()) == found
    memory = found["training"]["memory_mb"]
    assert memory["arguments"] > found["parameters_mb"] and memory["between"] > 0
    assert found["training"]["gflop"] > 2 * found["evaluation"]["64x64"]["gflop"] > 0
    assert any(line.startswith("training ") for line in table) and any(line.startswith("evaluation ") for line in table)


@pytest.mark.slow
def test_a_run_that_does_not_fit_gets_working_remedies(command, capsys, monkeypatch):
    whole = compile_here(command.config)
    memory = int(MEGA * 0.7 * whole.training.needed)
    monkeypatch.setattr(mode, "open_slice", lambda _: dataclasses.replace(open_slice("local"), memory=memory))
    command.config.eval.batch_size = 1
    assert mode.preflight(command) == 1
    *table, last = capsys.readouterr().out.splitlines()
    tried = {one["change"]: one for one in json.loads(last)["tried"] if one["fits"]}
    assert {"parts", "batch"} <= {one["kind"] for one in tried.values()} <= {"remat", "parts", "batch"}
    assert all(one["needed_mb"] * MEGA <= memory for one in tried.values())
    assert all(f"  {change}: fits" in table for change in tried)
    # The remedy with a smaller batch works.
    (change,) = [change for change in tried if "batch_size" in change]
    command.config.train.batch_size = int(change.partition("=")[2])
    assert mode.preflight(command) == 0


def test_evaluation_needs_memory_for_the_training_state():
    kinds = dict(results=2.0, between=50.0, code=4.0)
    training, evaluation = (
        Step("training", 1.0, kinds | {"arguments": 100.0}),
        Step("", 1.0, kinds | {"arguments": 30.0}),
    )
    where = dataclasses.replace(open_slice("local"), memory=int(162e6))
    steps = Steps(common.get_config(), where, training, (evaluation,), 25.0, shared=25.0)
    assert steps.needed(training) == 156 and steps.needed(evaluation) == 100 + 4 + (30 - 25) + 2 + 50 + 4
    assert steps.fits(training) and not steps.fits(evaluation)
    assert steps.fits(dataclasses.replace(evaluation, memory=kinds | {"arguments": 27.0}))


def imagined(**fields) -> Steps:
    """Return a run on 256 chips whose training step needs three times the memory."""
    config = common.get_config()
    config.train.batch_size = 2048
    config.update(fields)
    memory = CHIPS["v5e"].memory
    where = Slice("v5e:16x16", (None,) * 256, (16, 16), CHIPS["v5e"], memory)
    training = Step("training", 1.0, error="too much", wanted=3 * memory / MEGA)
    return Steps(config, where, training, (), 1.0, 1.0)


def test_remedies_that_are_not_enough_are_omitted():
    found = dict(list_remedies(imagined()))
    assert found == {
        "remat": [{"train.remat": True}],
        "parts": [{"optim.accumulate": 4}, {"optim.accumulate": 8}],
        "batch": [{"train.batch_size": 512}, {"train.batch_size": 256}],
        "fsdp": [{"mesh": (1, -1, 4)}, {"mesh": (1, -1, 16)}],
    }
    assert dict(list_remedies(imagined(mesh=(1, -1, 4))))["fsdp"] == [{"mesh": (1, -1, 16)}]


def test_the_mildest_sufficient_remedy_of_each_kind_is_found():
    def compile_with(config) -> Steps:
        enough = config.optim.accumulate >= 8 or config.mesh[2] > 1
        kinds = dict(arguments=1.0, results=0.0, between=1.0, code=1.0)
        return dataclasses.replace(steps, training=Step("training", 1.0, kinds) if enough else steps.training)

    steps = imagined()
    tried = try_remedies(steps, compile_with, lambda _: None)
    assert [(one["change"], one["fits"]) for one in tried] == [
        ("--config.train.remat=True", False),
        ("--config.optim.accumulate=4", False),
        ("--config.optim.accumulate=8", True),
        ("--config.train.batch_size=512", False),
        ("--config.train.batch_size=256", False),
        ("--config.mesh=(1,-1,4)", True),
    ]


@pytest.mark.parametrize(
    ("said", "gib"),
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (36.52G) exceeds available HBM",
            36.52,
        ),
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.", 20.5),
        ("Used 512.0M of 15.75G hbm", 0.5),
        ("no number", None),
    ],
)
def test_the_needed_memory_is_read_from_xla(said, gib):
    assert read_wanted(said) == (gib and pytest.approx(gib * 2**30 / MEGA))


def test_many_small_slices_are_slow():
    slow, scarce, wide = (
        Access("gather", "here", 5000, 4, 1),
        Access("gather", "", 8, 1, 2),
        Access("gather", "", 5000, 256, 1),
    )
    step = Step("training", 1.0, accesses=(slow, scarce, wide))
    assert step.slow == [slow]
    assert any("here" in line for line in mode._describe_accesses(step))


def test_impossible_mesh_raises_a_one_line_error(known):  # noqa: F811
    known.mesh = (2, -1, 1)
    with pytest.raises(UserError, match="does not fit 1 device"):
        compile_here(known)


def test_number_of_classes_is_needed_without_data(known):  # noqa: F811
    config = read_experiment("configs/unet_masks.py", [])
    command = Command(config, True, None, "/nowhere", "best", "auto", None, None, False, topology="local")
    with pytest.raises(UserError, match="without the data, set the number of its classes: --classes=NUMBER"):
        mode.preflight(command)
