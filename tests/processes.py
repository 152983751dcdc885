"""Several processes of one mesh on this machine, each with one CPU device or more."""

import json
import os
import socket
import subprocess
import sys

from tests.conftest import ROOT

HEAD = """
import json, sys
import jax

rank, count, port = map(int, sys.argv[1:])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, rank)
"""


def run_together(program: str, count: int, devices: int = 1) -> list:
    """What each of `count` processes prints as JSON in its last line, running `program` once jax knows of the others.

    Each has `devices` of the CPU's making.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", HEAD + program, str(rank), str(count), str(port)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=300) for process in running]
    assert not any(process.returncode for process in running), outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]
