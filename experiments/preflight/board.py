"""A board on which processes post what they have found. It needs no devices, and no process waits on it for ever."""

import time

import jax

# jax has no public name for the key-value store of its coordination service; Orbax takes it from here, too.
from jax._src import distributed


class Board:
    """What each process has posted, by topic. Every process posts once a topic."""

    def __init__(self, deadline: float):
        """`deadline` is of time.monotonic(): nothing is waited for longer."""
        self._client, self._deadline = distributed.global_state.client, deadline
        self._own: dict[str, str] = {}
        self.count, self.number = jax.process_count(), jax.process_index()

    @property
    def left(self) -> float:
        """The seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def post(self, topic: str, text: str) -> None:
        """Post this process's text."""
        self._own[topic] = text
        if self.count > 1:
            self._client.key_value_set(f"preflight/{topic}/{self.number}", text)

    def read(self, topic: str, seconds: float, number: int) -> str | None:
        """Return what a process has posted; None where it has posted nothing in `seconds`."""
        if number == self.number:
            return self._own.get(topic)
        try:
            wait = max(1, int(1000 * min(seconds, self.left)))
            return self._client.blocking_key_value_get(f"preflight/{topic}/{number}", wait)
        except jax.errors.JaxRuntimeError:
            return None

    def read_all(self, topic: str, seconds: float) -> list[str | None]:
        """Return what each process has posted, after waiting for all of them together for `seconds` at most."""
        end = time.monotonic() + seconds
        return [self.read(topic, max(0.0, end - time.monotonic()), number) for number in range(self.count)]
