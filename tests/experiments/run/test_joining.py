"""The rules that make a process one of several, and the errors for incomplete flags."""

import pytest

from errors import UserError
from experiments.run.processes import NOISE, _explain, are_several, join

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
}


@pytest.mark.parametrize(
    ("arguments", "environment", "several"),
    [
        ([], {}, False),
        (["--processes=2"], {}, True),
        (["--processes", "4", "--process", "1"], {}, True),
        (["--processes=1"], SLURM, False),
        ([], SLURM, True),
        ([], SLURM | {"SLURM_NTASKS": "1"}, False),
        ([], {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}, False),  # a batch script without srun
        ([], {"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ([], {"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ([], {"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ([], {"TPU_WORKER_HOSTNAMES": "a"}, False),
        ([], {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
    ],
)
def test_flags_and_environment_decide_whether_there_are_several(arguments, environment, several):
    assert are_several(["main.py", *arguments], environment) == several


@pytest.mark.parametrize(
    ("given", "missing"),
    [(("host:1", None, None), "processes"), ((None, 2, 0), "coordinator"), (("host:1", 2, None), "process")],
)
def test_incomplete_flags_are_refused_in_one_line(given, missing):
    with pytest.raises(UserError, match=f"--{missing} is missing; give all of --coordinator=HOST:PORT"):
        join(*given)


def test_a_single_process_joins_no_other():
    join(None, None, None)
    join(None, 1, None)


LAST_WORDS = """E1127 18:18:32.320820   22638 coordination_service.cc:1549] Use error polling to propagate the error: \
UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
3
The tasks have crashed.
"""


def test_log_of_an_abort_in_jax_becomes_one_line():
    assert NOISE.match(LAST_WORDS)
    assert _explain(LAST_WORDS).startswith("stopped: process 1, 3 of this run has ended or cannot be reached")
    assert _explain("UNAVAILABLE: Socket closed").startswith("stopped: process 0 of this run")
    assert not NOISE.match("step 50/4000  loss 0.5447") and not NOISE.match("W1127 18:18:32.320820 12 other.cc:3] text")
