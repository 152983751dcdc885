"""evidence.json records the origin of a run's figures, one entry per start."""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from experiments.run.evidence import PACKAGES, Evidence, commit, environment, flops

START = dict(
    seeds={"init": 3, "data": 4},
    parameters=6504227,
    data={"train": "ab12", "validation": "cd34"},
    best={"score": "val/loss", "smaller_is_better": True},
    plans=[{"from": 0, "steps": 100, "exact": True}],
    changed={"train.log_every": [20, 10]},
)
MEASURED = dict(flops_per_step=1e9, compilations=2, images_per_second=120.5, input_wait=0.125)
MEASURED |= dict(devices_of_run=2, runs_on_devices=1)


def sessions(workdir):
    return json.loads((workdir / "evidence.json").read_text())["sessions"]


def test_a_session_is_stored_at_its_start_and_keeps_its_measurements(tmp_path):
    evidence = Evidence(tmp_path, step=0, **START)
    (session,) = sessions(tmp_path)
    assert (
        session["first_step"] == 0 and session["seeds"] == {"init": 3, "data": 4} and session["parameters"] == 6504227
    )
    assert session["data"] == {"train": "ab12", "validation": "cd34"}
    assert {name: session[name] for name in ("best", "plans", "changed")} == {
        name: START[name] for name in ("best", "plans", "changed")
    }
    evidence.update(step=50, **MEASURED)
    evidence.update(step=100, **MEASURED | {"images_per_second": np.float64("nan")})
    (session,) = sessions(tmp_path)
    assert session["last_step"] == 100 and session["compilations"] == 2
    assert (session["devices_of_run"], session["runs_on_devices"]) == (2, 1)
    assert session["train/input_wait"] == 0.125 and session["images_per_second"] is None


def test_a_resumed_run_adds_its_session(tmp_path):
    Evidence(tmp_path, step=0, **START).update(step=50, **MEASURED)
    first = sessions(tmp_path)
    Evidence(tmp_path, step=40, **START).update(step=90, **MEASURED)
    both = sessions(tmp_path)
    assert both[:1] == first and [session["first_step"] for session in both] == [0, 40]


def test_a_changed_digit_is_an_error(tmp_path):
    Evidence(tmp_path, step=0, **START)
    path = tmp_path / "evidence.json"
    path.write_text(path.read_text().replace("6504227", "6504226"))
    with pytest.raises(UserError, match=r"evidence\.json was changed since it was written"):
        Evidence(tmp_path, step=0, **START)
    path.write_text(path.read_text().replace("sha256", "sha257"))
    with pytest.raises(UserError, match=r"evidence\.json was changed since it was written"):
        Evidence(tmp_path, step=0, **START)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"sessions": [1]}', '{"sessions": [{"git": []}]}'])
def test_a_damaged_file_is_refused_in_one_line_and_unchanged(tmp_path, damage):
    (tmp_path / "evidence.json").write_text(damage)
    with pytest.raises(UserError, match=r"evidence\.json (is not JSON|does not (hold|contain))"):
        Evidence(tmp_path, step=0, **START)
    assert (tmp_path / "evidence.json").read_text() == damage


def test_the_environment_names_versions_and_devices():
    found = environment()
    assert found["packages"].keys() == set(PACKAGES)
    assert found["packages"]["jax"] == jax.__version__ and found["packages"]["numpy"] == np.__version__
    assert found["devices"]["count"] == len(jax.devices()) and found["devices"]["platform"] == jax.default_backend()
    json.dumps(found, allow_nan=False)


def test_the_commit_and_a_dirty_tree_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    assert commit(tmp_path / "nowhere") is None

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first", "--no-verify")
    assert commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_flops_of_a_matrix_product_are_counted():
    compiled = jax.jit(jnp.dot).lower(jnp.ones((8, 16)), jnp.ones((16, 32))).compile()
    assert flops(compiled) == 2 * 8 * 16 * 32
