"""A comparison of all numbers of two versions of the code, from runs of every `:debug` config and of two demos.

    python -m benchmarks.digests run --checkout=OLD --output=old.json     the code in OLD, a checkout of an earlier commit
    python -m benchmarks.digests run --output=new.json                    the code here
    python -m benchmarks.digests compare old.json new.json                equal: every checkpoint and every metric
    python -m benchmarks.digests compare old.json new.json --rtol=1e-5    close: `loss` of the first five steps

A run is compared by the SHA-256 over all arrays of its last checkpoint and by the rows of its metrics.jsonl, without the names
in `time/`. Digests are valid for one machine and one version of jax, so compare runs of one session.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import orbax.checkpoint as ocp

from experiments.run.metrics_file import read_rows
from files import read_json

LONGER = ("ssd_shapes", "unet_shapes")  # also run without `:debug`, for LONGER_STEPS steps
LONGER_STEPS = 40
NOT_EXPERIMENTS = {"__init__", "common", "datasets", "segmenters", "detectors", "schedules", "variants"}
COMPARED_STEPS = 5


def run_all(checkout: pathlib.Path, workers: int, only: list[str] | None) -> dict[str, dict]:
    """Run the code in `checkout`. Return the digest and the rows of each run by its name."""
    names = sorted({path.stem for path in (checkout / "configs").glob("*.py")} - NOT_EXPERIMENTS)
    commands = {f"{name}:debug": [f"--config=configs/{name}.py:debug"] for name in names}
    for name in LONGER:
        steps = [f"--config.train.{field}={LONGER_STEPS // 2}" for field in ("eval_every", "checkpoint_every")]
        commands[name] = [f"--config=configs/{name}.py", f"--config.train.steps={LONGER_STEPS}", *steps]
        commands[name] += [
            "--config.train.log_every=1",
            "--config.optim.warmup_steps=10",
            "--config.wandb.mode=disabled",
        ]
    commands = {name: flags for name, flags in commands.items() if only is None or name in only}
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        place = pathlib.Path(scratch)
        first, *others = commands  # the first one prepares the data for all
        runs = {first: _run(checkout, place, first, commands[first])}
        futures = {name: pool.submit(_run, checkout, place, name, commands[name]) for name in others}
        return runs | {name: future.result() for name, future in futures.items()}


def _run(checkout: pathlib.Path, place: pathlib.Path, name: str, flags: list[str]) -> dict:
    workdir = place / name.replace(":", "_")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
        "PYTHONPATH": str(checkout),
    }
    command = [sys.executable, "main.py", f"--workdir={workdir}", f"--tfds_data_dir={place / 'data'}", *flags]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    rows = read_rows(workdir / "metrics.jsonl")
    rows = [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
    print(name, rows[-1]["train/loss"], file=sys.stderr, flush=True)
    return {"state": digest(workdir / "checkpoints" / "last"), "rows": rows}


def digest(folder: pathlib.Path) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the newest checkpoint's arrays.

    It is implemented here, so that it is the same for the code of any commit.
    """
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    arrays = ocp.StandardCheckpointer().restore(folder / str(step) / "state")
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def compare(old: dict[str, dict], new: dict[str, dict], rtol: float | None) -> list[str]:
    """Return the differences, one line each."""
    differing = [f"{name}: only in one of the two" for name in sorted(old.keys() ^ new.keys())]
    for name in sorted(old.keys() & new.keys()):
        first, second = old[name], new[name]
        if "error" in first or "error" in second:
            differing.append(f"{name}: {first.get('error')} before, {second.get('error')} now")
        elif rtol is None:
            differing += [f"{name}: {part} differs" for part in ("state", "rows") if first[part] != second[part]]
        else:
            pairs = list(zip(first["rows"], second["rows"], strict=False))[:COMPARED_STEPS]
            far = [row["step"] for row, other in pairs if not _close(row, other, rtol)]
            differing += [f"{name}: train/loss of step {far[0]} differs"] if far else []
    return differing


def _close(row: dict, other: dict, rtol: float) -> bool:
    return math.isclose(row["train/loss"], other["train/loss"], rel_tol=rtol)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare all numbers of two versions of the code.")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--checkout", type=pathlib.Path, default=pathlib.Path(__file__).parents[1])
    runner.add_argument("--output", type=pathlib.Path, required=True)
    runner.add_argument("--workers", type=int, default=2)
    runner.add_argument("--only", nargs="*", help="names of runs; all by default")
    comparer = commands.add_parser("compare")
    comparer.add_argument("old", type=pathlib.Path)
    comparer.add_argument("new", type=pathlib.Path)
    comparer.add_argument("--rtol", type=float)
    flags = parser.parse_args()
    if flags.command == "run":
        runs = run_all(flags.checkout.absolute(), flags.workers, flags.only)
        flags.output.write_text(json.dumps(runs, indent=1), "utf-8")
        failed = [f"{name}: {run['error']}" for name, run in runs.items() if "error" in run]
        print("\n".join([*failed, f"{len(runs) - len(failed)} of {len(runs)} runs"]))
        return 1 if failed else 0
    old, new = (read_json(path) for path in (flags.old, flags.new))
    differing = compare(old, new, flags.rtol)
    print(
        "\n".join(
            [*differing, f"{len(new) - len({line.split(':')[0] for line in differing})} of {len(new)} runs agree"]
        )
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
