"""Every command of the README and of docs/ is run here at the size of `:debug`, by another test, or by CI."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.test_docs import EXPERIMENTS, HISTORIES, PAGES, ROOT, commands_of

OWN = [page for page in PAGES if page not in ("CHANGELOG.md", "RESULTS.md") and commands_of(page)]
BY_OTHERS = {  # what runs those that need more than a page and a few steps
    r"make (demo|test|check)": ".ci/run",
    r"make onnx .*|.*experiments\.onnx .*|.*load\.py .*|.*--mode=export .*": "tests/test_docs.py",
    r".*main\.py .*configs/(masks|boxes)\.py --workdir=.*": "tests/test_docs.py",
    r".*experiments\.compare .*": "tests/experiments/compare/test_main.py",
    r".*experiments\.sweep .*--executor=slurm.*": "tests/experiments/sweep/test_slurm.py",
    r".*experiments\.sweep(\.state)? .*": "tests/experiments/sweep/test_real_runs.py",
    r".*experiments\.run\.follower .*": "tests/experiments/run/test_follower.py",
    r".*experiments\.convert .*": "tests/experiments/test_convert.py",
    r".*experiments\.metrics\.average_precision .*": "tests/experiments/metrics/test_average_precision.py",
    r".*configs/rcnn_shapes\.py:\w+ .*": "tests/experiments/test_stages.py",
    r".*--config\.pretrained=.*": "tests/experiments/test_published.py",
    r".*--topology=pod .*": "tests/experiments/preflight/test_pod.py",
    r".*--topology=v5e.*": "tests/experiments/preflight/test_chips.py",
    r".*main\.py .*--coordinator=.*": "tests/experiments/run/test_pods.py",
    r".*benchmarks\.(accelerator|saves) .*": "tests/test_benchmarks.py",
    r"(.* )?(launch/|kubectl|sbatch|sky).*": "tests/test_launch.py",
}
NOT_HERE = {  # and why
    r".*pip install -r requirements-\w+\.txt": "installs; `make` installs the files of requirements that tests need",
    r"tfds build .*": "needs TensorFlow and COCO's download",
    r".*pre-commit install": "writes into the clone's .git; tests/test_commands.py runs the hooks' commands",
}


def find(table: dict[str, str], command: str) -> str | None:
    """Return the value of the first pattern of a table that matches a whole command."""
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, command)), None)


def list_own(page: str) -> list[str]:
    """Return the commands of a page that are run here."""
    return [line for line in commands_of(page) if find(BY_OTHERS | NOT_HERE, line) is None]


def test_every_pattern_matches_a_command_and_names_a_file():
    commands = [command for page in OWN for command in commands_of(page)]
    for pattern, place in {**BY_OTHERS, **NOT_HERE}.items():
        assert any(re.fullmatch(pattern, command) for command in commands), pattern
        assert pattern in NOT_HERE or (ROOT / place).is_file(), place


def test_ci_runs_the_targets_of_the_pages():
    script = (ROOT / ".ci" / "run").read_text()
    assert all(f"make {target}\n" in script for target in ("check", "test-types", "demo", "test"))


@pytest.mark.parametrize("page", OWN)
def test_the_other_commands_are_main_or_a_module(page):
    for command in list_own(page):
        assert re.search(r"\.venv/bin/python (main\.py|-m (experiments|input_pipeline)\.)", command), command


class Folder:
    """A folder in which commands run as they stand, but with runs, images and datasets of its own, and tiny models."""

    def __init__(self, place: pathlib.Path, data_dir: str):
        self.place, self.data_dir = place, data_dir
        for number in range(2):
            path = place / "photos" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((64, 64, 3), 100 * number, np.uint8)).save(path)

    def run(self, command: str) -> str:
        """Run a command after the runs that it reads. Returns what it prints."""
        words = [self.adapt(word) for word in shlex.split(command)]
        environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        makes = "main.py" in words and not any(word.startswith("--mode=") for word in words)
        for name in re.findall(rf"{re.escape(str(self.place))}/runs/(\w+)", " ".join(words)):
            target = f"--workdir={self.place}/runs/{name}" in words
            reads = not makes or not target
            if reads and not (self.place / "runs" / name).exists():
                self.run(train_command(name))
        if makes:
            words += [
                f"--config.train.{field}=2"
                for field in ("steps", "eval_every", "checkpoint_every")
                if not any(word.startswith(f"--config.train.{field}=") for word in words)
            ]
            words += ["--config.optim.warmup_steps=0"]
        done = subprocess.run(words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def adapt(self, word: str) -> str:
        """Return a word of a command with the places and sizes of this folder."""
        word = re.sub(r"^\.venv/bin/python$", sys.executable, word)
        word = re.sub(r"^(--config=configs/\w+\.py)(:\w+)?$", r"\1:debug", word)
        word = re.sub(r"^(--config\.train\.steps)=\d+$", r"\1=4", word)
        word = re.sub(r"^--tfds_data_dir=.*", f"--tfds_data_dir={self.data_dir}", word)
        word = re.sub(r"^(--step)=\d+$", r"\1=2", word)
        # The synthetic dataset has no split `test`.
        word = re.sub(r"^(--config\.data\.eval_split)=test$", r"\1=validation", word)
        word = re.sub(r"^(--config\.data\.folder\.root)=.*", rf"\1={self.place}", word)
        return re.sub(r"(?<![\w.-])(runs/|photos|predicted|pictures)", rf"{self.place}/\1", word)


def train_command(name: str) -> str:
    """Return the command of the pages that trains `runs/NAME`, or else one for an experiment whose name begins so."""
    for page in OWN:
        for command in list_own(page):
            if (
                re.search(rf"--workdir=runs/{name}(?!\w)", command)
                and "--config=" in command
                and "--mode=" not in command
            ):
                return command
    experiment = next(
        other for other in [*EXPERIMENTS, "unet_shapes"] if other.startswith(name) or other == "unet_shapes"
    )
    assert experiment not in HISTORIES
    return f".venv/bin/python main.py --config=configs/{experiment}.py --workdir=runs/{name} --tfds_data_dir=data"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in OWN if list_own(page)])
def test_the_commands_of_a_page_run(tmp_path, data_dir, page):
    """In their order, each after the runs of other pages that it needs."""
    folder = Folder(tmp_path, data_dir)
    for command in list_own(page):
        if "--tfds_data_dir" not in command and "main.py" in command:
            command += " --tfds_data_dir=data"
        folder.run(command)


def test_the_hooks_are_commands_that_there_are():
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) == 3
    for hook in hooks:
        words = shlex.split(hook)
        assert words[:2] == [".venv/bin/python", "-m"]
        assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
        subprocess.run([sys.executable, "-c", f"import {words[2]}"], check=True)
