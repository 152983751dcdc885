"""Job arrays of fake runs on a fake SLURM, and a preemption by submitit's local executor."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

submitit = pytest.importorskip("submitit")

from errors import UserError  # noqa: E402
from experiments.sweep import slurm  # noqa: E402
from experiments.sweep.launch import MAIN, Launch, Progress  # noqa: E402
from experiments.sweep.plan import make_plan  # noqa: E402
from tests.experiments.sweep import driver  # noqa: E402
from tests.experiments.sweep.test_local import ROOT, Sweep  # noqa: E402
from tests.test_docs import commands_of  # noqa: E402

STAGES = '[{"name": "b", "init_from": sweeps.run("a")}, {"name": "a", "seed.init": 1}, {"name": "c", "seed.init": 2}]'
FAKE_SLURM = pathlib.Path(__file__).with_name("fake_slurm.py")
OPTIONS = {"time": "60"}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with replacements of SLURM's commands, first on the PATH."""
    folder = tmp_path / "cluster"
    (folder / "bin").mkdir(parents=True)
    for name in ("sbatch", "srun", "squeue", "scontrol"):
        place = folder / "bin" / name
        place.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_SLURM}" {name} "$@"\n')
        place.chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    yield folder
    for place in folder.glob("*.sh"):
        place.unlink()


def plan(sweep: Sweep) -> list:
    return make_plan(str(sweep.file), {}, sweep.workdir, resolve=driver.resolve)


def launch(sweep: Sweep, at_a_time: int | None = None, **options) -> None:
    asked = Launch(plan(sweep), sweep.workdir, at_a_time, driver.FAKE, OPTIONS | options)
    assert slurm.launch(asked) == 0


def states(cluster: pathlib.Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(cluster.glob("*/state"))}


def wait(cluster: pathlib.Path) -> dict[str, str]:
    end = time.monotonic() + 60
    while {"PENDING", "RUNNING"} & set(states(cluster).values()):
        assert time.monotonic() < end, states(cluster)
        time.sleep(0.05)
    return states(cluster)


def starts(cluster: pathlib.Path, task: str) -> int:
    return len((cluster / task / "starts").read_text())


def script(cluster: pathlib.Path, number: int) -> list[str]:
    lines = (cluster / f"{number}.sh").read_text().splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]


def test_runs_that_wait_for_another_one_are_in_a_separate_array(cluster, tmp_path, capsys):
    sweep = Sweep(tmp_path, STAGES)
    (cluster / "hold").touch()
    launch(sweep, at_a_time=1, gpus_per_node="1", exclusive="")
    first, second = script(cluster, 101), script(cluster, 102)
    assert {"--array=0-1%1", "--time=60", "--gpus_per_node=1", "--exclusive", "--signal=USR2@90"} <= {
        line.replace("gpus-per-node", "gpus_per_node") for line in first
    }
    assert "--dependency=afterok:101_0" in second and "--kill-on-invalid-dep=yes" in second
    assert not any("dependency" in line for line in first) and not any("array" in line for line in second)
    launch(sweep)
    assert "queued" in capsys.readouterr().out and len(list(cluster.glob("*.sh"))) == 2, "nothing is submitted twice"
    (cluster / "hold").unlink()
    assert wait(cluster) == {"101_0": "COMPLETED", "101_1": "COMPLETED", "102": "COMPLETED"}
    assert [Progress(job).state.done for job in plan(sweep)] == [True] * 3
    launch(sweep)
    assert capsys.readouterr().out.count("done") == 3 and len(list(cluster.glob("*.sh"))) == 2
    assert (sweep.workdir / "summary.csv").is_file()


@pytest.mark.slow
def test_a_stopped_run_is_requeued_and_a_failed_one_is_not(cluster, tmp_path):
    stops, fails = {"quit": 75, "step": 7, "save": True}, {"fail": 3}
    sweep = Sweep(tmp_path, "sweeps.seeds(3)", _0=stops, _1=fails, _2={"quit": 75, "step": 3, "always": True})
    launch(sweep)
    assert wait(cluster) == {"101_0": "COMPLETED", "101_1": "FAILED", "101_2": "FAILED"}
    assert [starts(cluster, f"101_{task}") for task in range(3)] == [2, 1, slurm.FRUITLESS]
    assert [Progress(job).state.done for job in plan(sweep)] == [True, False, False]
    log = next((sweep.workdir / "slurm").glob("101_1_0_log.err"), None)
    assert log is None or "error: the loss of step 3 is nan" in log.read_text()
    sweep.behave()
    launch(sweep)  # repeats the failed runs and nothing else
    assert wait(cluster) | {"102_0": "COMPLETED", "102_1": "COMPLETED"} == wait(cluster)
    assert all(Progress(job).state.done for job in plan(sweep))


def test_the_command_of_the_docs_submits_the_sweep(cluster, tmp_path):
    (command,) = [line for line in commands_of("docs/sweeps.md") if "--executor=slurm" in line]
    (cluster / "hold").touch()
    words = [word.replace("runs/rates", str(tmp_path / "rates")) for word in shlex.split(command)[1:]]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("queued") >= 4, done.stderr
    assert {"--array=0-3%4", "--time=240", "--gpus-per-node=1", "--cpus-per-task=8"} <= set(script(cluster, 101))


def test_a_run_that_starts_from_a_failed_one_is_not_started(cluster, tmp_path):
    sweep = Sweep(tmp_path, STAGES, _1={"fail": 3})
    launch(sweep)
    assert wait(cluster) == {"101_0": "FAILED", "101_1": "COMPLETED", "102": "CANCELLED"}


def test_a_run_saves_before_its_job_ends(tmp_path, monkeypatch):
    """The executor is submitit's for one machine, which starts a job again on request."""
    monkeypatch.setenv("PYTHONPATH", str(MAIN.parent))
    sweep = Sweep(tmp_path, "sweeps.seeds(1)", _0={"sleep": 0.1})
    (job,) = plan(sweep)
    executor = submitit.LocalExecutor(tmp_path / "jobs", max_num_timeout=10**6)
    executor.update_parameters(timeout_min=60)
    running = executor.submit(slurm.Task(job, driver.FAKE))
    state, end = Progress(job).state, time.monotonic() + 60
    for step in (2, 6):
        while state.step < step:
            assert time.monotonic() < end
            time.sleep(0.02)
            state.refresh()
        task = pathlib.Path(f"/proc/{running.job_id}/task/{running.job_id}/children").read_text()
        os.kill(int(task), signal.SIGUSR2)
        while state.saved < step:
            assert time.monotonic() < end
            time.sleep(0.02)
    running.result()
    state.refresh()
    assert state.done
    assert (job.workdir / "output.log").read_text().count("pid ") == 3, "each notice has stopped it"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time": ""}, "--slurm.time= must be the job's time limit in whole minutes"),
        ({"time": "4h"}, "--slurm.time=4h"),
        ({"signal_delay_s": "x"}, "--slurm.signal_delay_s=x"),
    ],
)
def test_invalid_option_raises_a_one_line_error(cluster, tmp_path, options, words):
    sweep = Sweep(tmp_path)
    with pytest.raises(UserError) as caught:
        launch(sweep, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_refusal_by_sbatch_raises_a_one_line_error(cluster, tmp_path):
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpus' >&2\nexit 1\n")
    with pytest.raises(UserError, match="sbatch refuses the jobs: .*invalid partition: gpus") as caught:
        launch(Sweep(tmp_path))
    assert "\n" not in str(caught.value)
    (cluster / "bin" / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: timed out' >&2\nexit 1\n")
    with pytest.raises(UserError, match="squeue cannot list .*timed out"):
        launch(Sweep(tmp_path / "other"))


def test_error_without_slurm_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun is not on PATH"):
        launch(Sweep(tmp_path))
