"""The definition of a sweep, the runs of `sweep()` in a config file, or of a search, the space of `search()`."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from configs import sweeps
from errors import UserError
from experiments.run.metrics_file import plain
from experiments.user_code import explain, read_source


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as the sweep defines it. In a list of runs it comes after the run that it starts from."""

    config: str  # the value of --config
    fields: Mapping[str, Any]  # {field: value} that it sets
    name: str = ""
    start: int | None = None  # the position of the run whose parameters it starts from


def load(config: str, overrides: Mapping[str, str]) -> list[Run]:
    """Return the runs that the file `config` (`FILE` or `FILE:VARIANT`) defines, each after the one that it starts from.

    `overrides` are fields that the command line sets for all runs; they replace the runs' own values. VARIANT applies to each
    run whose config has no variant. Raise UserError, with the number of the run, for an invalid run.
    """
    path, _, variant = config.partition(":")
    drawn = _call(pathlib.Path(path), "sweep")
    if not isinstance(drawn, Sequence) or not drawn:
        raise UserError(f"{path}: sweep() returns {drawn!r}; return a list of at least one run")
    runs = [_read_run(f"{path}: run {number}", run, config, overrides) for number, run in enumerate(drawn, start=1)]
    runs = [
        dataclasses.replace(run, config=f"{run.config}:{variant}") if variant and ":" not in run.config else run
        for run in runs
    ]
    return _order([_resolve_start(path, run, runs) for run in runs], path)


def load_space(config: str, overrides: Mapping[str, str]) -> dict[str, sweeps.Span | sweeps.Choice]:
    """Return the search space that the file `config` defines, without the fields that `overrides` set.

    Raise UserError, with the name of the field, for an invalid distribution.
    """
    path, _, _ = config.partition(":")
    space = _call(pathlib.Path(path), "search")
    if not isinstance(space, Mapping) or not all(isinstance(field, str) for field in space):
        raise UserError(f"{path}: search() returns {space!r}; return a dict of fields and their distributions")
    sweeps.check_space(f"{path}: search()", space)
    left = {field: values for field, values in space.items() if field not in overrides}
    if not left:
        raise UserError(f"{path}: search() has no field left to search; add one that the command line does not set")
    return left


def _call(path: pathlib.Path, function: str) -> Any:
    if not path.is_file():
        raise UserError(f"--config={path}: the file does not exist; correct the path")
    spec = importlib.util.spec_from_file_location(f"sweep_of_{path.stem}", path)
    try:
        if spec is None or spec.loader is None:
            raise UserError(f"--config={path} is not a Python file; name one that ends in .py")
        module = importlib.util.module_from_spec(spec)
        with read_source():
            spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise UserError(f"{path} has no function {function}(); docs/sweeps.md shows how to write one")
        return getattr(module, function)()
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    except (Exception, SystemExit) as error:  # any error of the user's code
        raise UserError(explain(error, path) or f"{path}: {type(error).__name__}: {error}") from error


def _read_run(where: str, run: Any, config: str, overrides: Mapping[str, str]) -> Run:
    if not isinstance(run, Mapping) or not all(isinstance(field, str) for field in run):
        raise UserError(f"{where} is {run!r}; a run is a dict of fields and their values")
    fields = dict(run)
    own, name = fields.pop("config", config), fields.pop("name", "")
    for key, value in (("config", own), ("name", name)):
        if not isinstance(value, str):
            raise UserError(f"{where}: {key}={value!r} must be text")
    fields = {field: value for field, value in fields.items() if field not in overrides}
    for field, value in fields.items():
        if isinstance(value, Mapping):
            raise UserError(f"{where}: {field} is a section; set its fields one by one, such as {field}.name")
        if isinstance(value, sweeps.Reference) and field != "init_from":
            raise UserError(f"{where}: {field}={value!r}; only init_from can name another run")
    # Numbers of numpy become Python's, a tuple becomes a list, as in JSON.
    return Run(own, {field: plain(value) for field, value in fields.items()}, name)


def _resolve_start(path: str, run: Run, runs: Sequence[Run]) -> Run:
    reference = run.fields.get("init_from")
    if not isinstance(reference, sweeps.Reference):
        return run
    named = [other for other in runs if other.name == reference.name]
    fields = {field for other in named for field in other.fields}
    differing = {f for f in fields if any(other.fields.get(f) != named[0].fields.get(f) for other in named)}
    agreeing = [other for other in named if all(other.fields.get(f) == run.fields.get(f) for f in differing)]
    where = f"{path}: run {run.name or runs.index(run) + 1}: init_from=run({reference.name!r})"
    if not named:
        known = sorted({other.name for other in runs if other.name})
        raise UserError(
            f"{where}: no run has that name; choose {', '.join(known) or 'a name for a run, its key `name`'}"
        )
    if len(agreeing) != 1:
        raise UserError(
            f"{where}: {len(agreeing)} of the {len(named)} runs with that name have the same values of "
            f"{', '.join(sorted(differing)) or 'all fields'}; exactly one must"
        )
    kept = {field: value for field, value in run.fields.items() if field != "init_from"}
    return dataclasses.replace(run, fields=kept, start=runs.index(agreeing[0]))


def _order(runs: Sequence[Run], path: str) -> list[Run]:
    """Return the runs in their order, but each after the one that it starts from."""
    order: list[int] = []
    for number in range(len(runs)):
        chain: list[int] = []
        following: int | None = number
        while following is not None and following not in order:
            if following in chain:
                names = ", ".join(runs[each].name for each in chain)
                raise UserError(f"{path}: runs {names} start from each other; one of them must come first")
            chain.append(following)
            following = runs[following].start
        order += reversed(chain)
    starts = [runs[number].start for number in order]
    return [
        dataclasses.replace(runs[number], start=None if start is None else order.index(start))
        for number, start in zip(order, starts, strict=True)
    ]
