"""A run directory belongs to one run, and keeps its W&B id when fields of the config change."""

import json
import os

import pytest

from configs import ssd_shapes, unet_shapes
from errors import UserError
from experiments.run import config_file
from experiments.run import directory as run_directory
from experiments.run.directory import hash_config


@pytest.fixture
def config():
    return unet_shapes.get_config("debug")


def claim(workdir, config) -> str:
    with run_directory.claim(workdir, config):
        return (workdir / "wandb_id").read_text().strip()


def forget(workdir, *names: str) -> dict:
    """Rewrite config.json as code without these fields would have written it."""
    stored = json.loads((workdir / "config.json").read_text())
    for name in names:
        *sections, field = name.split(".")
        section = stored
        for key in sections:
            section = section[key]
        del section[field]
    (workdir / "config.json").write_text(json.dumps(stored))
    return stored


def test_the_wandb_id_of_older_code_is_stable():
    # A golden value. Another id for the same config would start a second W&B run for every resumed older run.
    assert hash_config('{"seed": 0, "model": {"name": "unet"}}', "first") == "7e44e006de9cacee"
    assert hash_config('{"model":{"name":"unet"},\n "seed":0}\n', "first") == "7e44e006de9cacee"
    ids = {hash_config(config, name) for config in ('{"seed": 0}', '{"seed": 1}') for name in ("a", "b")}
    assert len(ids) == 4 and all(len(id) == 16 and int(id, 16) >= 0 for id in ids)


def test_each_run_has_its_own_wandb_id_from_its_first_start(tmp_path, config):
    first = claim(tmp_path / "a" / "run", config)
    assert len(first) == 16 and int(first, 16) >= 0
    assert claim(tmp_path / "a" / "run", config) == first
    assert claim(tmp_path / "b" / "run", config) != first, "the same command in another place is another run"
    (tmp_path / "a" / "run").rename(tmp_path / "a" / "renamed")
    assert claim(tmp_path / "a" / "renamed", config) == first


def test_a_run_of_a_wandb_agent_has_the_agents_id(tmp_path, config, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    assert claim(tmp_path / "alone", config) != "abc123", "no agent: two runs may see this variable"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert claim(tmp_path / "a", config) == "abc123"
    monkeypatch.setenv("WANDB_RUN_ID", "def456")
    assert claim(tmp_path / "a", config) == "abc123"


def test_a_run_of_older_code_keeps_the_id_of_its_config(tmp_path, config):
    claim(tmp_path, config)
    (tmp_path / "wandb_id").unlink()
    stored = forget(tmp_path, "optim.partition", "data.augment.mosaic", "wandb.group")
    assert claim(tmp_path, config) == hash_config(json.dumps(stored), tmp_path.name)
    assert json.loads((tmp_path / "config.json").read_text()) == stored


def test_fields_newer_than_the_run_have_their_defaults(tmp_path, config):
    claim(tmp_path, config)
    forget(tmp_path, "optim.partition", "data.augment.mosaic", "eval")
    config_file.check_same(tmp_path, config.copy_and_resolve_references(), sections=("optim", "data"))
    config.data.augment.mosaic = 0.5
    with pytest.raises(UserError, match=r"data\.augment\.mosaic is 0\.0 there, 0\.5 now"):
        config_file.check_same(tmp_path, config, sections=("data",))


def test_required_fields_of_model_and_task_are_not_filled_in(tmp_path, config):
    claim(tmp_path, config)
    forget(tmp_path, "model.dtype")
    assert "dtype" not in config_file.read_config(tmp_path).model
    forget(tmp_path, "task.name")
    with pytest.raises(UserError, match="config.task.name"):
        config_file.read_config(tmp_path)


def test_an_experiment_may_omit_model_fields_with_defaults(tmp_path):
    config = ssd_shapes.get_config("debug")
    assert "steps" not in config.model
    claim(tmp_path, config)
    assert config_file.changes(tmp_path, config) == {}
    claim(tmp_path, config)  # and resumes
    config.model.steps = (8.0, 16.0, 32.0)
    with pytest.raises(UserError, match=r"model\.steps is \[\] there, \[8\.0"):
        config_file.check_same(tmp_path, config)


def test_changes_have_names_and_a_file_suffix(tmp_path, config):
    claim(tmp_path, config)
    assert config_file.changes(tmp_path, config) == {} and config_file.name_changes({}) == ""
    config.eval.scales = (1.0, 0.5)
    config.eval.batch_size = 2
    changed = config_file.changes(tmp_path, config)
    assert changed == {"eval.batch_size": 2, "eval.scales": [1.0, 0.5]}
    assert len(config_file.name_changes(changed)) == 7
    assert config_file.name_changes(changed) != config_file.name_changes({"eval.batch_size": 2})


def test_fields_without_effect_on_results_may_change_and_are_stored(tmp_path, config):
    claim(tmp_path, config)
    stored = json.loads((tmp_path / "config.json").read_text())
    config.train.max_minutes = 90
    config.wandb.update(mode="offline", group="others", tags=("a", "b"))
    assert config_file.changes(tmp_path, config) == {}
    run_directory.check_resumable(tmp_path, config)
    claim(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == stored, "later checks may still refuse the resume"
    run_directory.adopt(tmp_path, config)
    stored["train"]["max_minutes"] = 90
    stored["wandb"] |= {"mode": "offline", "group": "others", "tags": ["a", "b"]}
    assert json.loads((tmp_path / "config.json").read_text()) == stored


def test_fields_that_may_change_exist(config):
    assert set(config_file.RESUMABLE) <= config_file.flatten(config).keys()
    wandb = {f"wandb.{field}" for field in config.wandb}
    assert wandb <= set(config_file.FREE)


def test_a_config_that_differs_from_the_checkpoints_is_refused(tmp_path, config):
    trained = json.loads(config_file.resolve(config))
    assert config_file.compare_trained(tmp_path, trained, 5, config) == {}
    config.train.log_every = 7
    config.data.folder.root = "elsewhere"
    changed = config_file.compare_trained(tmp_path, trained, 5, config)
    assert changed == {"data.folder.root": ["", "elsewhere"], "train.log_every": [trained["train"]["log_every"], 7]}
    config.optim.lr = 0.123
    with pytest.raises(
        UserError, match=r"config\.json was changed: optim\.lr was .* when step 5 was saved, and is 0\.123 now"
    ):
        config_file.compare_trained(tmp_path, trained, 5, config)


def test_a_lost_or_changed_wandb_id_is_restored_from_the_checkpoint(tmp_path, capsys):
    assert run_directory.keep_wandb_id(tmp_path, None) == ""
    for damage in (None, "0123456789abcdee", "\udcff"):
        if damage is not None:
            (tmp_path / "wandb_id").write_text(damage, errors="surrogateescape")
        assert run_directory.keep_wandb_id(tmp_path, "0123456789abcdef") == "0123456789abcdef"
        assert (tmp_path / "wandb_id").read_text() == "0123456789abcdef\n"
        assert "wandb_id was lost or changed" in capsys.readouterr().err
    assert run_directory.keep_wandb_id(tmp_path, "0123456789abcdef") == "0123456789abcdef"
    assert capsys.readouterr().err == ""


def test_a_second_job_in_the_same_directory_is_refused(tmp_path, config):
    with (
        run_directory.claim(tmp_path, config),
        pytest.raises(UserError, match="another process is training in"),
        run_directory.claim(tmp_path, config),
    ):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_not_a_file_is_refused_at_once(tmp_path, config, make):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is not a file; move it away"):
        claim(tmp_path, config)


def test_a_config_that_a_resume_could_not_read_is_not_stored(tmp_path, config):
    config.wandb.name = "x" * (2**20)
    config.wandb.unlock()
    config.wandb.deep = json.loads("[" * 60 + "]" * 60)
    with pytest.raises(UserError, match="the config has lists or objects nested more than 50 deep"):
        claim(tmp_path, config)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_a_run_without_its_config_is_refused_and_unchanged(tmp_path, config, name):
    (tmp_path / name).write_text("")
    for use in (run_directory.check_resumable, claim):
        with pytest.raises(UserError, match="without its config.json"):
            use(tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == [name]
