"""A board on which processes post their findings. It needs no devices, and every wait has a deadline."""

import time

import jax

# jax has no public name for the key-value store of its coordination service. Orbax imports it from here, too.
from jax._src import distributed


class Board:
    """The texts that processes post, by topic. Each process posts once per topic."""

    def __init__(self, deadline: float):
        """Open the board. No wait lasts beyond `deadline`, a value of time.monotonic()."""
        self.count, self.number = jax.process_count(), jax.process_index()
        self._client, self._deadline = distributed.global_state.client if self.count > 1 else None, deadline
        self._own: dict[str, str] = {}

    @property
    def left(self) -> float:
        """The seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def post(self, topic: str, text: str) -> None:
        """Post this process's text."""
        self._own[topic] = text
        if self._client is not None:
            self._client.key_value_set(f"preflight/{topic}/{self.number}", text)

    def read(self, topic: str, seconds: float, number: int) -> str | None:
        """Return the text of a process, or None if it posts nothing in `seconds`."""
        if number == self.number or self._client is None:
            return self._own.get(topic)
        try:
            wait = max(1, int(1000 * min(seconds, self.left)))
            return self._client.blocking_key_value_get(f"preflight/{topic}/{number}", wait)
        except jax.errors.JaxRuntimeError:
            return None

    def read_all(self, topic: str, seconds: float) -> list[str | None]:
        """Return the text of each process, or None. Wait at most `seconds` for all of them together."""
        end = time.monotonic() + seconds
        return [self.read(topic, max(0.0, end - time.monotonic()), number) for number in range(self.count)]
