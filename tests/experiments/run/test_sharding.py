import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from errors import UserError
from experiments.run import sharding
from tests.processes import devices_of_cpu

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = """
import json, sys
import numpy as np
from models import registry
from tests.experiments.run import test_step
registry.MODELS["tiny"] = "tests.experiments.run.test_step:Tiny"
state, logs = test_step.run(norm="batch", mesh=tuple(json.loads(sys.argv[1])))
held = sum(value.addressable_shards[0].data.nbytes for value in state.params.values())
values = {name: np.asarray(value).tolist() for name, value in (state.params | state.rest | logs).items()}
print(json.dumps([held, values]))
"""


def run_on(devices: int, mesh: tuple[int, int, int]) -> tuple[int, dict[str, np.ndarray]]:
    """Take three steps of a small model on `devices` of this CPU. Returns the parameter bytes on one, and all values."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(mesh)]
    done = subprocess.run(command, cwd=ROOT, env=devices_of_cpu(devices), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held, values = json.loads(done.stdout.splitlines()[-1])
    return held, {name: np.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("devices", "mesh", "most"), [pytest.param(2, (1, -1, 1), 1.0, marks=pytest.mark.slow), (4, (1, 2, 2), 0.6)]
)
def test_the_number_of_devices_does_not_change_the_values(devices, mesh, most):
    (whole, one), (held, many) = run_on(1, (1, -1, 1)), run_on(devices, mesh)
    assert held <= most * whole, "a device along fsdp holds only its part of the parameters"
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"config.mesh=\(1, 3, 5\)"):
        sharding.make_mesh((1, 3, 5))


def test_a_batch_that_does_not_divide_is_refused():
    mesh = sharding.make_mesh((1, -1, 1))
    sharding.check_batch_size("train.batch_size", 8, mesh, accumulate=4)
    with pytest.raises(UserError, match=r"train.batch_size=6.*multiple of 4"):
        sharding.check_batch_size("train.batch_size", 6, mesh, accumulate=4)


def test_large_arrays_are_split_along_their_largest_axis():
    mesh = jax.sharding.AbstractMesh((1, 2, 4), sharding.AXES)
    assert sharding.partition("head/kernel", (3, 3, 8, 64), mesh) == PartitionSpec(None, None, None, "fsdp")
    assert sharding.partition("head/kernel", (3, 3, 7, 5), mesh) == PartitionSpec()
    assert sharding.partition("head/bias", (64,), mesh) == PartitionSpec()
