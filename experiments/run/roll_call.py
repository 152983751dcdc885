"""A roll call before jax joins its processes, which names each missing process and the reason.

jax alone aborts without a name. Process 0 listens on the coordinator's port, which proves that the port is open, and frees it
before jax needs it. Imports no jax.
"""

import contextlib
import json
import socket
import time

from errors import UserError

PAUSE = 0.2  # seconds between two attempts
LENGTH = 2**16  # of a message, in bytes


def call_the_roll(coordinator: str, count: int, number: int, seconds: float) -> None:
    """Wait until all `count` processes are present. Each process calls this with its own `number`.

    Raises UserError in every process that is present if one is missing after `seconds`, comes twice or expects another
    count. The error names it.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"--coordinator={coordinator!r} is not HOST:PORT; give the address of process 0, such as 10.0.0.2:1234"
        )
    own = {"number": number, "count": count, "host": socket.gethostname()}
    verdict = _listen(int(port), own, seconds) if number == 0 else _answer(host, int(port), own, seconds)
    if verdict:
        raise UserError(verdict)


def _listen(port: int, own: dict, seconds: float) -> str:
    """Collect who is present, send the verdict to everyone, and return it. "" means that all is well."""
    deadline, said = time.monotonic() + seconds, [own]
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_open_server(port))
        except OSError as error:
            raise UserError(
                f"process 0 on {own['host']} cannot listen on port {port} ({error.strerror}); choose another --coordinator"
            ) from None
        connections = []
        while len({one["number"] for one in said}) < own["count"] and time.monotonic() < deadline:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            with contextlib.suppress(OSError, ValueError, KeyError):
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5)
                one = json.loads(connection.makefile(encoding="utf-8").readline(LENGTH))
                said.append({name: one[name] for name in own})
                connections.append(connection)
        verdict = judge(said, own["count"], seconds)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(verdict).encode() + b"\n")
    return verdict


def _open_server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _answer(host: str, port: int, own: dict, seconds: float) -> str:
    """Report this process to process 0 and return the verdict. "" means that all is well."""
    deadline, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(json.dumps(own).encode() + b"\n")
                connection.settimeout(seconds + 5)
                line = connection.makefile(encoding="utf-8").readline(LENGTH)
                if line:
                    return json.loads(line)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        time.sleep(PAUSE)
    return (
        f"process {own['number']} on {own['host']} has not reached process 0 at {host}:{port} in {seconds:.0f} s ({reason}); "
        "check that process 0 runs there and that the port is open"
    )


def judge(said: list[dict], count: int, seconds: float) -> str:
    """Return the faults of the processes that are present. "" means that all is well."""
    hosts: dict[int, list[str]] = {}
    for one in said:
        hosts.setdefault(one["number"], []).append(one["host"])
    wrong = [
        f"process {one['number']} on {one['host']} expects {one['count']} processes"
        for one in said
        if one["count"] != count
    ]
    wrong += [f"{' and '.join(names)} both claim to be process {one}" for one, names in hosts.items() if names[1:]]
    missing = sorted(set(range(count)) - hosts.keys())
    if missing and not wrong:
        present = ", ".join(f"{one} on {names[0]}" for one, names in sorted(hosts.items()))
        wrong.append(
            f"process {', '.join(map(str, missing))} of {count} is missing after {seconds:.0f} s (present: {present}); start it, "
            "or check why it cannot reach process 0"
        )
    return "; ".join(wrong)
