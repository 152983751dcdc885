"""The follower sends each line once and never delays a run."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from configs.common import get_config
from experiments.run import follower as follower_process
from experiments.run.follower import Follower
from experiments.run.metrics_file import MetricsFile

ROOT = Path(__file__).parents[3]

FAKE_WANDB = """
import json, os, time

def note(**what):
    with open(os.environ["FAKE_WANDB_LOG"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Settings:
    def __init__(self, **settings): pass

class Image:
    def __init__(self, path): self.told = {"bytes": os.path.getsize(path)}

class Table:
    def __init__(self, columns, data): self.told = {"columns": columns, "data": [[str(x) for x in row] for row in data]}

class Summary:
    def update(self, values): note(summary=values)

class Run:
    offline, starting_step, summary, path = True, 0, Summary(), "people/project/run"
    class settings:
        sync_file = "/nowhere/run.wandb"
    def define_metric(self, name, **options): pass
    def log(self, values, step, commit):
        assert commit and values["step"] == step
        note(**json.loads(json.dumps(values, default=lambda media: media.told)))
    def mark_preempting(self): note(preempting=True)
    def finish(self, exit_code): note(finish=exit_code)

class Api:
    lastHistoryStep = 1000
    def __init__(self, timeout=None): pass
    def run(self, path): return self
    def files(self, per_page): return []

def login(prompt, verify): return False
def teardown(): pass
def init(mode, id, **rest):
    note(init=mode, id=id)
    return Run()
"""


@pytest.fixture
def workdir(tmp_path, no_account):
    """A run directory with its config, without W&B accounts or settings of this machine."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(get_config().to_dict()))
    (folder / "wandb_id").write_text("0123456789abcdef\n")
    return folder


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """A function that puts a fake wandb package before the real one, and returns a reader of the calls it received."""

    def install(behaviour=""):
        package = tmp_path / "fake" / "wandb"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(FAKE_WANDB + textwrap.dedent(behaviour))
        log = tmp_path / "told.jsonl"
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.setenv("FAKE_WANDB_LOG", str(log))
        return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return install


def follower(workdir, timeout=20.0):
    return Follower(workdir, get_config().wandb, timeout)


def cursor(workdir):
    path = workdir / "wandb" / "cursor.json"
    return json.loads(path.read_text())["step"] if path.exists() else None


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_one_warning(capfd, words):
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: W&B ") and words in line


OPENED = {"init": "offline", "id": "0123456789abcdef"}


def test_rows_are_sent_under_their_names(workdir, fake_wandb):
    told = fake_wandb()
    (workdir / "predictions").mkdir()
    (workdir / "predictions" / "1.png").write_bytes(b"12345")
    (workdir / "predictions" / "1.csv").write_text('class,IoU\n"van, white",0.25\nsky,\n')
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with follower(workdir):
        metrics.append(1, {"train/loss": 0.5, "train/nan": float("nan")})
        media = {
            "val/pictures": ["predictions/1.png"],
            "val/classes": "predictions/1.csv",
            "val/gone": "predictions/2.png",
        }
        metrics.append(2, {"val/mIoU": 0.25} | media)
    table = {"columns": ["class", "IoU"], "data": [["van, white", "0.25"], ["sky", "nan"]]}
    media = {"val/pictures": [{"bytes": 5}], "val/classes": table, "val/gone": "predictions/2.png"}
    second = {"val/mIoU": 0.25} | media
    assert told() == [OPENED, {"step": 1, "train/loss": 0.5}, {"step": 2} | second, {"finish": 0}]


def test_a_run_with_fewer_wandb_settings_is_sent(workdir, fake_wandb):
    told = fake_wandb("""
        def init(mode, id, resume, dir, config, settings, **rest):
            note(init=mode, id=id, **rest)
            return Run()
    """)
    config = get_config()
    config.wandb.entity, config.wandb.tags = "people", ("one", "two")
    stored = config.to_dict()
    del stored["wandb"]["group"], stored["wandb"]["name"]
    (workdir / "config.json").write_text(json.dumps(stored))
    with follower(workdir):
        pass
    asked = {
        "project": "dense-prediction",
        "entity": "people",
        "tags": ["one", "two"],
        "name": "run",
        "job_type": "train",
    }
    assert told() == [OPENED | asked, {"finish": 0}]


def test_a_resumed_run_sends_nothing_twice(workdir, fake_wandb):
    told = fake_wandb()
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with pytest.raises(KeyboardInterrupt), follower(workdir):
        for step in (1, 2, 3):
            metrics.append(step, {"x": step})
        raise KeyboardInterrupt
    assert told() == [OPENED, *({"step": step, "x": step} for step in (1, 2, 3)), {"finish": 1}]
    assert cursor(workdir) == 3
    metrics.cut(1)  # back to the checkpoint of step 1, so steps 2 and 3 are repeated
    with follower(workdir):
        for step in (2, 3, 4):
            metrics.append(step, {"x": step})
    assert told()[5:] == [OPENED, {"step": 4, "x": 4}, {"finish": 0}]
    assert cursor(workdir) == 4


def test_a_run_that_moves_to_another_project_is_sent_completely(workdir, fake_wandb):
    told = fake_wandb()
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with follower(workdir):
        metrics.append(1, {"x": 1})
    config = json.loads((workdir / "config.json").read_text())
    config["wandb"]["project"] = "another"
    (workdir / "config.json").write_text(json.dumps(config))
    for _ in range(2):
        with follower(workdir):
            pass
    assert told()[3:] == [OPENED, {"step": 1, "x": 1}, {"finish": 0}, OPENED, {"finish": 0}]


def test_files_outside_the_run_are_not_sent(workdir, fake_wandb):
    """A run directory may come from another person."""
    told = fake_wandb()
    (workdir.parent / "secret.csv").write_text("class,IoU\nsky,0.5\n")
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with follower(workdir):
        metrics.append(1, {"val/classes": "../secret.csv"})
    assert told()[1] == {"step": 1, "val/classes": "../secret.csv"}, "only the name"
    assert "its path leads out of the run directory" in (workdir / "wandb" / "follower.log").read_text()


def test_online_the_server_decides_which_rows_it_has(workdir, fake_wandb):
    """An account without rows gets all of them, also those that earlier sessions wrote offline."""
    metrics = MetricsFile(workdir / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.append(step, {"x": step})
    (workdir / "wandb").mkdir()
    for starting_step, steps in ((0, [1, 2, 3]), (2, [2, 3]), (4, [])):
        (workdir / "wandb" / "cursor.json").write_text('{"step": 2}')
        told = fake_wandb(f"Run.offline, Run.starting_step = False, {starting_step}")
        before = len(told())
        with follower(workdir):
            pass
        assert told()[before:] == [OPENED, *({"step": step, "x": step} for step in steps), {"finish": 0}]


def test_the_follower_continues_with_the_file_that_replaces_a_cut_one(workdir, fake_wandb):
    told = fake_wandb()
    metrics = MetricsFile(workdir / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.append(step, {"x": step})
    with follower(workdir):
        wait_until(lambda: cursor(workdir) == 3)
        metrics.cut(1)
        for step in (2, 3, 4):
            metrics.append(step, {"x": step})
    assert told() == [OPENED, *({"step": step, "x": step} for step in (1, 2, 3, 4)), {"finish": 0}]


def test_an_incomplete_line_is_sent_once_it_is_complete(workdir, fake_wandb):
    told = fake_wandb()
    with follower(workdir), open(workdir / "metrics.jsonl", "ab", buffering=0) as file:
        file.write(b'{"step": 1, "x": 1}\n{"step": 2, "x')
        wait_until(lambda: cursor(workdir) == 1)
        file.write(b'": 2}\n')
    assert told()[1:] == [{"step": 1, "x": 1}, {"step": 2, "x": 2}, {"finish": 0}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_the_job_do_not_stop_the_follower_before_all_is_sent(workdir, fake_wandb, number):
    told = fake_wandb()
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with follower(workdir) as running:
        wait_until(told)
        assert os.getsid(running._process.pid) != os.getsid(0)
        running._process.send_signal(number)
        metrics.append(1, {"x": 1})
    assert told()[1:] == [{"step": 1, "x": 1}, {"finish": 0}]


def test_a_killed_run_is_sent_to_its_last_line(workdir, fake_wandb):
    told = fake_wandb()
    script = f"""
        import os
        from pathlib import Path
        from configs.common import get_config
        from experiments.run.follower import Follower
        from experiments.run.metrics_file import MetricsFile
        workdir = Path({str(workdir)!r})
        metrics = MetricsFile(workdir / "metrics.jsonl")
        Follower(workdir, get_config().wandb, 1.0).start()
        for step in range(5):
            metrics.append(step, {{"x": step}})
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, timeout=30)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: told() and "finish" in told()[-1])
    assert told() == [OPENED, *({"step": step, "x": step} for step in range(5)), {"finish": 1}]


def test_a_second_follower_waits_for_the_first(workdir, fake_wandb):
    told = fake_wandb("""
        def slow_finish(self, exit_code):
            note(finish=exit_code)
            time.sleep(1)
            note(closed=True)
        Run.finish = slow_finish
    """)
    metrics = MetricsFile(workdir / "metrics.jsonl")
    metrics.append(1, {"x": 1})
    first = follower(workdir)
    first.start()
    first.close(timeout=0.0, outcome="stopped")
    wait_until(lambda: {"finish": 75} in told())
    with follower(workdir):
        metrics.append(2, {"x": 2})
    closed = {"closed": True}
    assert told()[:5] == [OPENED, {"step": 1, "x": 1}, {"preempting": True}, {"finish": 75}, closed]
    assert told()[5:] == [OPENED, {"step": 2, "x": 2}, {"finish": 0}, closed]


def test_an_account_out_of_reach_is_tried_again_even_after_the_run(workdir, fake_wandb):
    told = fake_wandb("""
        Run.offline = False
        def login(prompt, verify): return True
        class AwayApi(Api):
            def __init__(self, timeout=None):
                note(asked=timeout)
                if len(open(os.environ["FAKE_WANDB_LOG"]).readlines()) == 1:
                    raise RuntimeError("no network")
        Api = AwayApi
    """)
    metrics = MetricsFile(workdir / "metrics.jsonl")
    with follower(workdir):
        metrics.append(1, {"x": 1})
    asked = {"asked": 10}
    last = {"asked": None}  # the check that all rows have arrived
    assert told() == [asked, asked, OPENED | {"init": "online"}, {"step": 1, "x": 1}, {"finish": 0}, last]
    assert "no network\ntrying again in 2 s" in (workdir / "wandb" / "follower.log").read_text()


def test_rows_that_the_server_does_not_confirm_are_sent_again(workdir, fake_wandb):
    """The package does not report rows and files that it has dropped."""
    told = fake_wandb("""
        class Forgetful(Run):
            offline = False
            starting_step = 3 if os.path.exists(os.environ["FAKE_WANDB_LOG"] + ".asked") else 0
        Run = Forgetful
        class CountingApi(Api):
            @property
            def lastHistoryStep(self):
                open(os.environ["FAKE_WANDB_LOG"] + ".asked", "w").close()
                Run.starting_step = 3
                return 2 if told_of(4) < 2 else 4
        Api = CountingApi
        def told_of(step): return sum(json.loads(line).get("step") == step for line in open(os.environ["FAKE_WANDB_LOG"]))
        def login(prompt, verify): return True
    """)
    (workdir / "wandb" / "offline-run-1").mkdir(parents=True)
    (workdir / "wandb" / "offline-run-1" / "run-1.wandb").write_bytes(b"")
    metrics = MetricsFile(workdir / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        metrics.append(step, {"x": step})
    script = (
        f"import pathlib, sys\nfrom experiments.run import dashboard, follower\ndashboard.PATIENCE = (0.1,)\n"
        f"sys.exit(follower.follow(pathlib.Path({str(workdir)!r})))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=b"finished\n", check=True, timeout=30)
    online = OPENED | {"init": "online"}
    rows = [{"step": step, "x": step} for step in (1, 2, 3, 4)]
    assert told() == [online, *rows, {"finish": 0}, online, *rows[2:], {"finish": 0}]
    assert cursor(workdir) == 4
    # `wandb sync` would append rows that the server already has from metrics.jsonl.
    assert (workdir / "wandb" / "offline-run-1" / "run-1.wandb.synced").exists()


def test_after_a_failed_send_the_follower_tries_again_from_its_cursor(workdir, fake_wandb):
    told = fake_wandb("""
        class Dying(Run):
            def log(self, values, step, commit):
                if step == 2 and not os.path.exists(os.environ["FAKE_WANDB_LOG"] + ".died"):
                    open(os.environ["FAKE_WANDB_LOG"] + ".died", "w").close()
                    raise ConnectionResetError("the service died")
                super().log(values, step, commit)
        Run = Dying
    """)
    metrics = MetricsFile(workdir / "metrics.jsonl")
    metrics.append(1, {"x": 1})
    with follower(workdir):
        wait_until(lambda: cursor(workdir) == 1)
        metrics.append(2, {"x": 2})
    assert told() == [OPENED, {"step": 1, "x": 1}, OPENED, {"step": 2, "x": 2}, {"finish": 0}]


@pytest.mark.parametrize("behaviour", ["raise ImportError('broken')", "def init(**settings): raise OSError('broken')"])
def test_a_broken_wandb_gives_one_warning(workdir, fake_wandb, capfd, behaviour):
    fake_wandb(behaviour)
    with follower(workdir):
        pass
    assert "broken" in (workdir / "wandb" / "follower.log").read_text()
    assert_one_warning(capfd, "follower.log")


def test_a_hanging_wandb_delays_the_end_by_at_most_the_timeout(workdir, fake_wandb, capfd):
    told = fake_wandb("""
        def init(mode, id, **rest):
            note(init=mode, id=id)
            time.sleep(100)
    """)
    running = follower(workdir)
    began = time.monotonic()
    running.start()
    assert time.monotonic() - began < 0.5
    wait_until(told)
    process, began = running._process, time.monotonic()
    running.close(timeout=0.2, outcome="finished")
    assert time.monotonic() - began < 1.0 and process.poll() is None
    assert_one_warning(capfd, "continues to send them")
    process.kill()
    process.wait()


def test_the_follower_ends_soon_after_the_run(workdir, fake_wandb):
    fake_wandb("def init(**settings): time.sleep(100)")
    script = (
        f"import pathlib\nfrom experiments.run import follower\nfollower.LINGER_SECONDS = 1\n"
        f"follower.follow(pathlib.Path({str(workdir)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == -signal.SIGALRM


def test_a_missing_wandb_gives_one_warning(workdir, monkeypatch, capfd):
    monkeypatch.setattr(follower_process.importlib.util, "find_spec", lambda name: None)
    with follower(workdir) as running:
        assert running._process is None
    assert_one_warning(capfd, "not installed")


def test_a_follower_that_cannot_start_gives_one_warning(workdir, capfd):
    (workdir / "wandb").write_text("a file where the folder should be")
    with follower(workdir):
        pass
    assert_one_warning(capfd, "does not start")


def test_mode_disabled_starts_no_process(workdir):
    disabled = get_config().wandb
    disabled.mode = "disabled"
    with Follower(workdir, disabled, 1.0) as running:
        assert running._process is None
    assert not (workdir / "wandb").exists()


def test_the_command_sends_the_rest_and_reports_errors(workdir, fake_wandb):
    told = fake_wandb()
    metrics = MetricsFile(workdir / "metrics.jsonl")
    metrics.append(1, {"x": 1})
    command = [sys.executable, "-m", "experiments.run.follower", str(workdir)]
    subprocess.run(command, cwd=ROOT, input=b"finished\n", check=True, timeout=30)
    assert told() == [OPENED, {"step": 1, "x": 1}, {"finish": 0}]
    (workdir / "config.json").unlink()
    # The pipe stays open, as during a run. The thread that reads it must not disturb the exit.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as failing:
        assert failing.wait(timeout=30) == 1
        (line,) = failing.stderr.read().splitlines()
    assert b"cannot be sent to W&B" in line and b"config.json" in line


def test_the_module_imports_neither_jax_nor_numpy():
    heavy = ["jax", "numpy", "flax", "wandb", "ml_collections"]
    script = f"import sys, experiments.run.follower; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
