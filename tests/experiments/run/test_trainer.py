"""The loop in this process, with stops and kills at moments that a signal from outside would hit only by luck."""

import dataclasses
import json
import math
import signal
import time

import pytest

from errors import UserError
from experiments.run import preemption
from experiments.run.checkpoints import Checkpoints, digest
from experiments.run.config_file import read_config, resolve
from experiments.run.directory import claim
from experiments.run.inference import Interrupted
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer
from tests import small_unet


class Killed(BaseException):
    """A stand-in for a kill. Nothing in the loop may catch it."""


def make(workdir, data_dir, accept_lost_rows=False, optim=None, **fields):
    config = small_unet.get_config()
    config.train.update(fields)
    config.optim.update(optim or {})
    trainer = Trainer(config, workdir, data_dir, Preemption(config.train.max_minutes))
    with claim(workdir, config):
        trainer.restore(accept_lost_rows)
    return trainer


def stop_in_evaluation(trainer):
    class Evaluator:
        inference, source = trainer.evaluator.inference, trainer.evaluator.source

        def __call__(self, *_, **__):
            trainer.stop.signal = signal.SIGTERM
            raise Interrupted

    trainer.evaluator = Evaluator()


def script_losses(trainer, losses):
    """Make each evaluation return the next of `losses`."""
    evaluator, losses = trainer.evaluator, iter(losses)

    class Evaluator:
        inference, source = evaluator.inference, evaluator.source

        def __call__(self, *args, **kwargs):
            result = evaluator(*args, **kwargs)
            return dataclasses.replace(result, scores=result.scores | {"loss": next(losses)})

    trainer.evaluator = Evaluator()


def call_at_batch(trainer, number, call):
    loader = trainer.loader

    class Loader:
        get_state, set_state, close = loader.get_state, loader.set_state, loader.close

        def __next__(self):
            if loader.get_state() == number:
                call()
            return next(loader)

    trainer.loader = Loader()


def kill():
    raise Killed


def rows(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    make(workdir, data_dir).run(None)
    return workdir


def test_a_stop_in_an_evaluation_and_a_kill_after_it_write_every_row_once(reference, tmp_path, data_dir):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir)
    stop_in_evaluation(trainer)
    trainer.run(None)
    assert [row["step"] for row in rows(workdir)] == [1, 2]

    trainer = make(workdir, data_dir)
    assert (trainer.first, trainer.pending["train/loss"]) == (3, rows(reference)[2]["train/loss"])
    call_at_batch(trainer, 4, kill)
    with pytest.raises(Killed):
        trainer.run(None)
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]

    make(workdir, data_dir).run(None)
    assert rows(workdir) == rows(reference)
    for kind in ("last", "best"):
        left, right = (Checkpoints(place, read_only=True).read(kind)[0] for place in (workdir, reference))
        assert digest(left) == digest(right)


def test_a_stop_in_the_last_evaluation_is_completed_once(reference, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir, eval_every=6)
    stop_in_evaluation(trainer)
    trainer.run(None)
    assert "finished" not in capsys.readouterr().out and trainer.stop.exit_code == 75
    for _ in range(2):
        trainer = make(workdir, data_dir, eval_every=6)
        trainer.run(None)
        assert trainer.stop.exit_code == 0
        assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4, 5, 6]
        assert rows(workdir)[-1] == rows(reference)[-1]
        assert "finished at step 6" in capsys.readouterr().out


@pytest.mark.slow
def test_the_time_limit_stops_in_steps_and_evaluations_but_not_after_the_last(
    reference, tmp_path, data_dir, capsys, monkeypatch
):
    def pass_time():
        monkeypatch.setattr(preemption, "STARTED", preemption.STARTED - 3600)

    monkeypatch.setattr(preemption, "STARTED", time.monotonic())
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir, max_minutes=60)
    call_at_batch(trainer, 1, pass_time)
    trainer.run(None)
    said = "stopped by train.max_minutes=60: step 2 is saved, start the same command again to go on"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert trainer.stop.exit_code == 75 and 0 < trainer.checkpoints.longest_save < 60

    monkeypatch.setattr(preemption, "STARTED", time.monotonic())
    trainer = make(workdir, data_dir, max_minutes=50)  # the run resumes later with other minutes
    inference, step = trainer.evaluator.inference, trainer.evaluator.inference._step

    class Step:
        lower = step.lower

        def __call__(self, *arguments):
            pass_time()
            return step(*arguments)

    inference._compile_for = lambda *_: Step()
    trainer.run(None)
    assert trainer.checkpoints.steps()[-1] == 3 and [row["step"] for row in rows(workdir)] == [1, 2]
    assert trainer.stop.exit_code == 75

    # A stop during the last save comes too late.
    monkeypatch.setattr(preemption, "STARTED", time.monotonic())
    trainer = make(workdir, data_dir)
    save = trainer.checkpoints.save

    def save_and_stop(step, *arguments):
        save(step, *arguments)
        if step == 6:
            trainer.stop.signal = signal.SIGTERM

    trainer.checkpoints.save = save_and_stop
    trainer.run(None)
    assert trainer.stop.exit_code == 0 and "finished at step 6" in capsys.readouterr().out
    assert rows(workdir) == rows(reference)


@pytest.mark.parametrize(
    ("losses", "best", "step"),
    [
        ((math.nan, 1.0, 3.0), 1.0, 4),
        pytest.param((math.nan, math.nan, math.nan), None, None, marks=pytest.mark.slow),
    ],
)
def test_the_smallest_loss_is_the_best_and_an_undefined_one_never(losses, best, step, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    trainer = make(workdir, data_dir, best="val/loss", eval_every=2)
    script_losses(trainer, losses)
    trainer.run(None)
    told = capsys.readouterr().out
    assert f"finished at step 6; best val/loss {'-' if best is None else '1.0000'}\n" in told
    assert " val: loss -  " in told and "nan" not in told, "undefined is - in every line"
    resumed = make(workdir, data_dir, best="val/loss", eval_every=2)
    assert resumed.best.value == best
    assert resumed.checkpoints.steps("best") == ([] if step is None else [step])
    if step is None:
        with pytest.raises(UserError, match="best contains no usable checkpoint; use --checkpoint=last"):
            resumed.checkpoints.read("best")
    resumed.checkpoints.close()


def test_changed_data_is_refused_on_resume(reference, data_dir):
    config = small_unet.get_config()
    trainer = Trainer(config, reference, data_dir, Preemption())
    trainer.data = trainer.data | {"train": "another"}
    before = (reference / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="the data is not what"):
        trainer.restore()
    assert (reference / "metrics.jsonl").read_bytes() == before


def finish(trainer):
    trainer.run(None)
    assert trainer.stop.exit_code == 0


def read_digests(workdir):
    return [digest(Checkpoints(workdir, read_only=True).read(kind)[0]) for kind in ("last", "best")]


def read_session(workdir):
    return json.loads((workdir / "evidence.json").read_text())["sessions"][-1]


@pytest.mark.slow
def test_finished_run_continues_as_if_planned_longer(tmp_path, data_dir):
    optim = {"schedule": "constant", "warmup_steps": 2}
    planned, extended = tmp_path / "planned", tmp_path / "extended"
    finish(make(planned, data_dir, steps=9, optim=optim))
    finish(make(extended, data_dir, steps=6, optim=optim))
    with pytest.raises(UserError, match=r"train\.steps=5 .* is at step 6 of 6; give more than 6"):
        make(extended, data_dir, steps=5, optim=optim)
    trainer = make(extended, data_dir, steps=9, optim=optim)
    assert trainer.resumption.is_exact
    finish(trainer)
    assert read_digests(extended) == read_digests(planned)
    assert rows(extended) == rows(planned)  # the debug config also evaluates at step 6
    session = read_session(extended)
    assert session["plans"] == [{"from": 0, "steps": 6, "exact": True}, {"from": 6, "steps": 9, "exact": True}]
    assert session["changed"] == {"train.steps": [6, 9]}
    assert read_config(extended).train.steps == 9


@pytest.mark.slow
def test_schedule_that_depends_on_the_length_continues_by_a_recorded_rule(tmp_path, data_dir):
    optim = {"schedule": "cosine", "lr": 0.01, "warmup_steps": 0}
    finish(make(tmp_path, data_dir, steps=4, optim=optim))
    make(tmp_path, data_dir, steps=8, optim=optim).close()
    finish(make(tmp_path, data_dir, steps=8, optim=optim))
    later = [row for row in rows(tmp_path) if row["step"] > 4]
    assert [row["train/planned_steps"] for row in later] == [8] * 4
    assert later[0]["train/lr"] == pytest.approx(0.005) and later[-1]["train/lr"] < 0.001
    assert all("train/planned_steps" not in row for row in rows(tmp_path)[:4])
    make(tmp_path, data_dir, steps=8, optim=optim).close()
    assert read_session(tmp_path)["plans"][-1] == {"from": 4, "steps": 8, "exact": False}, "the plan is recorded"


@pytest.mark.slow
def test_lost_rows_raise_an_error_and_the_best_checkpoint_stays(tmp_path, data_dir):
    fields = dict(best="val/loss", eval_every=2)
    trainer = make(tmp_path, data_dir, **fields, steps=4)
    script_losses(trainer, [0.5, 0.7])
    finish(trainer)
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="has 0 of the 4 rows"):
        make(tmp_path, data_dir, **fields, steps=6)
    assert read_config(tmp_path).train.steps == 4, "nothing has changed"
    trainer = make(tmp_path, data_dir, accept_lost_rows=True, **fields, steps=6)
    assert trainer.best.value == 0.5
    script_losses(trainer, [0.6])
    finish(trainer)
    assert Checkpoints(tmp_path, read_only=True).steps("best") == [2]


def test_rows_without_a_checkpoint_are_not_wiped(tmp_path, data_dir):
    config = small_unet.get_config()
    (tmp_path / "metrics.jsonl").write_text('{"step": 20}\n')
    (tmp_path / "config.json").write_text(resolve(config))
    with pytest.raises(UserError, match="had checkpoints"):
        make(tmp_path, data_dir)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 20}\n'
