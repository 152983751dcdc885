"""A check of this code on the GPU or TPU of this machine, in about ten minutes.

    python -m benchmarks.accelerator --tfds_data_dir=DIR

Each config is trained for STEPS steps with deterministic operations, in float32 and in bfloat16, and each of these twice: once
without a break, and once killed (SIGKILL) after its first checkpoint and started again. The two final states must be
bit-identical, and the loss in bfloat16 must be near that in float32. Then steps are timed in both types, and the tests of device
code run. The command prints tables in Markdown for RESULTS.md. The exit code is 1 if anything differs or fails. With
`--platform=cpu` no accelerator is needed.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from experiments.run.metrics_file import read_rows

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ("unet_shapes", "ssd_shapes", "mask_rcnn_shapes")
TIMED = ("unet_pets=16", "ssd300_voc=32", "retinanet_coco=4", "mask_rcnn_r50_fpn_coco=2")  # each with its batch size
TESTS = ("models", "experiments/tasks", "experiments/run/test_step.py", "experiments/run/test_sharding.py")
TYPES = ("float32", "bfloat16")
STEPS, SAVED = 60, 20  # steps of a run; steps between two checkpoints, evaluations and rows
NEAR = 0.1  # largest relative difference of the mean loss between bfloat16 and float32
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # other accelerators ignore it


def locate(config: str) -> str:
    name, *variant = config.split(":")
    return ":".join([f"configs/{name}.py", *variant])


def environment(platform: str) -> dict[str, str]:
    own = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip(), "WANDB_MODE": "disabled"}
    return os.environ | own | ({"JAX_PLATFORMS": platform} if platform else {})


def train(config: str, dtype: str, workdir: pathlib.Path, options: argparse.Namespace, *, killed: bool) -> list[dict]:
    """Train a run, with or without a kill and a second start. Return the rows of its metrics.

    Exit if a start fails, or if the run ends before it can be killed.
    """
    fields = {
        "train.steps": options.steps,
        "train.eval_every": options.saved,
        "train.checkpoint_every": options.saved,
        "train.log_every": 1,
        "optim.warmup_steps": 0,
        "model.dtype": dtype,
        "wandb.mode": "disabled",
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "main.py", f"--config={locate(config)}", f"--workdir={workdir}", *flags]
    command.append(f"--tfds_data_dir={options.tfds_data_dir}")
    metrics = workdir / "metrics.jsonl"
    if killed:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment(options.platform), stdout=subprocess.DEVNULL, start_new_session=True
        )
        while running.poll() is None and not _passed(metrics, options.saved + 1):
            time.sleep(0.02)
        if running.poll() is not None:
            sys.exit(f"error: {config} ended with {running.returncode} before it could be killed; increase --steps")
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment(options.platform), stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}; its output is above")
    return read_rows(metrics)


def _passed(metrics: pathlib.Path, step: int) -> bool:
    """Return whether a run has logged a step and saved the checkpoint before it."""
    saved = (path.name for path in metrics.parent.glob("checkpoints/last/*"))
    return metrics.exists() and metrics.read_text("utf-8").count("\n") > step and any(name.isdigit() for name in saved)


def hash_state(workdir: pathlib.Path, platform: str) -> str:
    """Return the digest of a run's last checkpoint."""
    command = [sys.executable, "-m", "experiments.run.checkpoints", str(workdir)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(platform), check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return done.stdout.split()[-1]


def compare(rows: list[dict], others: list[dict]) -> bool:
    """Return whether two runs logged the same values, except for times."""
    plain = [
        [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run]
        for run in (rows, others)
    ]
    return plain[0] == plain[1]


def check_runs(options: argparse.Namespace) -> bool:
    """Train every config in each type, and print a row for each. Return whether all results are as required."""
    good = True
    print(
        "| config | type | killed and resumed | mean loss | images/s | seconds of both |\n|---|---|---|---:|---:|---:|",
        flush=True,
    )
    for config in options.configs:
        losses = {}
        for dtype in TYPES:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                places = [pathlib.Path(scratch) / name for name in ("whole", "killed")]
                runs = [train(config, dtype, place, options, killed=place.name == "killed") for place in places]
                states = [hash_state(place, options.platform) for place in places]
            same = states[0] == states[1] and compare(*runs)
            steps = [row for row in runs[0] if "train/loss" in row]
            losses[dtype] = sum(row["train/loss"] for row in steps) / len(steps)
            rate = sorted(row["time/images_per_second"] for row in steps)[len(steps) // 2]
            near = abs(losses[dtype] - losses[TYPES[0]]) <= NEAR * abs(losses[TYPES[0]])
            good &= same and near
            verdict = f"equal, SHA-256 {states[0][:12]}" if same else "DIFFERENT"
            loss = f"{losses[dtype]:.4f}" + ("" if near else ", FAR from float32")
            seconds = time.monotonic() - began
            print(f"| `{config}` | {dtype} | {verdict} | {loss} | {rate:,.0f} | {seconds:.0f} |", flush=True)
    return good


def time_steps(options: argparse.Namespace) -> bool:
    """Time the steps and print a row for each. Return whether all of them ran."""
    good = True
    print(
        "\n| config | images a step | type | step ms | images/s | memory between, MB |\n|---|---:|---|---:|---:|---:|",
        flush=True,
    )
    for config, size in (entry.rsplit("=", 1) for entry in options.timed):
        for dtype in TYPES:
            command = [sys.executable, "-m", "benchmarks.train_step", f"--config={locate(config)}"]
            command += [f"--batch_size={size}", "--classes=20", f"--config.model.dtype={dtype}"]
            done = subprocess.run(
                command, cwd=ROOT, env=environment(options.platform), stdout=subprocess.PIPE, encoding="utf-8"
            )
            good &= done.returncode == 0
            if done.returncode:
                print(f"| `{config}` | {size} | {dtype} | FAILED | | |", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            cells = found["step_ms"], f"{found['images_per_second']:,.0f}", f"{found['memory_mb']['between']:,.0f}"
            print(f"| `{config}` | {size} | {dtype} | {' | '.join(map(str, cells))} |", flush=True)
    return good


def run_tests(options: argparse.Namespace) -> bool:
    """Run the tests of device code on this device. Return whether they passed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "not slow",
        "-n",
        "0",
        *(f"tests/{name}" for name in options.tests),
    ]
    print(flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment(options.platform)).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tfds_data_dir", default="data", help="the folder of prepared datasets, which is filled if empty"
    )
    parser.add_argument("--platform", default="", help="JAX_PLATFORMS of all programs: cuda, tpu or cpu")
    parser.add_argument("--configs", nargs="*", default=CONFIGS, help="configs of configs/ to train")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of a run")
    parser.add_argument("--saved", type=int, default=SAVED, help="steps between two checkpoints")
    parser.add_argument("--timed", nargs="*", default=TIMED, help="configs whose steps are timed, as NAME=IMAGES")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders of tests/ to run on the device")
    options = parser.parse_args()
    began = time.monotonic()
    program = (
        "import jax; one = jax.devices()[0]; print(one.platform, jax.device_count(), one.device_kind, jax.__version__)"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        command, env=environment(options.platform), stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    platform, count, *kind, version = found.stdout.split()
    if platform == "cpu" and options.platform != "cpu":
        print(
            "error: jax finds no accelerator here; install requirements-cuda.txt or jax[tpu], or use --platform=cpu",
            file=sys.stderr,
        )
        return 1
    print(f"{count} x {' '.join(kind)}, jax {version}\n", flush=True)
    good = check_runs(options)
    good &= time_steps(options)
    good &= not options.tests or run_tests(options)
    print(
        f"\n{'all checks passed' if good else 'SOMETHING IS WRONG'}, after {(time.monotonic() - began) / 60:.1f} minutes"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
