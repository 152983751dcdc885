"""A loop over all examples of a split, on threads."""

import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

CHUNK = 256  # images given to the threads at a time: few results wait, and Ctrl-C works soon


def read_each(look: Callable[[int], Any], count: int, num_threads: int) -> Iterator[Any]:
    """Yield the result of `look` for each index below `count`, in order."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, count, CHUNK):
            yield from pool.map(look, range(first, min(first + CHUNK, count)))
