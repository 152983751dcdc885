import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from experiments.run import checkpoints
from experiments.run.checkpoints import Checkpoints, digest, flatten

ROOT = pathlib.Path(__file__).parents[3]


def make_state(step: int) -> dict:
    rng = np.random.default_rng(step)
    return {
        "step": jnp.int32(step),
        "params": {"stem/kernel": jnp.asarray(rng.normal(size=(64, 300)), jnp.float32)},
        "opt_state": (jnp.int32(step), {"stem/kernel": jnp.asarray(rng.normal(size=(8, 8)), jnp.bfloat16)}),
        "ema": {},
    }


def save(workdir, steps, keep=2):
    manager = Checkpoints(workdir, keep)
    for step in steps:
        manager.save(step, make_state(step), {"loader": step})
    manager.close()


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def equal(left, right) -> bool:
    return digest(flatten(left)) == digest(flatten(right))


def test_restores_what_was_saved_bit_by_bit(tmp_path):
    save(tmp_path, [3, 6, 9])
    state, notes = Checkpoints(tmp_path, 2).restore(make_state(0))
    assert equal(state, make_state(9))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(0))
    assert notes["loader"] == 9
    assert Checkpoints(tmp_path, 2).steps() == [6, 9]


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoints(tmp_path, 2).restore(make_state(0)) is None


def test_saved_arrays_do_not_follow_donated_buffers(tmp_path):
    """The writer's thread must hold copies: the next step reuses the memory at once."""
    manager, state = Checkpoints(tmp_path, 1), {"x": jnp.zeros(1_000_000)}
    advance = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    manager.save(1, state, {})
    for _ in range(20):
        state = advance(state)
    manager.wait()
    np.testing.assert_array_equal(manager.restore(state)[0]["x"], np.zeros(1_000_000))
    manager.close()


def flip_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_bit(largest_file(folder)),
        lambda folder: os.truncate(largest_file(folder), 100),
        lambda folder: largest_file(folder).unlink(),
        lambda folder: (folder / "state" / "_METADATA").write_text("{"),
        lambda folder: (folder / "notes" / "metadata").write_text(""),
    ],
    ids=["bit flipped", "truncated", "missing", "metadata cut", "notes empty"],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, capfd, damage):
    save(tmp_path, [3, 6])
    damage(tmp_path / "checkpoints" / "last" / "6")
    manager = Checkpoints(tmp_path, 2)
    state, notes = manager.restore(make_state(0))
    assert equal(state, make_state(3)) and notes["loader"] == 3
    warning = capfd.readouterr().err
    assert "warning:" in warning and "last/6" in warning and "damaged" in warning
    manager.save(6, make_state(6), {"loader": 6})
    manager.close()
    assert equal(Checkpoints(tmp_path, 2).restore(make_state(0))[0], make_state(6))


def test_only_damaged_checkpoints_are_an_error_not_a_new_start(tmp_path):
    save(tmp_path, [3])
    os.truncate(largest_file(tmp_path / "checkpoints" / "last" / "3"), 10)
    for _ in range(2):  # the second start must not find an empty folder and begin anew
        with pytest.raises(UserError, match="none of the checkpoints"):
            Checkpoints(tmp_path, 2).restore(make_state(0))


def test_another_model_is_an_error_and_not_damage(tmp_path):
    save(tmp_path, [3])
    other = make_state(0) | {"params": {"stem/kernel": jnp.zeros((64, 301))}}
    with pytest.raises(UserError, match=r"another model.*stem/kernel"):
        Checkpoints(tmp_path, 2).restore(other)
    assert Checkpoints(tmp_path, 2).steps() == [3]


def test_the_best_checkpoint_lives_beside_the_newest(tmp_path):
    manager = Checkpoints(tmp_path, 1)
    for step in (1, 2, 3):
        manager.save(step, make_state(step), {})
        if step < 3:
            manager.save(step, make_state(step), {}, kind="best")
    manager.close()
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps("best") == [2] and reader.steps("last") == [3]
    assert digest(reader.read("best")[0]) == digest(flatten(make_state(2)))


def test_a_full_disk_leaves_the_older_checkpoint_usable(tmp_path):
    """A limit on the size of files stands for the disk that is full: every write beyond it fails in the same place."""
    save(tmp_path, [3])
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.experiments.run.test_checkpoints import Checkpoints, UserError, make_state
manager = Checkpoints({str(tmp_path)!r}, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    manager.save(6, make_state(6), {{}})
    manager.wait()
except UserError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stderr and "make room" in done.stderr
    manager = Checkpoints(tmp_path, 1)
    assert equal(manager.restore(make_state(0))[0], make_state(3))
    manager.save(6, make_state(6), {})
    manager.close()
    assert equal(Checkpoints(tmp_path, 1).restore(make_state(0))[0], make_state(6))


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, [3])
    manager = Checkpoints(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(
        UserError, match=r"checkpoint 6 could not be written \(it needs 0.1 MiB and the disk has 0.0 MiB left\)"
    ):
        manager.save(6, make_state(6), {})
    manager.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "last").iterdir()) == ["3"]


def test_a_newest_checkpoint_vouches_for_the_best_of_its_step(tmp_path):
    manager = Checkpoints(tmp_path, 1)
    for step in (1, 2, 3):
        manager.save(step, make_state(step), {}, kind="best")
        manager.save(step, make_state(step), {})
        assert manager.steps("best") == [step], "the best one is whole before the newest begins"
    manager.close()


def test_a_reader_survives_the_replacement_of_what_it_was_about_to_read(tmp_path):
    manager = Checkpoints(tmp_path, 1)
    manager.save(1, make_state(1), {})
    manager.wait()
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps() == [1]
    manager.save(2, make_state(2), {})
    manager.close()
    assert digest(reader.read()[0]) == digest(flatten(make_state(2)))


def test_the_command_prints_step_and_digest(tmp_path):
    save(tmp_path, [3, 6])
    command = [sys.executable, "-m", "experiments.run.checkpoints", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"6 {digest(flatten(make_state(6)))}\n", done.stderr
    missing = subprocess.run([*command[:-1], str(tmp_path / "no")], capture_output=True, text=True, cwd=ROOT)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error:") and len(missing.stderr.splitlines()) == 1


def test_the_digest_sees_names_dtypes_and_shapes():
    base = {"a": np.zeros(4, np.float32)}
    others = [{"b": np.zeros(4, np.float32)}, {"a": np.zeros(4, np.int32)}, {"a": np.zeros((2, 2), np.float32)}]
    assert len({checkpoints.digest(arrays) for arrays in [base, *others]}) == 4
