"""The devices of this machine, and what a run must find in its environment to use one of them. Starts none of them."""

import math
import os
import shutil
import subprocess
from collections.abc import Mapping

GPU_MEMORY = 0.75  # the share of a GPU's memory that JAX takes at its start


def make_slots(jobs: int | None, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """Return what to set in the environment of each of the runs that go on at a time.

    Without `jobs` there is one for each GPU, or a single one. Each sees one GPU; runs that share one share its memory.
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
    """Return the NVIDIA GPUs as CUDA_VISIBLE_DEVICES names them: those that it allows, else all of this machine."""
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
