"""What the `sweep()` and the `search()` of a config file are made of: lists of runs, and the values that they draw.

A run is a dict of fields and their values, `{"optim.lr": 1e-3, "seed.init": 2}`. Two keys are not fields:

    config    another experiment, as after --config= on a command line; the sweep's own file where a run has none
    name      what the run is called, in place of the fields that it sets

    def sweep() -> list[sweeps.Run]:
        rates = sweeps.grid({"optim.lr": (1e-3, 3e-3), "optim.weight_decay": (0.0, 1e-4)})
        return sweeps.product(rates + [{"optim.name": "sgd", "optim.lr": 0.1}], sweeps.seeds(3))

The `search()` of a config file returns a space instead: fields, and the distributions that a search draws their values from.

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
TRIES = 100  # draws for each run that is asked for: in a small space many are equal


@dataclasses.dataclass(frozen=True)
class Span:
    """Numbers from `low` to `high`, both included: `whole` ones only, or spread evenly over their logarithm."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def place(self, share: float) -> float:
        """Returns the number at a share in [0, 1) of the span; one that is not whole has four digits."""
        if self.whole:
            return int(self.low) + math.floor(share * (int(self.high) - int(self.low) + 1))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.round(value)

    def round(self, value: float) -> float:
        """Returns the number nearest to a value that runs are given: a whole one, or one of four digits."""
        return int(value) if self.whole else min(max(float(f"{value:.4g}"), self.low), self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, each as likely as another."""

    values: tuple

    def place(self, share: float) -> Any:
        """Returns the value at a share in [0, 1) of the list."""
        return self.values[math.floor(share * len(self.values))]


Space = Mapping[str, Span | Choice]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Another run of the same sweep, by its `name`."""

    name: str


def uniform(low: float, high: float) -> Span:
    """Returns the numbers from `low` to `high`."""
    return Span(*_ends("uniform", low, high))


def log_uniform(low: float, high: float) -> Span:
    """Returns the numbers from `low` to `high`, each power of ten as likely as another."""
    if low <= 0:
        raise UserError(f"log_uniform({low}, {high}): both ends must be above 0")
    return Span(*_ends("log_uniform", low, high), log=True)


def integers(low: int, high: int) -> Span:
    """Returns the whole numbers from `low` to `high`, both included."""
    return Span(*_ends("integers", low, high), whole=True)


def choice(values: Sequence) -> Choice:
    """Returns a choice between these values."""
    return Choice(_values("choice", values))


def grid(space: Mapping[str, Sequence]) -> list[Run]:
    """Returns a run for every combination of the fields' values; the last field varies fastest."""
    lists = [_values(f"grid: {field}", values) for field, values in space.items()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def product(*lists: Sequence[Run]) -> list[Run]:
    """Returns a run for every combination of one run from each list. Raises UserError where two of them set one field."""
    combined = []
    for runs in itertools.product(*lists):
        names = [name for run in runs for name in run]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"product: {twice[0]} is set by runs of two lists; set it in one of them")
        combined.append({name: value for run in runs for name, value in run.items()})
    return combined


def draw(count: int, space: Space, seed: int = 0) -> list[Run]:
    """Returns `count` different runs with values drawn at random, the same ones at every call.

    A larger count keeps the runs of a smaller one: a sweep can grow. Raises UserError where the space has fewer runs.
    """
    check_space("draw", space)
    generators = {field: random.Random(f"{seed} {field}") for field in space}
    drawn: dict[str, Run] = {}  # in their order, each once
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
    """Raises UserError, beginning with `what`, where a field's values are no distribution."""
    for field, values in space.items():
        if not isinstance(values, Span | Choice):
            raise UserError(
                f"{what}: {field}={values!r} is not a distribution; use sweeps.uniform, log_uniform, integers or choice"
            )


def seeds(count: int, first: int = 0) -> list[Run]:
    """Returns runs that differ in `seed.init`: their parameters and dropout; the order of the data stays the same."""
    return [{"seed.init": first + number} for number in range(count)]


def run(name: str) -> Reference:
    """Returns what `init_from` may be: the run of this sweep with that `name`. It is waited for.

    Where several runs have the name, it is the one that shares the values of the fields in which those differ.
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
