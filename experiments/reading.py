"""All examples of a split, once each and on threads, for what is counted or drawn of them."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

CHUNK = 256  # images handed to the threads at a time: what waits stays small, and Ctrl-C need not wait for long


def read_each(look: Callable[[int], Any], count: int, num_threads: int) -> Iterator[Any]:
    """Yield what `look` returns for each index below `count`, in order."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, count, CHUNK):
            yield from pool.map(look, range(first, min(first + CHUNK, count)))
