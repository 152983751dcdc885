"""Write evidence.json, the record of a run's code, packages, devices, data and speed, to check and repeat its figures."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.run.metrics_file import plain
from experiments.run.sessions import read_sessions
from files import digest_json, write_atomically

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "grain")


class Evidence:
    """One session of a run, from its start or resume to its end. The file also keeps the earlier sessions."""

    def __init__(
        self,
        workdir: Path,
        *,
        step: int,
        seeds: Mapping[str, int],
        parameters: int,
        data: Mapping[str, str],
        best: Mapping[str, str | bool],
        plans: Sequence[Mapping[str, Any]],
        changed: Mapping[str, Sequence],
    ):
        """Collect the facts of the start, and write them.

        `step` is 0 or the restored step. `seeds` are those of config.seed. `parameters` is the number of parameters. `data`
        holds the fingerprint of each split. `best` holds the `score` that chooses the best checkpoint, and
        `smaller_is_better`. `plans` and `changed` are those of a Resumption. Raises UserError if an earlier evidence.json
        is damaged or the write fails.
        """
        self.path = workdir / "evidence.json"
        self._earlier = read_sessions(self.path)
        self._session = {
            "started": _now(),
            "first_step": step,
            "seeds": dict(seeds),
            "parameters": parameters,
            "data": dict(data),
            "best": dict(best),
            "plans": list(plans),
            "changed": dict(changed),
            **environment(),
        }
        self._write()

    def update(
        self,
        *,
        step: int,
        flops_per_step: float | None,
        compilations: int,
        devices_of_run: int,
        runs_on_devices: int,
        images_per_second: float,
        input_wait: float,
        saved: int | None = None,
    ) -> None:
        """Write the session's measurements up to `step`. Call this at the end, and whenever the run may end.

        The run uses `devices_of_run` devices. `runs_on_devices` members share them in turn. `saved` is the step of a
        complete checkpoint from which the run can resume. `images_per_second` counts training images. `input_wait` is the
        share of time spent waiting for input, 0 to 1.
        """
        self._session |= {
            "updated": _now(),
            "saved": self._session.get("saved") if saved is None else saved,
            "last_step": step,
            "flops_per_step": flops_per_step,
            "compilations": compilations,
            "devices_of_run": devices_of_run,
            "runs_on_devices": runs_on_devices,
            "images_per_second": plain(images_per_second),
            "train/input_wait": plain(input_wait),
        }
        self._write()

    def _write(self) -> None:
        sessions = [*self._earlier, self._session]
        content = json.dumps({"sessions": sessions, "sha256": digest_json(sessions)}, indent=2)
        write_atomically(self.path, content.encode() + b"\n")


def environment() -> dict:
    """Return the code's commit, the package versions and the devices, as values of JSON."""
    devices = jax.devices()
    return {
        "git": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
    }


def commit(folder: Path) -> dict | None:
    """Return the git commit of a folder and whether its tree is dirty. None outside a repository or without git."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return {"commit": head, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def flops(compiled: jax.stages.Compiled) -> float | None:
    """Return the floating-point operations of one call, as XLA counts them on one device. None if it does not count."""
    analysis = compiled.cost_analysis()
    return None if analysis is None or "flops" not in analysis else float(analysis["flops"])


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=10
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
