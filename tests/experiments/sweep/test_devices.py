"""The number of runs at a time, and the GPU that each of them sees."""

import pytest

from experiments.sweep.devices import find_gpus, make_slots


@pytest.fixture
def machine(tmp_path):
    """The environment of a machine with two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-1)'\necho '  MIG x'\necho 'GPU 1: two (UUID: GPU-2)'\n")
    program.chmod(0o755)
    return {"PATH": str(tmp_path)}


def test_each_gpu_gets_one_run(machine):
    assert make_slots(None, machine) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert make_slots(1, machine) == [{"CUDA_VISIBLE_DEVICES": "0"}]


def test_runs_that_share_a_gpu_share_its_memory(machine):
    slots = make_slots(3, machine)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0"]
    assert {slot["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in slots} == {"0.375"}
    own = machine | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2"}
    assert not any("XLA_PYTHON_CLIENT_MEM_FRACTION" in slot for slot in make_slots(3, own))


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["1"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2, GPU-1"}, ["GPU-2", "GPU-1"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"JAX_PLATFORMS": "cpu"}, []),
        ({"JAX_PLATFORMS": "cuda,cpu"}, ["0", "1"]),
        ({"PATH": "/nowhere"}, []),
    ],
)
def test_the_environment_selects_the_gpus(machine, environment, gpus):
    assert find_gpus(machine | environment) == gpus


def test_a_failing_driver_has_no_gpus(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: no driver'\nexit 9\n")
    program.chmod(0o755)
    assert make_slots(None, {"PATH": str(tmp_path)}) == [{}] and make_slots(2, {"PATH": str(tmp_path)}) == [{}, {}]
