"""The changes that a resume accepts, and the rule for other train.steps."""

import json

import pytest

from configs import unet_shapes
from errors import UserError
from experiments.run.config_file import resolve
from experiments.run.resumption import check_start, resume
from files import digest_json

DATA = {"train": "ab", "eval": "cd"}


def plan(steps, optim=()):
    config = unet_shapes.get_config("debug")
    config.train.steps = steps
    config.optim.update(dict(optim))
    return config


def go_on(tmp_path, then, now, step=100):
    plans = [{"from": 0, "steps": then.train.steps, "exact": True}]
    notes = {"step": step, "data": DATA, "config": json.loads(resolve(then)), "plans": plans}
    return resume(tmp_path, now, notes, DATA)


@pytest.mark.parametrize(
    ("optim", "exact"),
    [
        ({"schedule": "constant"}, True),
        ({"schedule": "constant", "warmup_steps": 20}, True),
        ({"schedule": "constant", "warmup_steps": 100}, False),  # the run of 100 steps has shortened its warm-up
        ({"schedule": "cosine"}, False),
        ({"schedule": "poly"}, False),
        ({"schedule": "step"}, False),
        ({"schedule": "step", "boundaries": ()}, True),
        ({"schedule": "constant", "partition": (("encoder/", (("schedule", "cosine"),)),)}, False),
    ],
)
def test_a_resume_is_exact_if_the_rates_do_not_depend_on_the_steps(tmp_path, capsys, optim, exact):
    found = go_on(tmp_path, plan(100, optim), plan(300, optim))
    assert found.is_exact == exact
    assert found.plans[-1] == {"from": 100, "steps": 300, "exact": exact}
    assert found.changed == {"train.steps": [100, 300]}
    told = capsys.readouterr().err
    assert ("planned for 100 steps" in told and "From step 101 on" in told) != exact


def test_an_unfinished_run_may_be_shortened_to_a_later_step(tmp_path):
    optim = {"schedule": "constant"}
    assert go_on(tmp_path, plan(300, optim), plan(150, optim)).is_exact
    for steps in (100, 99, 0):
        with pytest.raises(UserError, match=rf"train\.steps={steps} .* is at step 100 of 300; give more than 100"):
            go_on(tmp_path, plan(300, optim), plan(steps, optim))


def test_other_fields_and_other_data_are_refused(tmp_path):
    then, now = plan(100), plan(100)
    now.optim.lr = 0.5
    with pytest.raises(UserError, match=r"config\.json was changed: optim\.lr"):
        go_on(tmp_path, then, now)
    with pytest.raises(UserError, match="the data is not what"):
        resume(tmp_path, then, {"step": 5, "data": {"train": "other"}}, DATA)


def test_an_older_run_has_the_plan_of_its_config(tmp_path):
    (tmp_path / "config.json").write_text(resolve(plan(100)))
    notes = {"step": 100, "loader": 100, "row": None, "class_names": ["a"], "data": DATA}
    assert resume(tmp_path, plan(100), notes, DATA).plans == [{"from": 0, "steps": 100, "exact": True}]
    assert resume(tmp_path, plan(200), notes, DATA).plans[-1]["from"] == 100


def test_older_run_keeps_the_plan_of_a_start_killed_without_a_checkpoint(tmp_path):
    optim = {"schedule": "cosine"}
    (tmp_path / "config.json").write_text(resolve(plan(200, optim)))  # stored by that start
    notes = {"step": 100, "loader": 100, "row": None, "class_names": ["a"], "data": DATA}
    plans = [{"from": 0, "steps": 100, "exact": True}, {"from": 100, "steps": 200, "exact": False}]
    write_evidence(tmp_path, plans=plans)
    assert resume(tmp_path, plan(200, optim), notes, DATA).plans == plans
    assert resume(tmp_path, plan(100, optim), notes, DATA).plans == plans[:1]


def write_evidence(workdir, **session):
    sessions = [{"first_step": 0, "plans": []} | session]
    (workdir / "evidence.json").write_text(json.dumps({"sessions": sessions, "sha256": digest_json(sessions)}))


def test_a_run_that_lost_its_checkpoints_does_not_start_again(tmp_path):
    check_start(tmp_path)
    (tmp_path / "config.json").write_text(resolve(plan(100)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 6}\n')  # killed while its second checkpoint was written
    check_start(tmp_path)
    write_evidence(tmp_path, saved=None)
    check_start(tmp_path)
    for session in ({"saved": 3}, {"first_step": 3}):
        write_evidence(tmp_path, **session)
        with pytest.raises(UserError, match="had checkpoints, but .*last contains none; restore"):
            check_start(tmp_path)
    (tmp_path / "evidence.json").unlink()
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n')
    with pytest.raises(UserError, match="had checkpoints"):
        check_start(tmp_path)
