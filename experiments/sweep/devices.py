"""The GPUs of this machine, and the environment variables that give a run one of them. JAX is not imported here."""

import math
import os
import shutil
import subprocess
from collections.abc import Mapping

GPU_MEMORY = 0.75  # the share of a GPU's memory that JAX takes at its start


def make_slots(jobs: int | None, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """Return the environment variables of each run that goes on at the same time.

    There are `jobs` runs at a time; by default one for each GPU, or one without a GPU. Each run sees one GPU. Runs that share
    a GPU share its memory.
    """
    gpus = find_gpus(environment)
    count = jobs or max(len(gpus), 1)
    if not gpus:
        return [{} for _ in range(count)]
    sharing = math.ceil(count / len(gpus))
    memory = {} if sharing == 1 else {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_MEMORY / sharing:.3f}"}
    memory = {name: value for name, value in memory.items() if name not in environment}
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} | memory for number in range(count)]


def find_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the NVIDIA GPUs that CUDA_VISIBLE_DEVICES allows, by default all of this machine."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    allowed = environment.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, encoding="utf-8", errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [str(number) for number, _ in enumerate(line for line in lines if line.startswith("GPU "))]
