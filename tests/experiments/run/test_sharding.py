import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from errors import UserError
from experiments.run import sharding

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
import json, sys
import numpy as np
from models import registry
from tests.experiments.run import test_step
registry.MODELS["tiny"] = "tests.experiments.run.test_step:Tiny"
state, logs = test_step.run(norm="batch", mesh=tuple(json.loads(sys.argv[1])))
print(json.dumps({name: np.asarray(value).tolist() for name, value in (state.params | state.rest | logs).items()}))
"""


def run_on(devices: int, mesh: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Three steps of a small model with BatchNorm on `devices` of this CPU's making."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(mesh)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.asarray(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def test_devices_share_a_batch_and_its_statistics():
    one = run_on(1, (1, -1, 1))
    for devices, mesh in [(2, (1, -1, 1)), (4, (1, 2, 2))]:
        many = run_on(devices, mesh)
        for name, value in one.items():
            np.testing.assert_allclose(many[name], value, rtol=1e-4, atol=1e-6, err_msg=f"{name} on {mesh}")


def test_a_mesh_that_does_not_fit_is_one_clear_line():
    with pytest.raises(UserError, match=r"config.mesh=\(1, 3, 5\)"):
        sharding.make_mesh((1, 3, 5))


def test_the_batch_must_divide():
    mesh = sharding.make_mesh((1, -1, 1))
    sharding.check_batch_size("train.batch_size", 8, mesh, accumulate=4)
    with pytest.raises(UserError, match=r"train.batch_size=6.*multiple of 4"):
        sharding.check_batch_size("train.batch_size", 6, mesh, accumulate=4)


def test_large_arrays_are_split_along_their_largest_axis():
    mesh = jax.sharding.AbstractMesh((1, 2, 4), sharding.AXES)
    assert sharding.partition("head/kernel", (3, 3, 8, 64), mesh) == PartitionSpec(None, None, None, "fsdp")
    assert sharding.partition("head/kernel", (3, 3, 7, 5), mesh) == PartitionSpec()
    assert sharding.partition("head/bias", (64,), mesh) == PartitionSpec()
