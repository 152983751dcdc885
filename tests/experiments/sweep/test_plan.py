"""The directory of a run, the arguments of main.py, and the mistakes that are refused before anything starts."""

import json
import pathlib
import re
import shutil

import pytest

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run import config_file, resolution
from experiments.run import directory as run_directory
from experiments.sweep.plan import make_plan
from tests.test_configs import NAMES, ROOT

OWN = """
from configs import sweeps, unet_shapes

def get_config(variant=""):
    config = unet_shapes.get_config("debug")
    config.train.steps = {steps}
    config.wandb.mode = "{mode}"
    return config

def sweep():
    return {runs}
"""
GRID = 'sweeps.product(sweeps.grid({"optim.lr": (0.001, 0.002)}), sweeps.seeds(2))'


@pytest.fixture
def plan(tmp_path):
    def make(runs: str = GRID, steps: int = 6, mode: str = "disabled", **overrides):
        (tmp_path / "own.py").write_text(OWN.format(runs=runs, steps=steps, mode=mode))
        fields = {name.replace("__", "."): value for name, value in overrides.items()}
        return make_plan(str(tmp_path / "own.py"), fields, tmp_path / "sweep", resolve=resolution.resolve)

    return make


def begin(job) -> None:
    """Make the run directory as main.py does."""
    experiment = job.arguments[0].removeprefix("--config=")
    config = read_experiment(experiment, [own for own in job.arguments if own.startswith("--config.")])
    with run_directory.claim(job.workdir, config):
        pass


def names(jobs) -> list[str]:
    return [job.workdir.name for job in jobs]


def test_directories_have_readable_names_and_a_hash(plan, tmp_path):
    jobs = plan()
    assert names(jobs) == names(plan()) and len(set(names(jobs))) == 4
    assert re.fullmatch(r"lr=0\.001,seed=1-[0-9a-f]{6}", jobs[1].workdir.name)
    assert jobs[1].workdir.parent == tmp_path / "sweep" and not jobs[1].workdir.parent.exists()
    assert jobs[1].varied == {"optim.lr": 0.001, "seed.init": 1}


def test_main_reads_the_fields_of_the_sweep(plan):
    runs = """[{"data.augment.scale": (0.5, 2), "optim.betas": (0.5, 0.75), "optim.freeze": ("a, 'b'", r"^c\\\\.d$"),
        "task.class_weights": (), "data.antialias": False, "optim.lr": 1, "train.best": "val/loss"}]"""
    (job,) = plan(runs)
    begin(job)
    stored = config_file.flatten(config_file.read_config(job.workdir))
    assert stored == job.config
    assert stored["optim.freeze"] == ["a, 'b'", r"^c\\.d$"] and stored["data.augment.scale"] == [0.5, 2]


def test_a_changed_sweep_keeps_the_directories_of_its_old_runs(plan):
    before = plan()
    for job in before[:2]:
        begin(job)
    after = plan('sweeps.product(sweeps.grid({"optim.lr": (0.001,), "optim.ema": (0.0, 0.5)}), sweeps.seeds(2))')
    assert names(after)[:2] == names(before)[:2], "although new ones would be called ema=0"
    assert not set(names(after)[2:]) & set(names(before))


def test_a_changed_base_config_adds_directories(plan):
    for job in plan():
        begin(job)
    assert not set(names(plan())) & set(names(plan(steps=12)))
    assert not set(names(plan())) & set(names(plan(train__steps="12")))
    assert names(plan(steps=12)) == names(plan(train__steps="12")), "no matter how the field is set"


def test_a_time_limit_does_not_make_another_run(plan):
    before = plan()
    begin(before[0])
    after = plan(train__max_minutes="90")
    assert names(after) == names(before)
    assert all("--config.train.max_minutes=90" in job.arguments for job in after)
    begin(after[0])  # main.py accepts it, too


def test_a_field_newer_than_a_run_does_not_change_its_directory(plan):
    jobs = plan()
    for job in jobs:
        begin(job)
        stored = json.loads((job.workdir / "config.json").read_text())
        del stored["data"]["antialias"], stored["wandb"]["job_type"], stored["optim"]["ema"]
        (job.workdir / "config.json").write_text(json.dumps(stored))
    # Earlier code gave it this name.
    renamed = jobs[0].workdir.rename(jobs[0].workdir.with_name("lr=0.001,seed=0-000000"))
    assert names(plan()) == [renamed.name, *names(jobs)[1:]]


def test_the_directory_of_another_run_is_never_used(plan):
    first, other = plan()[0], plan(steps=7)[0]
    begin(other)
    other.workdir.rename(first.workdir)  # as if both hashes began with the same digits
    assert plan()[0].workdir.name.startswith(first.workdir.name) and plan()[0].workdir != first.workdir
    assert plan(steps=7)[0].workdir == first.workdir


def test_two_sweeps_in_one_folder_use_different_directories(plan):
    same_names = plan(), plan(steps=7)
    assert [name[:-7] for name in names(same_names[0])] == [name[:-7] for name in names(same_names[1])]
    assert not set(names(same_names[0])) & set(names(same_names[1]))


def test_wandb_groups_the_runs_of_a_sweep_and_of_a_setting(plan):
    jobs = plan(mode="offline")
    shown = [{field: job.config[f"wandb.{field}"] for field in ("group", "name", "job_type", "tags")} for job in jobs]
    assert shown[1] == {
        "group": "sweep",
        "name": "lr=0.001,seed=1",
        "job_type": "lr=0.001",
        "tags": ["lr=0.001", "seed=1"],
    }
    assert len({own["job_type"] for own in shown}) == 2, "the seeds of a setting are one job type"
    alone = plan('sweeps.grid({"optim.lr": (0.001, 0.002)})', mode="offline")
    assert {job.config["wandb.job_type"] for job in alone} == {"train"}, "without seeds nothing is averaged"
    assert plan(mode="offline", wandb__group="mine")[0].config["wandb.group"] == "mine"
    assert names(plan(mode="disabled")) == names(jobs), "W&B's fields do not change the directory"
    begin(jobs[1])
    assert config_file.read_config(jobs[1].workdir).wandb.tags == ("lr=0.001", "seed=1")


def test_a_run_keeps_the_wandb_fields_of_its_first_start(plan, capsys):
    before = plan(mode="offline")
    for job in before:
        begin(job)
    after = plan(GRID + '[:2] + [{"optim.ema": 0.5}]', mode="offline", wandb__project="other")
    assert names(after)[:2] == names(before)[:2] and after[0].config == before[0].config
    for job in after:
        begin(job)  # main.py accepts it as the same config
    assert "lr=0.001,seed=0" in capsys.readouterr().err and after[2].config["wandb.project"] == "other"


STAGES = """[
    {"name": "second", "seed.init": 1, "init_from": sweeps.run("first")}, {"name": "first"},
    {"name": "third", "config": "configs/fcos_shapes.py:debug", "init_from": sweeps.run("second")},
]"""


def test_a_run_starts_from_the_directory_of_another_one(plan):
    first, second, third = plan(STAGES)
    assert (first.start, second.start, third.start) == (None, first, second)
    assert f"--config.init_from={first.workdir}" in second.arguments and second.config["init_from"] == str(
        first.workdir
    )
    assert third.arguments[0] == "--config=configs/fcos_shapes.py:debug"
    assert third.varied["config"] == "configs/fcos_shapes.py:debug"


def test_a_moved_folder_contains_the_same_runs(plan, tmp_path):
    before = plan(STAGES)
    for job in before:
        begin(job)
    shutil.move(tmp_path / "sweep", tmp_path / "away")
    after = make_plan(str(tmp_path / "own.py"), {}, tmp_path / "away", resolve=resolution.resolve)
    assert names(after) == names(before)
    for job in after:
        begin(job)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ('[{"optim.lrr": 1}]', ["run lrr=1", "lrr"]),
        ('[{"optim.lr": "fast"}]', ["run lr=fast", "lr", "fast"]),
        ('[{"optim.lr": -1.0}]', ["run lr=-1", "config.optim.lr=-1.0", "range"]),
        ('[{"train.steps": 2.5}]', ["run steps=2.5", "steps"]),
        ('[{"data.antialias": "no way"}]', ["run antialias=no-way", "antialias"]),
        ('[{"wandb.name": 3}]', ["config.wandb.name=3", "'3'"]),
        ('[{"model.name": "unett"}]', ["run model=unett", "unett"]),
        ('[{"config": "configs/none.py"}]', ["run none", "configs/none.py"]),
        ('[{"config": "configs/fcos_shapes.py:tiny"}]', ["run fcos_shapes-tiny", "tiny", "debug"]),
        ('[{"optim.lr": 0.5}, {"optim.lr": 0.5}]', ["same config", "own"]),
        ('[{"name": "a", "optim.lr": 0.003}, {"name": "b"}]', ["the runs a and b", "same config"]),
    ],
)
def test_invalid_run_raises_a_one_line_error_with_run_and_field(plan, tmp_path, runs, words):
    with pytest.raises(UserError) as caught:
        plan(runs)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "sweep").exists()


def test_the_directory_of_a_run_is_refused_as_folder_of_a_sweep(plan, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="directory of one run"):
        plan()


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "def sweep" in (ROOT / "configs" / f"{name}.py").read_text()]
)
@pytest.mark.parametrize("variant", ["", ":debug"])
def test_every_sweep_of_the_configs_can_be_planned(tmp_path, monkeypatch, name, variant):
    monkeypatch.chdir(ROOT)
    jobs = make_plan(f"configs/{name}.py{variant}", {}, tmp_path / "sweep", resolve=resolution.resolve)
    assert len(jobs) > 1 and len({job.workdir for job in jobs}) == len(jobs)


def test_the_resolving_process_answers_like_the_function(plan, tmp_path):
    begin(plan()[0])
    (tmp_path / "sweep" / "bad").mkdir()
    (tmp_path / "sweep" / "bad" / "config.json").write_text("{}")
    request = {
        "runs": [
            {"config": str(tmp_path / "own.py"), "fields": ["--config.optim.lr=0.5"]},
            {"config": str(tmp_path / "own.py"), "fields": ["--config.optim.lr=-1"]},
        ],
        "stored": sorted(map(str, pathlib.Path(tmp_path / "sweep").iterdir())),
        "data_dir": None,
    }
    answer = resolution.ask(request)
    assert answer == resolution.resolve(request)
    assert answer["runs"][0]["smaller_is_better"] is False
    assert answer["runs"][0]["fields"]["optim.lr"] == 0.5 and "optim.lr" in answer["runs"][1]["error"]
    assert list(answer["stored"].values()).count(None) == 1


def test_a_copy_of_a_run_does_not_replace_it(plan):
    job = plan()[0]
    begin(job)
    shutil.copytree(job.workdir, job.workdir.with_name("a copy"))
    assert plan()[0].workdir == job.workdir
    shutil.rmtree(job.workdir)
    assert plan()[0].workdir.name == "a copy"


def test_runs_with_members_are_refused(plan):
    with pytest.raises(
        UserError, match=r"config.members=2: a sweep needs runs with one member; set 1 and sweep over seed.init"
    ):
        plan(members=2)
