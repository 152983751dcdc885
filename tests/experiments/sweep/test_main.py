"""The command `python -m experiments.sweep` as a user runs it."""

import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from experiments.sweep import __main__ as command

ROOT = pathlib.Path(__file__).parents[3]
SWEEP = "--config=configs/unet_shapes.py:debug"


def run(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "experiments.sweep", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([SWEEP], ["--workdir"]),
        (["--workdir=x"], ["--config"]),
        ([SWEEP, "--workdir=x", "--executor=qsub"], ["qsub", "local"]),
        ([SWEEP, "--workdir=x", "--slurm.time=60"], ["--slurm.time", "--executor=slurm"]),
        ([SWEEP, "--workdir=x", "--jobs=0"], ["--jobs=0"]),
        ([SWEEP, "--workdir=x", "--search=grid", "--trials=2"], ["grid", "optuna"]),
        ([SWEEP, "--workdir=x", "--search=optuna"], ["--trials"]),
        ([SWEEP, "--workdir=x", "--search=optuna", "--trials=0"], ["--trials", "1 or more"]),
        ([SWEEP, "--workdir=x", "--trials=2"], ["--trials", "--search=optuna"]),
        ([SWEEP, "--workdir=x", "--search_seed=2"], ["--search_seed", "--search=optuna"]),
        ([SWEEP, "--workdir=x", "--search=optuna", "--trials=2", "--executor=print"], ["--executor=local", "print"]),
        (["--config=configs/fcos_shapes.py", "--workdir=x", "--search=optuna", "--trials=2"], ["search()"]),
        ([SWEEP, "--workdir=x", "--jobs=two"], ["two"]),
        ([SWEEP, "--workdir=x", "--job=2"], ["--job=2"]),
        ([SWEEP, "--workdir=x", "--config.optim.lr", "3"], ["--config.optim.lr", "--config.NAME=VALUE"]),
        (["--config=configs/fcos_shapes.py", "--workdir=x"], ["fcos_shapes.py", "sweep()"]),
    ],
)
def test_invalid_arguments_print_a_one_line_error(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    line = str(caught.value)
    assert line.startswith("error: ") and "\n" not in line and all(word in line for word in words), line


@pytest.mark.parametrize(
    ("package", "modules", "flags"),
    [
        ("submitit", ["slurm"], ["--executor=slurm"]),
        ("optuna", ["search", "study"], ["--search=optuna", "--trials=2"]),
    ],
)
def test_missing_package_prints_a_one_line_error(monkeypatch, tmp_path, package, modules, flags):
    for module in modules:
        monkeypatch.delitem(sys.modules, f"experiments.sweep.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    words = f"error: .*{package} is not installed; .*pip install -r requirements-sweep.txt"
    with pytest.raises(SystemExit, match=words):
        command.main([SWEEP, f"--workdir={tmp_path}", *flags])


def test_ctrl_c_before_any_start_prints_one_line(tmp_path):
    program = tmp_path / "slow.py"
    program.write_text("import os, signal\ndef sweep():\n    os.kill(os.getpid(), signal.SIGINT)\n    return [{}]\n")
    before = signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # tests in the background ignore it, and so do their processes
    try:
        done = run(f"--config={program}", f"--workdir={tmp_path}/sweep")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (75, "stopped: start the same command again to go on\n")


def test_print_prints_one_command_per_line_and_starts_nothing(tmp_path):
    workdir = tmp_path / "a folder"
    done = run(SWEEP, f"--workdir={workdir}", "--executor=print", "--tfds_data_dir=data", "--config.train.steps=2")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4 and not workdir.exists()
    for words in lines:
        assert words[1:3] == ["main.py", SWEEP] and words[-1] == "--tfds_data_dir=data"
        assert words[3].startswith(f"--workdir={workdir}/lr=") and "--config.train.steps=2" in words


def test_a_launcher_does_not_import_jax():
    script = (
        "import sys, experiments.sweep.__main__ as command\n"
        "from experiments.sweep import commands, local\n"
        "assert not {'jax', 'flax', 'numpy', 'optuna', 'tensorflow_datasets'} & sys.modules.keys()\n"
        "from experiments.sweep import search\n"
        "assert not {'jax', 'flax', 'tensorflow_datasets'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
