"""The loop in this process: stops and kills at moments that a signal from outside would hit by luck only."""

import dataclasses
import json
import math
import signal
import types

import pytest

from configs import unet_shapes
from errors import UserError
from experiments.run.checkpoints import Checkpoints, digest
from experiments.run.inference import Interrupted
from experiments.run.trainer import Trainer


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


def make(workdir, data_dir, **fields):
    config = unet_shapes.get_config("debug")
    config.train.update(fields)
    stop = types.SimpleNamespace(signal=None, nothing_to_lose=True)
    trainer = Trainer(config, workdir, data_dir, stop)
    workdir.mkdir(exist_ok=True)
    trainer.restore()
    return trainer


def stop_in_evaluation(trainer):
    class Evaluator:
        inference, source = trainer.evaluator.inference, trainer.evaluator.source

        def __call__(self, *_, **__):
            trainer.stop.signal = signal.SIGTERM
            raise Interrupted

    trainer.evaluator = Evaluator()


def script_losses(trainer, losses):
    """The loss that each evaluation finds."""
    evaluator, losses = trainer.evaluator, iter(losses)

    class Evaluator:
        inference, source = evaluator.inference, evaluator.source

        def __call__(self, *args, **kwargs):
            result = evaluator(*args, **kwargs)
            return dataclasses.replace(result, scores=result.scores | {"loss": next(losses)})

    trainer.evaluator = Evaluator()


def kill_at_batch(trainer, number):
    loader = trainer.loader

    class Loader:
        get_state, set_state, close = loader.get_state, loader.set_state, loader.close

        def __next__(self):
            if loader.get_state() == number:
                raise Killed
            return next(loader)

    trainer.loader = Loader()


def rows(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    make(workdir, data_dir).run(None)
    return workdir


def test_a_stop_in_an_evaluation_and_a_kill_after_it_write_every_line_once(reference, tmp_path, data_dir):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir)
    stop_in_evaluation(trainer)
    trainer.run(None)
    assert [row["step"] for row in rows(workdir)] == [1, 2]

    trainer = make(workdir, data_dir)
    assert (trainer.first, trainer.pending["train/loss"]) == (3, rows(reference)[2]["train/loss"])
    kill_at_batch(trainer, 4)
    with pytest.raises(Killed):
        trainer.run(None)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]

    make(workdir, data_dir).run(None)
    assert rows(workdir) == rows(reference)
    for kind in ("last", "best"):
        left, right = (Checkpoints(place, read_only=True).read(kind)[0] for place in (workdir, reference))
        assert digest(left) == digest(right)


def test_a_stop_in_the_last_evaluation_is_made_up_for_once(reference, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir, eval_every=6)
    stop_in_evaluation(trainer)
    trainer.run(None)
    assert "finished" not in capsys.readouterr().out
    for _ in range(2):
        make(workdir, data_dir, eval_every=6).run(None)
        assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6]
        assert rows(workdir)[-1] == rows(reference)[-1]
        assert "finished at step 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("losses", "best", "step"), [((math.nan, 1.0, 3.0), 1.0, 4), ((math.nan, math.nan, math.nan), None, None)]
)
def test_the_smallest_loss_is_the_best_and_an_undefined_one_never(losses, best, step, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir, best="val/loss", eval_every=2)
    script_losses(trainer, losses)
    trainer.run(None)
    assert f"finished at step 6; best val/loss {'-' if best is None else '1.0000'}\n" in capsys.readouterr().out
    resumed = make(workdir, data_dir, best="val/loss", eval_every=2)
    assert resumed.best.value == best
    assert resumed.checkpoints.steps("best") == ([] if step is None else [step])
    if step is None:
        with pytest.raises(UserError, match="best holds no usable checkpoint; there is one with --checkpoint=last"):
            resumed.checkpoints.read("best")
    resumed.checkpoints.close()


def test_changed_data_is_refused_on_resume(reference, data_dir):
    config = unet_shapes.get_config("debug")
    stop = types.SimpleNamespace(signal=None, nothing_to_lose=True)
    trainer = Trainer(config, reference, data_dir, stop)
    trainer.data = trainer.data | {"train": "another"}
    before = (reference / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="the data is not what"):
        trainer.restore()
    assert (reference / "metrics.jsonl").read_bytes() == before
