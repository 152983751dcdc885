"""The roll call of processes, each played by a thread. One may be missing, come twice or expect another count."""

import concurrent.futures
import socket
import time

import pytest

from errors import UserError
from experiments.run.roll_call import call_the_roll, judge
from tests.processes import find_port


def call(*said: tuple[int, int], seconds: float = 2.0) -> list[str]:
    """Return the error of each process, given as (number, count). "" means that all is well."""
    coordinator = f"localhost:{find_port()}"

    def one(number: int, count: int) -> str:
        try:
            call_the_roll(coordinator, count, number, seconds)
        except UserError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(said)) as pool:
        return list(pool.map(one, *zip(*said, strict=True)))


def test_complete_processes_continue_at_once():
    began = time.monotonic()
    assert call((1, 3), (2, 3), (0, 3), seconds=20) == ["", "", ""]
    assert time.monotonic() - began < 10


def test_every_process_names_the_missing_one():
    told = call((0, 3), (2, 3))
    assert told[0] == told[1]
    assert told[0].startswith("process 1 of 3 is missing after 2 s (present: 0 on ")


def test_without_process_0_the_others_name_its_address():
    (told,) = call((1, 2))
    assert told.startswith("process 1 on ") and "has not reached process 0 at localhost:" in told
    assert "check that process 0 runs there and that the port is open" in told


def test_two_processes_with_the_same_number_are_named():
    said = [{"number": number, "count": 3, "host": host} for number, host in ((0, "a"), (1, "b"), (1, "c"))]
    assert judge(said, 3, 1) == "b and c both claim to be process 1"


def test_a_process_with_another_count_is_named():
    told = call((0, 2), (1, 3))
    assert told[0] == told[1] and told[0].startswith("process 1 on ") and told[0].endswith("expects 3 processes")


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {port} .*; choose another --coordinator"):
            call_the_roll(f"localhost:{port}", 2, 0, 1.0)


def test_a_coordinator_without_a_port_is_refused():
    with pytest.raises(UserError, match="--coordinator='host' is not HOST:PORT"):
        call_the_roll("host", 2, 0, 1.0)
