"""The parts of a config file's `sweep()` and `search()`, which make lists of runs and distributions of values.

A run is a dict of fields and their values, `{"optim.lr": 1e-3, "seed.init": 2}`. Two keys are not fields:

    config    another experiment, as after --config= on a command line; by default the sweep's own file
    name      name of the run, instead of the fields that it sets

    def sweep() -> list[sweeps.Run]:
        rates = sweeps.grid({"optim.lr": (1e-3, 3e-3), "optim.weight_decay": (0.0, 1e-4)})
        return sweeps.product(rates + [{"optim.name": "sgd", "optim.lr": 0.1}], sweeps.seeds(3))

The `search()` of a config file returns a space: fields and the distributions of their values.

    def search() -> sweeps.Space:
        return {"optim.lr": sweeps.log_uniform(1e-4, 1e-1), "model.width": sweeps.choice([0.35, 0.5])}
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from errors import UserError

Run = dict[str, Any]
TRIES = 100  # draws per requested run, as many are equal in a small space


@dataclasses.dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, both included, optionally only `whole` ones or log-uniform."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def place(self, share: float) -> float:
        """Return the number at a share in [0, 1) of the span, rounded to four digits if it is not whole."""
        if self.whole:
            return int(self.low) + math.floor(share * (int(self.high) - int(self.low) + 1))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.round(value)

    def round(self, value: float) -> float:
        """Return the nearest number that a run can get, which is whole or has four digits."""
        return int(value) if self.whole else min(max(float(f"{value:.4g}"), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several equally likely values."""

    values: tuple

    def place(self, share: float) -> Any:
        """Return the value at a share in [0, 1) of the list."""
        return self.values[math.floor(share * len(self.values))]


Space = Mapping[str, Span | Choice]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Another run of the same sweep, by its `name`."""

    name: str


def uniform(low: float, high: float) -> Span:
    """Return the numbers from `low` to `high`."""
    return Span(*_ends("uniform", low, high))


def log_uniform(low: float, high: float) -> Span:
    """Return the numbers from `low` to `high`, uniform in their logarithm."""
    if low <= 0:
        raise UserError(f"log_uniform({low}, {high}): both ends must be above 0")
    return Span(*_ends("log_uniform", low, high), log=True)


def integers(low: int, high: int) -> Span:
    """Return the integers from `low` to `high`, both included."""
    return Span(*_ends("integers", low, high), whole=True)


def choice(values: Sequence) -> Choice:
    """Return a choice between these values."""
    return Choice(_values("choice", values))


def grid(space: Mapping[str, Sequence]) -> list[Run]:
    """Return a run for every combination of the fields' values, with the last field varying fastest."""
    lists = [_values(f"grid: {field}", values) for field, values in space.items()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def product(*lists: Sequence[Run]) -> list[Run]:
    """Return a run for every combination of one run from each list. Raises UserError if two of them set one field."""
    combined = []
    for runs in itertools.product(*lists):
        names = [name for run in runs for name in run]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"product: {twice[0]} is set by runs of two lists; set it in one of them")
        combined.append({name: value for run in runs for name, value in run.items()})
    return combined


def draw(count: int, space: Space, seed: int = 0) -> list[Run]:
    """Return `count` different runs with values drawn at random, the same ones at every call.

    A larger count keeps the runs of a smaller one, so a sweep can grow. Raises UserError if the space has fewer runs.
    """
    check_space("draw", space)
    generators = {field: random.Random(f"{seed} {field}") for field in space}
    drawn: dict[str, Run] = {}  # in order, each once
    for _ in range(TRIES * count):
        run = {field: space[field].place(generators[field].random()) for field in space}
        drawn.setdefault(repr(run), run)
        if len(drawn) == count:
            break
    if len(drawn) < count:
        raise UserError(
            f"draw: the space of {', '.join(space)} has hardly more than {len(drawn)} runs, not {count}; use grid"
        )
    return list(drawn.values())


def check_space(what: str, space: Space) -> None:
    """Raise UserError, beginning with `what`, if a field's values are not a distribution."""
    for field, values in space.items():
        if not isinstance(values, Span | Choice):
            raise UserError(
                f"{what}: {field}={values!r} is not a distribution; use sweeps.uniform, log_uniform, integers or choice"
            )


def seeds(count: int, first: int = 0) -> list[Run]:
    """Return runs that differ in `seed.init`, which seeds parameters and dropout but not the order of the data."""
    return [{"seed.init": first + number} for number in range(count)]


def run(name: str) -> Reference:
    """Return a value for `init_from`, the run of this sweep with that `name`, which has to finish first.

    If several runs have the name, it is the one with the same values of the fields in which they differ.
    """
    return Reference(name)


def _ends(kind: str, low: float, high: float) -> tuple[float, float]:
    if low > high:
        raise UserError(f"{kind}({low}, {high}): the first number must not be above the second")
    return low, high


def _values(what: str, values: Sequence) -> tuple:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise UserError(f"{what}: {values!r} is not a list of values; write [{values!r}]")
    return tuple(values)
