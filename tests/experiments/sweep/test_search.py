"""Searches of fake runs, with kills and with several launchers."""

import contextlib
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from errors import UserError
from experiments.sweep import search as searching
from experiments.sweep.launch import Search
from tests.experiments.sweep import driver
from tests.experiments.sweep.test_local import HEADER, ROOT, Sweep, alive, read, wait_for

pytestmark = pytest.mark.usefixtures("in_haste")
OPTIMUM = {"lr": 0.01, "ema": 0.5}
SPACE = '{"optim.lr": sweeps.log_uniform(1e-4, 1), "optim.ema": sweeps.uniform(0, 0.99)}'
SEEDS = '{"seed.init": sweeps.integers(0, 99)}'


class Searched(Sweep):
    """A search of fake runs in a folder."""

    def define(self, runs: str) -> None:
        self.file.write_text(HEADER.replace("sweep()", "search()") + runs + "\n")

    def behave(self, seconds: float = 0.01, **behaviour) -> None:
        """Set what runs do by seed. The other runs need `seconds` per step."""
        slow = {f"_{seed}": {"sleep": seconds} for seed in range(100)}
        super().behave(**(slow | behaviour | {"optimum": OPTIMUM}))

    def start(self, jobs: int = 1, trials: int = 2, **options) -> subprocess.Popen:
        """Start a separate launcher, to kill it or to run two of them."""
        command = [sys.executable, "-m", "tests.experiments.sweep.driver", self.file, self.workdir, jobs, trials]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes)

    def finish(self, code: int = 0, jobs: int = 2, trials: int = 2, **changes) -> str:
        search = Search(str(self.file), {}, self.workdir, trials, 0, jobs, None, driver.FAKE, driver.resolve)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert searching.launch(dataclasses.replace(search, **changes)) == code, output.getvalue()
        return output.getvalue()

    def records(self) -> list[dict]:
        return json.loads((self.workdir / "sweep.json").read_text())["runs"]

    def said(self) -> list[tuple]:
        """Return the results of the trials in their order."""
        return [(own["run"], own["state"], own["note"]) for own in self.records()]

    def all_starts(self) -> list[int]:
        return [len(self.starts(name)) for name in self.places()]


def end(process: subprocess.Popen, code: int = 0) -> str:
    output, errors = process.communicate(timeout=90)
    assert process.returncode == code, output + errors
    assert "Traceback" not in errors
    return output + errors


def test_trials_are_runs_and_a_second_launch_starts_nothing(tmp_path):
    search = Searched(tmp_path, SPACE)
    output = search.finish(jobs=3, trials=4)
    records = search.records()
    assert len(records) == 4 and {own["state"] for own in records} == {"done"}
    assert all(own["directory"].startswith(f"{own['run']}-") for own in records)
    assert re.fullmatch(r"lr=[\d.e-]+,ema=[\d.]+", records[0]["run"])
    best = max(records, key=lambda own: own["last"])
    *_, named, command = output.splitlines()
    assert named == f"best: {best['run']}: val/mIoU {best['last']:.4f}"
    assert command.endswith(f"main.py --mode=evaluate --workdir={search.workdir / best['directory']}")
    again = search.finish(trials=4)
    assert "running" not in again and again.splitlines()[-2:] == [named, command]
    assert search.all_starts() == [1] * 4
    search.finish(trials=5)
    assert search.all_starts() == [1] * 5


@pytest.mark.slow
def test_a_search_finds_the_optimum_and_prunes_trials(tmp_path):
    search = Searched(tmp_path, SPACE)
    search.behave(seconds=0.1)
    search.finish(jobs=4, trials=30)
    records = search.records()
    scores = [own["last"] for own in records if own["state"] == "done"]
    assert max(scores) > 0.98, "within a factor of two of lr, and 0.14 of ema"
    pruned = [own for own in records if own["state"] == "pruned"]
    assert len(pruned) > 3 and len(pruned) + len(scores) == 30
    assert all(own["step"] < 12 and own["note"] in ("at step 4", "at step 8") for own in pruned)


def test_a_pruned_run_saves_and_stays_pruned(tmp_path):
    search = Searched(tmp_path, SPACE)
    search.finish(trials=5, jobs=5)
    search.define(SPACE.replace("(1e-4, 1)", "(9, 10)"))  # the worst values
    search.behave(seconds=0.1)
    output = search.finish(trials=6)
    pruned = search.records()[-1]
    assert pruned["state"] == "pruned" and f"{pruned['run']}: pruned: at step 4" in output
    saved = (search.workdir / pruned["directory"] / "checkpoints" / "last").iterdir()
    assert 4 <= max(int(path.name) for path in saved) == pruned["step"] < 12
    assert "running" not in search.finish(trials=6) and search.records()[-1] == pruned


@pytest.mark.slow  # test_local.py kills the launcher of a sweep again and again
def test_repeated_kills_do_not_change_the_results(tmp_path):
    calm, search = Searched(tmp_path / "calm", SPACE), Searched(tmp_path / "killed", SPACE)
    calm.finish(jobs=1, trials=5)
    search.behave(seconds=0.06)
    for count in (0, 2):
        process = search.start(jobs=1, trials=5)
        wait_for(lambda: sum(search.all_starts()) > count or process.poll() is not None)  # noqa: B023 - called at once
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2 * count)
        process.kill()
        process.communicate()
    search.behave()
    search.finish(jobs=1, trials=5)
    assert search.said() == calm.said() and len(calm.said()) == 5, "the same trials and no others"
    ends = calm.states()
    assert {name: own for name, own in search.states().items() if name in ends} == ends
    assert sum(search.all_starts()) > 5, "one run was resumed"


def test_ctrl_c_lets_the_runs_save_and_the_same_command_resumes_them(tmp_path):
    search = Searched(tmp_path, SPACE)
    search.behave(seconds=0.15)
    process = search.start(jobs=2)
    wait_for(lambda: [p for p in search.places().values() if "step" in read(p / "metrics.jsonl")][1:])
    process.send_signal(signal.SIGINT)
    assert "start the same command again" in end(process, 75)
    assert [own["state"] for own in search.records()] == ["stopped"] * 2
    search.behave()
    search.finish()
    assert search.all_starts() == [2, 2]


def test_a_result_missing_in_the_study_is_reported(tmp_path):
    search = Searched(tmp_path, SPACE)
    search.finish()
    (search.workdir / "study.db").unlink()
    search.finish()
    assert search.all_starts() == [1, 1] and [own["state"] for own in search.records()] == ["done"] * 2


def test_two_launchers_share_the_trials_of_one_study(tmp_path):
    search = Searched(tmp_path, SEEDS)
    search.behave(seconds=0.05)
    outputs = [end(process) for process in [search.start(trials=6), search.start(trials=6)]]
    assert len(search.places()) == 6 and search.all_starts() == [1] * 6
    carried = [output.count(": running") for output in outputs]
    assert sum(carried) == 6 and min(carried) >= 1, "each launcher has trained some"
    assert all(len(re.findall(r"^seed=\d+ +done", output, re.M)) == 6 for output in outputs), "each launcher shows all"


def test_another_launcher_takes_over_the_trial_of_a_killed_one(tmp_path):
    search = Searched(tmp_path, SEEDS)
    search.behave(seconds=60)
    first = search.start()
    wait_for(lambda: search.all_starts() == [1])
    search.behave()
    second = search.start()
    wait_for(lambda: [place for place in search.places().values() if (place / "checkpoints/last/12").exists()])
    time.sleep(1)
    assert search.all_starts() == [1, 1] and second.poll() is None, "it waits for the other launcher"
    first.kill()
    first.communicate()
    end(second)
    assert sorted(search.all_starts()) == [1, 2]
    assert not any(alive(pid) for name in search.places() for pid in search.starts(name))


def test_a_failed_trial_is_explained_and_repeated_by_the_next_search(tmp_path):
    search = Searched(tmp_path, '{"seed.init": sweeps.integers(0, 2)}')
    search.behave(_1={"fail": 6})
    output = search.finish(code=1, trials=9)
    assert "seed=1: failed: error: the loss of step 6 is nan" in output
    assert "no more trials: the 3 trials have all values of the space" in output
    assert sorted(own["state"] for own in search.records()) == ["done", "done", "failed"]
    search.behave()
    search.finish(trials=3)
    assert sorted(search.all_starts()) == [1, 1, 2] and [own["state"] for own in search.records()] == ["done"] * 3


def test_a_changed_base_config_starts_a_new_study_and_overwrites_nothing(tmp_path):
    search = Searched(tmp_path, SEEDS)
    search.finish(trials=1)
    before = {path: path.stat().st_mtime_ns for place in search.places().values() for path in place.rglob("*")}
    search.finish(trials=1, overrides={"optim.warmup_steps": "3"})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [own["run"] for own in search.records()] == [search.records()[0]["run"]] * 2


def test_an_invalid_combination_is_a_failed_trial(tmp_path):
    def resolve(request: dict) -> dict:
        answer = driver.resolve(request)
        for own in answer["runs"]:
            if own["fields"]["optim.lr"] > 0.01 and 0 < own["fields"]["optim.ema"] < 0.99:  # not at the ends
                own["error"] = "config.optim.lr is too large for config.optim.ema"
        return answer

    search = Searched(tmp_path, SPACE)
    output = search.finish(code=1, jobs=3, trials=3, resolve=resolve)
    assert re.search(r"^(lr=\S+): failed: run \1: config.optim.lr is too large", output, re.M)
    assert re.search(r"^lr=\S+ +done +12/12", output, re.M)


def test_a_sweep_does_not_start_in_the_folder_of_a_running_search(tmp_path):
    search = Searched(tmp_path, SEEDS)
    search.behave(seconds=60)
    process = search.start()
    wait_for(lambda: search.all_starts() == [1])
    (tmp_path / "sweep.py").write_text(HEADER + "sweeps.seeds(1)\n")
    command = [sys.executable, "-m", "tests.experiments.sweep.driver", tmp_path / "sweep.py", search.workdir]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "another launcher works here" in done.stderr
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("[1]", ["configs.py", "search() returns [1]", "dict"]),
        ("{}", ["configs.py", "no field"]),
        ('{"train.steps": sweeps.integers(1, 2)}', ["no field", "command line"]),
        ('{"optim.lr": [0.1]}', ["configs.py: search()", "optim.lr=[0.1]", "log_uniform"]),
        ('{"optim.lr": sweeps.uniform(1, 0)}', ["configs.py", "uniform(1, 0)"]),
        ('{"optim.lr": sweeps.choice(["fast"])}', ["lr=fast", "optim.lr"]),
        ('{"optim.lrr": sweeps.uniform(0, 1)}', ["lrr", "Did you mean lr"]),
        ('{"seed.init": sweeps.uniform(0.5, 1)}', ["config.seed.init=0.5"]),
        ('{"optim.name": sweeps.choice(["sgd", "adam", "sgd"])}', ["optim.name", "sgd twice"]),
        ('{"optim.lr": sweeps.uniform(0, 1), "wandb.name": sweeps.choice(["a", "b"])}', ["the runs", "same config"]),
    ],
)
def test_invalid_space_raises_a_one_line_error_before_any_start(tmp_path, space, words):
    search = Searched(tmp_path, space)
    with pytest.raises(UserError) as caught:
        search.finish(overrides={"train.steps": "8"})
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line
    assert not search.places() and not (search.workdir / "study.db").exists()
