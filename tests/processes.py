"""Several processes of one mesh on this machine, each with at least one CPU device."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.conftest import ROOT

HEAD = """
import json, sys
import jax

rank, count, port = map(int, sys.argv[1:])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, rank)
"""


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def devices_of_cpu(count: int) -> dict[str, str]:
    """Return the environment of a process with `count` CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start_main(count: int, devices: int, *flags: str, last: Sequence[str] = ()) -> list[subprocess.Popen]:
    """Start main.py in `count` processes of `devices` each, connected by flags. The last one also gets the flags `last`."""
    port = find_port()
    others = [f"--coordinator=localhost:{port}", f"--processes={count}"] if count > 1 else []
    return [
        subprocess.Popen(
            [
                sys.executable,
                "main.py",
                *flags,
                *others,
                *([f"--process={rank}"] if count > 1 else []),
                *(last if rank == count - 1 else ()),
            ],
            cwd=ROOT,
            env=devices_of_cpu(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def run_together(program: str, count: int, devices: int = 1) -> list:
    """Run `program` in `count` processes connected by jax, and return the JSON of each one's last line.

    Each process has `devices` CPU devices.
    """
    port, environment = find_port(), devices_of_cpu(devices)
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
