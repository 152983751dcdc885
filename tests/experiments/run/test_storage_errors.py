"""A checkpoint that cannot be written or read gives one line, however many errors the libraries raise."""

import asyncio
import gc
import logging
import pathlib
import subprocess
import sys

import pytest

from experiments.run.storage_errors import explain, silence_repetitions

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
import pathlib, resource, shutil, signal, sys
import jax.numpy as jnp
import numpy as np
from errors import UserError
from experiments.run.checkpoints import Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
whole, copies = folder / "whole", map(folder.joinpath, map(str, range(100)))  # one each: failed writers may still run
state = {f"w{i}": jnp.asarray(np.random.default_rng(i).normal(size=(64, 200)), jnp.float32) for i in range(20)}
manager = Checkpoints(whole)
manager.save(1, state, {})
manager.close()

def copy():
    place = next(copies)
    shutil.copytree(whole, place)
    return place

def attempt(what, act, place):
    try:
        act(place)
        print("nothing wrong:", what)
    except UserError as error:
        print("error:", error)

def save(place):
    manager = Checkpoints(place, 2)
    manager.save(2, state, {})
    manager.close()

unlimited = resource.RLIM_INFINITY
for size in map(int, sys.argv[2].split()):  # a disk that fills up at several moments
    place = copy()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited))
    attempt(f"{size} bytes", save, place)
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))

files = sorted(path.relative_to(whole) for path in (whole / "checkpoints/last/1/state").rglob("*") if path.is_file())
largest = max(files, key=lambda file: (whole / file).stat().st_size)
damages = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "garbage": lambda path: path.write_bytes(bytes(range(256))),
}
for file in [largest, *(file for file in files if file.name == "manifest.ocdbt" and file.parent.name == "state")]:
    for name, damage in damages.items():
        place = copy()
        damage(place / file)
        attempt(f"{name} {file}", lambda place: Checkpoints(place).restore(state), place)
"""


def test_a_full_disk_or_a_damaged_file_gives_exactly_one_line(tmp_path):
    sizes = [0, 300, 2_000, 50_000, 100_000, 200_000]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), " ".join(map(str, sizes))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(sizes) + 8 and all(line.startswith("error: ") for line in lines), done.stdout
    full, damaged = lines[: len(sizes)], lines[len(sizes) :]
    assert all("File too large" in line and "the earlier checkpoints [1] are complete" in line for line in full)
    assert all("one of its files is" in line for line in damaged)


def raise_in_a_destructor():
    class Own:
        def __del__(self):
            raise ValueError("an error of ours")

    Own()
    gc.collect()


async def forget_a_task():
    async def fail():
        raise ValueError("an error of ours")

    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0.01)
    del task
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_errors_of_other_code_are_still_printed(monkeypatch, caplog):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(str(unraisable.exc_value)))
    silence_repetitions()
    raise_in_a_destructor()
    assert heard == ["an error of ours"]
    with caplog.at_level(logging.ERROR):
        asyncio.run(forget_a_task())
    assert "never retrieved" in caplog.text


def test_the_cause_is_named():
    assert (
        explain(ValueError("OUT_OF_RANGE: Failed to write 9 bytes [os_error_code='28']")) == "No space left on device"
    )
    wrapped = RuntimeError("Encountered error\nwith details")
    wrapped.__cause__ = ValueError("NOT_FOUND: no such file")
    assert explain(wrapped) == "one of its files is missing"
    assert explain(RuntimeError("\nEncountered error\nwith details")) == "Encountered error"
    assert explain(KeyError()) == "KeyError"
