"""Members that train together have the same directories as single runs, bit for bit, also after kills."""

import contextlib
import json
import math
import signal

import numpy as np
import pytest

from errors import UserError
from experiments import train
from experiments.command_line import Command
from experiments.run.checkpoints import Checkpoints, digest
from experiments.run.config_file import read_config
from experiments.run.directory import claim
from experiments.run.inference import Interrupted
from experiments.run.members import Members
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer
from tests import small_unet
from tests.processes import run_together

# Relative differences of a vmapped member and a single run after six steps of SGD. The norm is that of a small gradient.
TOLERANCE = {
    "train/loss": 1e-5,
    "train/cross_entropy": 1e-5,
    "train/grad_norm": 1e-3,
    "train/pixel_accuracy": 1e-5,
    "train/lr": 0,
}


class Killed(BaseException):
    """A stand-in for a kill. Nothing in the loop may catch it."""


def make_config(**fields):
    config = small_unet.get_config()
    config.train.update(eval_every=2, checkpoint_every=2)
    config.optim.update(name="sgd", lr=0.05)  # adam amplifies the last digit of a small gradient
    config.update_from_flattened_dict(fields)
    return config


def make(workdir, data_dir, **fields):
    group = Members(make_config(**{"members": 2} | fields), workdir, data_dir, Preemption())
    with contextlib.ExitStack() as claims:
        for place, config in {workdir: group.config, **{run.workdir: run.config for run in group.runs}}.items():
            claims.enter_context(claim(place, config))
        group.restore()
    return group


def read(workdir):
    """Return the result of a run, its rows without times and the digests of its checkpoints."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rows = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]
    found = [Checkpoints(workdir, read_only=True).read(kind) for kind in ("last", "best")]
    return rows, [(notes["step"], notes["loader"], digest(arrays)) for arrays, notes in found]


def names(group):
    return [run.workdir.name for run in group.runs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """Three runs, one after the other."""
    root = tmp_path_factory.mktemp("alone")
    for seed in (0, 1, 2):
        workdir = root / f"seed={seed}"
        trainer = Trainer(make_config(**{"seed.init": seed}), workdir, data_dir, Preemption())
        with claim(workdir, trainer.config):
            trainer.restore()
        trainer.run(None)
    return root


@pytest.mark.slow
def test_members_on_one_device_equal_single_runs_after_a_stop_and_kills(alone, tmp_path, data_dir, capsys):
    # A kill between the checkpoints of step 2. One member has its checkpoint, the other does not.
    group = make(tmp_path, data_dir)
    saves = group.runs[1].checkpoints

    def kill(*_, **__):
        group.runs[0].checkpoints.wait()
        raise Killed

    saves.save = kill
    with pytest.raises(Killed):
        group.run(None)
    group = make(tmp_path, data_dir)
    assert [run.first for run in group.runs] == [2, 0]

    # A stop in the evaluation of step 4 of the first member. Both members keep their row for later.
    evaluator, calls = group.runs[0].evaluator, []

    class Evaluator:
        inference, source = evaluator.inference, evaluator.source

        def __call__(self, *args, **kwargs):
            calls.append(args)
            if len(calls) == 2:  # the first call is of the second member, at step 2
                group.stop.signal = signal.SIGTERM
            if group.stop.signal:
                raise Interrupted
            return evaluator(*args, **kwargs)

    for run in group.runs:
        run.evaluator = Evaluator()
    group.run(None)
    assert group.stop.exit_code == 75
    assert "stopped: step 4 is saved, start the same command again to go on" in capsys.readouterr().out
    group = make(tmp_path, data_dir)
    assert [(run.first, run.pending["train/loss"] > 0) for run in group.runs] == [(4, True)] * 2

    # A kill between the rows of step 6.
    def kill_at_the_end(step, values):
        if step == 6:
            raise Killed
        return append(step, values)

    append, group.runs[1].journal.append = group.runs[1].journal.append, kill_at_the_end
    with pytest.raises(Killed):
        group.run(None)
    group = make(tmp_path, data_dir)
    assert [run.first for run in group.runs] == [6, 4]
    group.run(None)
    assert group.stop.exit_code == 0
    for name in names(group):
        assert read(tmp_path / name) == read(alone / name)

    # At the end, means and intervals of the last rows are in a file and in the output.
    spread = json.loads((tmp_path / "members.json").read_text())
    assert spread["members"] == ["seed=0", "seed=1"] and spread["step"] == 6
    values = [read(alone / name)[0][-1]["val/mIoU"] for name in names(group)]
    found = spread["scores"]["val/mIoU"]
    assert list(found["values"].values()) == values and found["mean"] == pytest.approx(np.mean(values))
    # For two values t is 12.706, and the standard error is half their distance.
    assert found["high"] - found["mean"] == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4)
    assert f"mIoU {found['mean']:.4f}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow  # trains nine runs
def test_vmapped_members_equal_single_runs_up_to_rounding_after_a_kill(alone, tmp_path, data_dir):
    undisturbed = make(tmp_path / "undisturbed", data_dir, vmap=True, members=3)
    undisturbed.run(None)
    for name in names(undisturbed):
        found, expected = (read(place / name)[0] for place in (tmp_path / "undisturbed", alone))
        for left, right in zip(found, expected, strict=True):
            assert left.keys() == right.keys()
            for score, value in left.items():
                if score.startswith("train/"):
                    assert value == pytest.approx(right[score], rel=TOLERANCE[score]), score

    group = make(tmp_path / "killed", data_dir, vmap=True, members=3)

    def kill(*_, **__):
        group.runs[0].checkpoints.wait()
        raise Killed

    group.runs[1].checkpoints.save = kill
    with pytest.raises(Killed):
        group.run(None)
    group = make(tmp_path / "killed", data_dir, vmap=True, members=3)
    assert [run.first for run in group.runs] == [2, 0, 0]
    group.run(None)
    for name in names(group):
        assert read(tmp_path / "killed" / name) == read(tmp_path / "undisturbed" / name)


def test_a_loss_that_is_not_finite_names_the_member(tmp_path, data_dir):
    group = make(tmp_path, data_dir)
    for run in group.runs:
        run.checkpoints.close()
        run.journal.close()
    run = group.runs[1]
    logs = {"loss": np.float32(math.nan), "grad_norm": np.float32(1)}
    run.nonfinite.push(1, logs, np.array([0]))
    with pytest.raises(UserError, match="^seed=1: the loss of step 1 is nan"):
        run.nonfinite.drain()


def test_each_member_has_the_directory_of_a_run_alone(tmp_path, data_dir, capsys):
    fields = {"members": 2, "seed.init": 3}
    command = Command(make_config(**fields), True, str(tmp_path), data_dir, "best", "auto", None, None, False)
    assert train.train(command) == 0
    said = capsys.readouterr().out
    assert "2 members, all on 1 device, their steps in turn" in said and "95% from" in said
    assert f"finished 2 members at step 6: {tmp_path}/seed=3 to seed=4" in said
    assert not (tmp_path / "wandb_id").exists() and read_config(tmp_path).members == 2
    ids = [(tmp_path / f"seed={seed}" / "wandb_id").read_text() for seed in (3, 4)]
    assert ids[0] != ids[1]
    session = json.loads((tmp_path / "seed=3" / "evidence.json").read_text())["sessions"][-1]
    assert (session["devices_of_run"], session["runs_on_devices"]) == (1, 2)
    # A member continues as a single run of the same config, except for the names of W&B.
    del fields["members"]
    own = make_config(**fields | {"seed.init": 4})
    place = str(tmp_path / "seed=4")
    assert train.train(Command(own, True, place, data_dir, "best", "auto", None, None, False)) == 0
    config = read_config(tmp_path)
    mode = Command(config, False, str(tmp_path), data_dir, "best", "auto", None, None, False)
    with pytest.raises(UserError, match=r"members=2: this mode takes one run; .*--workdir=.*/seed=3$"):
        mode.run_config()
    with pytest.raises(UserError, match="members is 2 there, 1 now"):
        train.train(Command(make_config(**fields), True, str(tmp_path), data_dir, "best", "auto", None, None, False))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"members": 3, "mesh": (2, 1, 1)}, r"config.mesh=\(2, 1, 1\) does not fit 1 device"),
        ({"members": 2, "seed.init": 2**32 - 1}, "seed.init would be 4294967296, and the largest is 4294967295"),
        ({"members": 2, "train.batch_size": 6, "optim.accumulate": 4}, "train.batch_size=6 does not divide over 4"),
    ],
)
def test_wrong_number_of_members_raises_a_one_line_error(fields, words, tmp_path, data_dir):
    with pytest.raises(UserError, match=words):
        Members(make_config(**fields), tmp_path, data_dir, Preemption())


PROGRAM = """
import pathlib
from tests.experiments.run import test_members
from experiments import train
from experiments.command_line import Command
from experiments.run import members

import jax
from errors import UserError

def layout(**fields):
    try:
        meshes = members.lay_out(test_members.make_config(**fields))
        return [[device.id for device in mesh.devices.ravel()] for mesh in meshes]
    except UserError as error:
        return str(error)

said = {{
    "meshes": [layout(members=count, mesh=mesh) for count, mesh in (
        (2, (1, -1, 1)), (4, (1, -1, 1)), (3, (1, -1, 1)), (2, (1, 2, 1)), (3, (-1, 1, 1)))],
}}
group = test_members.make(pathlib.Path({workdir!r}), {data_dir!r})
said["runs"] = [[str(run.mesh.devices.ravel()[0]), run.lane is group.lanes[index]] for index, run in enumerate(group.runs)]
group.run(None)
hlo = "".join(lane.compiled.as_text() for lane in group.lanes)
said["collectives"] = [word for word in ("all-reduce", "all-gather", "collective") if word in hlo]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_members_on_separate_devices_equal_single_runs_bit_for_bit(alone, tmp_path, data_dir):
    (said,) = run_together(PROGRAM.format(workdir=str(tmp_path), data_dir=data_dir), 1, devices=2)
    two, four, three, data, wrong = said["meshes"]
    assert two == four == [[0], [1]] and three == data == [[0, 1]]
    assert wrong == "config.members=3 is not a multiple of the 2 groups of devices of config.mesh[0]; use a multiple"
    assert [lane for _, lane in said["runs"]] == [True, True] and len({device for device, _ in said["runs"]}) == 2
    assert said["collectives"] == []
    for seed in (0, 1):
        assert read(tmp_path / f"seed={seed}") == read(alone / f"seed={seed}")
