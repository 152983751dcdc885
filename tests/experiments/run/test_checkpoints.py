import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from experiments.run import checkpoints
from experiments.run.checkpoints import Checkpoints, flatten
from experiments.run.checksums import digest, sum_parts

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


def restore(manager: Checkpoints) -> tuple:
    found = manager.restore(make_state(0))
    assert found is not None
    return found


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def equal(left, right) -> bool:
    return digest(flatten(left)) == digest(flatten(right))


def test_a_restored_checkpoint_is_bit_identical(tmp_path):
    save(tmp_path, [3, 6, 9])
    state, notes = restore(Checkpoints(tmp_path, 2))
    assert equal(state, make_state(9))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(0))
    assert notes["loader"] == 9
    assert Checkpoints(tmp_path, 2).steps() == [6, 9]


def test_damage_to_a_file_that_no_resume_reads_is_harmless(tmp_path):
    save(tmp_path, [3, 6])
    place = tmp_path / "checkpoints" / "last" / "6" / "_CHECKPOINT_METADATA"
    place.write_text('{"unknown": 1, "custom_metadata": {}}')
    assert equal(Checkpoints(tmp_path, 2).restore(make_state(0))[0], make_state(6))


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/damaged"])
def test_a_file_in_place_of_a_folder_is_reported_in_one_line(tmp_path, place):
    save(tmp_path, [3, 6])
    shutil.rmtree(tmp_path / "checkpoints" / "last" / "6" / "state")
    if place == "checkpoints":
        shutil.rmtree(tmp_path / place)
    (tmp_path / place).write_text("")
    with pytest.raises(UserError, match=r"cannot be (used|moved)"):
        Checkpoints(tmp_path, 2).restore(make_state(0))


def test_restore_without_a_checkpoint_returns_none(tmp_path):
    assert Checkpoints(tmp_path, 2).restore(make_state(0)) is None


def test_saved_arrays_do_not_follow_donated_buffers(tmp_path):
    """The writer's thread must hold copies, because the next step reuses the memory at once."""
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


def edit_notes(folder: pathlib.Path, old: str, new: str) -> None:
    place = folder / "notes" / "metadata"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_bit(largest_file(folder)),
        lambda folder: os.truncate(largest_file(folder), 100),
        lambda folder: largest_file(folder).unlink(),
        lambda folder: (folder / "state" / "_METADATA").write_text("{"),
        lambda folder: (folder / "notes" / "metadata").write_text(""),
        lambda folder: edit_notes(folder, '"loader": 6', '"loader": 7'),
        lambda folder: edit_notes(folder, '"sha256"', '"sha257"'),
        lambda folder: folder.rename(folder.with_name("9")),
        lambda folder: shutil.rmtree(folder / "state"),
    ],
    ids=[
        "bit flipped",
        "truncated",
        "missing",
        "metadata cut",
        "notes empty",
        "notes changed",
        "a key lost",
        "renamed",
        "no state",
    ],
)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(tmp_path, capfd, damage):
    save(tmp_path, [3, 6])
    damage(tmp_path / "checkpoints" / "last" / "6")
    manager = Checkpoints(tmp_path, 2)
    state, notes = restore(manager)
    assert equal(state, make_state(3)) and notes["loader"] == 3
    warning = capfd.readouterr().err
    assert "warning:" in warning and "last/" in warning and "damaged" in warning
    manager.save(6, make_state(6), {"loader": 6})
    manager.close()
    assert equal(Checkpoints(tmp_path, 2).restore(make_state(0))[0], make_state(6))


def test_every_flipped_bit_of_the_notes_is_detected(tmp_path):
    """The notes control a resume, and the checksum of the arrays does not cover them."""
    save(tmp_path, [6])
    place = tmp_path / "checkpoints" / "last" / "6" / "notes" / "metadata"
    content, reader = place.read_bytes(), Checkpoints(tmp_path, read_only=True)
    assert reader.read_notes()["loader"] == 6
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        place.write_bytes(damaged)
        assert reader.read_notes() in (None, {**reader_notes(content)}), position


def reader_notes(content: bytes) -> dict:
    """Return the notes in a file. A flipped bit may hit white space and change nothing."""
    return json.loads(content)["notes"]


def test_older_notes_without_a_checksum_are_read(tmp_path):
    save(tmp_path, [6])
    place = tmp_path / "checkpoints" / "last" / "6" / "notes" / "metadata"
    place.write_text(json.dumps(json.loads(place.read_text())["notes"]))
    assert equal(Checkpoints(tmp_path, 2).restore(make_state(0))[0], make_state(6))
    edit_notes(place.parents[1], '"loader": 6', '"loader": 7')
    with pytest.raises(UserError, match="notes belong to step 6 and batch 7"):
        Checkpoints(tmp_path, 2).restore(make_state(0))


def test_a_first_save_that_cannot_be_read_back_is_an_error_at_once(tmp_path):
    place = tmp_path / "a[b]"  # Orbax takes the path as a glob pattern
    manager = Checkpoints(place, 2)
    with pytest.raises(UserError, match="last/3 was written but cannot be read back"):
        manager.save(3, make_state(3), {"loader": 3})
    manager.close()


def test_an_error_names_the_other_checkpoint_only_if_it_is_usable(tmp_path, capfd):
    manager = Checkpoints(tmp_path, 1)
    manager.save(3, make_state(3), {})
    manager.save(3, make_state(3), {}, kind="best")
    manager.close()
    os.truncate(largest_file(tmp_path / "checkpoints" / "best" / "3"), 10)
    with pytest.raises(UserError, match="use --checkpoint=last, which is usable"):
        Checkpoints(tmp_path, read_only=True).read("best")
    os.truncate(largest_file(tmp_path / "checkpoints" / "last" / "3"), 10)
    with pytest.raises(UserError, match=r"contains no usable checkpoint \(.*\); restore one from a backup"):
        Checkpoints(tmp_path, read_only=True).read("best")
    assert capfd.readouterr().err == "", "one line is enough"


def test_only_damaged_checkpoints_are_an_error_not_a_new_start(tmp_path):
    save(tmp_path, [3])
    os.truncate(largest_file(tmp_path / "checkpoints" / "last" / "3"), 10)
    for _ in range(2):  # the second start must not find an empty folder and start from scratch
        with pytest.raises(UserError, match="none of the checkpoints"):
            Checkpoints(tmp_path, 2).restore(make_state(0))


def test_a_checkpoint_of_another_model_is_refused_and_not_moved(tmp_path):
    save(tmp_path, [3])
    other = make_state(0) | {"params": {"stem/kernel": jnp.zeros((64, 301))}}
    with pytest.raises(UserError, match=r"another model.*stem/kernel"):
        Checkpoints(tmp_path, 2).restore(other)
    assert Checkpoints(tmp_path, 2).steps() == [3]


def test_the_best_checkpoint_is_kept_next_to_the_newest(tmp_path):
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
    """A limit on the file size stands for a full disk. Every write beyond it fails in the same place."""
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


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, [3])
    manager = Checkpoints(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(
        UserError, match=r"checkpoint 6 could not be written \(it needs 0.1 MiB and the disk has 0.0 MiB left\)"
    ):
        manager.save(6, make_state(6), {})
    manager.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "last").iterdir()) == ["3"]


def test_the_best_checkpoint_is_complete_before_the_newest_of_its_step(tmp_path):
    manager = Checkpoints(tmp_path, 1)
    for step in (1, 2, 3):
        manager.save(step, make_state(step), {}, kind="best")
        manager.save(step, make_state(step), {})
        assert manager.steps("best") == [step], "the best is complete before the newest begins"
    manager.close()


def test_a_reader_finds_the_checkpoint_that_replaces_the_one_it_listed(tmp_path):
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


def test_the_command_prints_one_line_about_a_folder_without_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["checkpoints", str(tmp_path / "no")])
    with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
        checkpoints.main()


def test_the_command_prints_the_config(tmp_path, capsys, monkeypatch):
    manager = Checkpoints(tmp_path, 1)
    manager.save(3, make_state(3), {"config": {"seed": {"init": 0}}})
    manager.close()
    monkeypatch.setattr("sys.argv", ["checkpoints", str(tmp_path), "--config"])
    checkpoints.main()
    assert json.loads(capsys.readouterr().out) == {"seed": {"init": 0}}


def test_the_digest_depends_on_names_dtypes_and_shapes():
    base = {"a": np.zeros(4, np.float32)}
    others = [{"b": np.zeros(4, np.float32)}, {"a": np.zeros(4, np.int32)}, {"a": np.zeros((2, 2), np.float32)}]
    assert len({digest(arrays) for arrays in [base, *others]}) == 4


def test_the_sums_of_parts_equal_those_of_the_whole_and_depend_on_each_bit():
    rng = np.random.default_rng(0)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.int32, jnp.bool_):
        array = np.asarray(jnp.asarray(rng.integers(0, 2, size=(8, 6, 3))).astype(dtype))
        whole = sum_parts({"a": array})
        assert sum_parts({"a": jnp.asarray(array)}) == whole
        bits = array.copy().view(np.uint8).reshape(-1)
        for position in rng.choice(bits.size, 20, replace=False):
            bits[position] ^= 1
            assert sum_parts({"a": bits.view(array.dtype).reshape(array.shape)}) != whole
            bits[position] ^= 1
        assert sum_parts({"a": array[::-1].copy()}) != whole
    assert sum_parts({"step": jnp.int32(3)}) != sum_parts({"step": jnp.int32(4)})
