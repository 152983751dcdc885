"""The weak scaling on this machine's CPU, with the same batch per device on more and more devices and processes.

    python -m benchmarks.scaling --config=configs/unet_shapes.py --tfds_data_dir=DIR

trains each case with main.py and prints a row of a Markdown table. The row has images per second; the efficiency relative to the
number of devices, or of the machine's cores if that is smaller; the share of time spent waiting for input; the milliseconds of
an all-reduce of the parameters' size and of a step; and the seconds of the evaluation. It is a simulation, in which devices are
threads of one CPU and processes communicate through its memory. It shows the losses of this code, not those of a pod's network.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.run.metrics_file import read_rows
from experiments.run.sessions import read_sessions

CASES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2))  # processes, devices of each
STEPS, WINDOW = 40, 10  # steps of a run; steps of a window of its rates, the first of which is left out
REDUCTIONS = 20
COLUMNS = ("processes", "devices", "images/s", "efficiency", "input wait", "all-reduce ms", "step ms", "evaluation s")


def start(program: list[str], processes: int, devices: int) -> list[str]:
    """Run a program in processes that join each other. Return the output of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    own = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    running = []
    for rank in range(processes):
        joined = [f"--coordinator=localhost:{port}", f"--processes={processes}", f"--process={rank}"]
        command = [sys.executable, *program, *(joined if processes > 1 else [])]
        running.append(subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, encoding="utf-8"))
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"error: {program} has failed in {processes} processes of {devices} devices; its output is above")
    return printed


def measure(config: str, data_dir: str, batch: int, processes: int, devices: int) -> dict[str, float]:
    """Train a short run, and reduce arrays of its parameters' size."""
    count = processes * devices
    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "steps": STEPS,
            "eval_every": STEPS,
            "checkpoint_every": STEPS,
            "log_every": WINDOW,
            "batch_size": batch * count,
        }
        flags = [f"--config.train.{name}={value}" for name, value in fields.items()]
        flags += [f"--config.eval.batch_size={batch * count}", "--config.wandb.mode=disabled"]
        start(
            ["main.py", f"--config={config}", f"--workdir={folder}", f"--tfds_data_dir={data_dir}", *flags],
            processes,
            devices,
        )
        rows = read_rows(pathlib.Path(folder) / "metrics.jsonl")
        parameters = read_sessions(pathlib.Path(folder) / "evidence.json")[0]["parameters"]
    rates = [row["time/images_per_second"] for row in rows if "time/images_per_second" in row][1:]
    printed = start(["-m", "benchmarks.scaling", f"--reduce={parameters}"], processes, devices)
    rate = statistics.median(rates)
    return {
        "processes": processes,
        "devices": count,
        "images/s": rate,
        "input wait": statistics.mean(row["time/input_wait"] for row in rows if "time/input_wait" in row),
        "all-reduce ms": json.loads(printed[0].splitlines()[-1]),
        "step ms": 1000 * batch * count / rate,
        "evaluation s": rows[-1]["time/evaluation"],
    }


def reduce(size: int) -> float:
    """Return the median milliseconds of an all-reduce of `size` numbers from every device."""
    from experiments.run import processes

    flags = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    count, number = (int(flags[name]) if name in flags else None for name in ("processes", "process"))
    processes.join(flags.get("coordinator"), count, number)

    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from experiments.run import sharding

    mesh = sharding.make_mesh((1, -1, 1))
    rows = np.ones((jax.local_device_count(), size), np.float32)
    array = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), rows)
    total = jax.jit(lambda values: values.sum(0), out_shardings=sharding.replicated(mesh)).lower(array).compile()
    seconds = []
    for _ in range(REDUCTIONS):
        began = time.perf_counter()
        jax.block_until_ready(total(array))
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure weak scaling on this machine's CPU.")
    parser.add_argument("--config", default="configs/unet_shapes.py", help="the experiment")
    parser.add_argument("--tfds_data_dir", default="data", help="the folder of prepared datasets")
    parser.add_argument("--batch_size", type=int, default=8, help="batch size of each device")
    parser.add_argument("--reduce", type=int, help="internal: all-reduce this many numbers in one of several processes")
    flags, _ = parser.parse_known_args()
    if flags.reduce:
        print(json.dumps(reduce(flags.reduce)))
        return
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    alone, cores = 0.0, os.cpu_count() or 1
    for processes, devices in CASES:
        row = measure(flags.config, flags.tfds_data_dir, flags.batch_size, processes, devices)
        alone = alone or row["images/s"]
        row["efficiency"] = row["images/s"] / (alone * min(row["devices"], cores))
        print(
            "| "
            + " | ".join(f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
