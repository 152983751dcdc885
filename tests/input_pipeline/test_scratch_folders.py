"""A preparation removes only the scratch folders of killed preparations."""

import os
import signal
import subprocess
import sys

from input_pipeline import scratch_folders

WORK = """
import pathlib, sys, time
from input_pipeline import scratch_folders
with scratch_folders.make(pathlib.Path(sys.argv[1]), "mine") as scratch:
    (scratch / "half").mkdir()
    print(scratch, flush=True)
    time.sleep(600)
"""


def start(place):
    process = subprocess.Popen([sys.executable, "-c", WORK, str(place)], stdout=subprocess.PIPE, text=True)
    return process, place / process.stdout.readline().strip()


def test_only_folders_of_killed_preparations_are_removed(tmp_path):
    (killed, dead), (running, live) = start(tmp_path), start(tmp_path)
    try:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert dead.is_dir() and scratch_folders.is_running(dead) is False and scratch_folders.is_running(live)
        others = [tmp_path / name for name in (".mine-backup", ".other-12345678", "mine")]
        for folder in others:
            folder.mkdir()
        scratch_folders.clean(tmp_path)
        assert not dead.exists() and (live / "half").is_dir() and all(folder.is_dir() for folder in others)
        with scratch_folders.make(tmp_path, "mine") as own:
            scratch_folders.clean(tmp_path)
            assert own.is_dir(), "this process is using it"
        assert not own.exists()
    finally:
        running.kill()
        running.wait()


def test_folder_removed_by_another_process_is_created_again(tmp_path, monkeypatch):
    lock, cleaned = scratch_folders.fcntl.flock, []

    def clean_first(file, how):
        if not cleaned:
            cleaned.extend(tmp_path.iterdir())
            scratch_folders.shutil.rmtree(cleaned[0])
        lock(file, how)

    monkeypatch.setattr(scratch_folders.fcntl, "flock", clean_first)
    with scratch_folders.make(tmp_path, "mine") as scratch:
        assert scratch.is_dir() and scratch not in cleaned
