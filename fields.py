"""Rules for the fields of configs, which are annotations of type, length, range and choices.

A rule is written with typing:

    int  float  bool  str               a float is finite and may be written as a whole number; a bool is not a number
    Literal["a", "b"]                   choices
    Annotated[float, Range(0, 1)]       a range, which includes its ends unless they are open
    tuple[int, int]  tuple[int, ...]    a length, fixed or any, and the rule of each value
    X | Y                               either
    a class with annotated attributes   a section: fields with their rules and defaults
    Annotated[dict, Named(...)]         a mapping whose `name` picks a class; its signature has the rules of the other fields

A field that later code adds has a default, which fills the configs of older runs. Every part may import this file.
"""

import dataclasses
import difflib
import importlib
import inspect
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from errors import UserError
from limits import DIGITS

MISSING = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without the ends that are `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        return above and (value < self.high if self.open in ("high", "both") else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low}" if self.open in ("low", "both") else f"{self.low} or more"
        high = f"below {self.high}" if self.open in ("high", "both") else f"{self.high} at most"
        ends = [text for text, end in ((low, self.low), (high, self.high)) if math.isfinite(end)]
        return " and ".join(ends)


@dataclasses.dataclass(frozen=True)
class Named:
    """The classes of one `kind` by name, each as `module:Class`. The code supplies the parameters in `given`."""

    kind: str  # place of the mapping in a config: "model", "model.backbone", "task"
    known: Mapping[str, str]
    given: frozenset[str]

    def load(self, name: str, where: str = "") -> type:
        """Import and return a class. Raises UserError for an unknown name, with its place `where` (config.KIND)."""
        if not isinstance(name, str) or name not in self.known:
            raise UserError(
                f"{where or f'config.{self.kind}'}.name: unknown {self.kind.split('.')[-1]} {name!r}; "
                f"{hint_at(str(name), self.known)}known: {', '.join(sorted(self.known))}"
            )
        module, _, attribute = self.known[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
NotNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open="low")]
Share = Annotated[float, Range(0, 1)]
Size = tuple[Count, Count]  # (height, width) in pixels


def hint_at(wrong: str, known: Iterable[str]) -> str:
    """Return "did you mean 'NAME'? " with the name in `known` nearest to `wrong`, or "" if none is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def fields_of(rule: Any, name: str = "", where: str = "") -> dict[str, tuple[Any, Any]]:
    """Return `{field: (rule, default or MISSING)}` of a section, or of the class that `name` picks at `where`."""
    named = find_named(rule)
    if named is None:
        return {field: (own, getattr(rule, field, MISSING)) for field, own in _hints(rule).items()}
    return {
        field: own for field, own in _parameters(named.load(name, where).__mro__).items() if field not in named.given
    }


def check(where: str, value: Any, rule: Any) -> None:
    """Raise UserError, naming the field at `where`, unless `value` follows `rule`."""
    named = find_named(rule)
    if rule is MISSING:  # a parameter without an annotation, which a test forbids in classes of a registry
        return
    if named is None and not _is_section(rule):
        if not _follows(value, rule):
            wrong = "is out of its range" if _follows(value, rule, ranges=False) else "is not valid"
            hint = hint_at(value, _choices(rule)) if isinstance(value, str) else ""
            raise UserError(f"{where}={value!r} {wrong}; {hint}it must be {describe(rule)}")
        return
    if not isinstance(value, Mapping):
        raise UserError(f"{where}={value!r} is not valid; it must hold fields")
    values, owner = dict(value), where
    if named is not None:
        owner = values.pop("name", "")
        if not owner:
            raise UserError(f"{where}.name is missing; choose one of {', '.join(sorted(named.known))}")
    known = fields_of(rule, owner, where)
    for field in values:
        if field not in known:
            raise UserError(
                f"{where}.{field} is not a field of {owner}; {hint_at(field, known)}its fields: {', '.join(sorted(known))}"
            )
    missing = [field for field, (_, default) in known.items() if default is MISSING and field not in values]
    if missing:
        raise UserError(f"{where}.{missing[0]}: {owner} needs this field; missing in all: {', '.join(missing)}")
    for field, own in values.items():
        check(f"{where}.{field}", own, known[field][0])


def find_unknown(value: Mapping, rule: Any, prefix: str = "") -> list[str]:
    """Return the paths of fields in `value` and its sections that are not in `rule`, or that should be sections."""
    known, found = fields_of(rule, value.get("name", "")), []
    for field, own in value.items():
        if field in known and (_is_section(known[field][0]) or find_named(known[field][0]) is not None):
            found += (
                find_unknown(own, known[field][0], f"{prefix}{field}.")
                if isinstance(own, Mapping)
                else [prefix + field]
            )
        elif field not in known and (field != "name" or find_named(rule) is None):
            found.append(prefix + field)
    return found


def fill(value: Mapping, rule: Any) -> dict:
    """Return the fields in `value` with the defaults of missing ones, also in its sections."""
    known = fields_of(rule, value.get("name", ""))
    filled = dict(value)
    for field, (own, default) in known.items():
        nested = _is_section(own) or find_named(own) is not None
        if nested and isinstance(value.get(field, {}), Mapping) and (field in value or _is_section(own)):
            filled[field] = fill(value.get(field, {}), own)
        elif default is not MISSING:
            filled.setdefault(field, default)
    return filled


def defaults(section: type) -> dict:
    """Return the fields of a section that have defaults, with these."""
    return fill({}, section)


def describe(rule: Any) -> str:
    """Return a rule in words."""
    origin, arguments = get_origin(rule), get_args(rule)
    if origin is Annotated:
        return ", ".join([describe(arguments[0]), *map(str, arguments[1:])])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        if arguments == ((),) or not arguments:
            return "()"
        if arguments[-1] is Ellipsis:
            return f"a tuple of any length, each value {describe(arguments[0])}"
        if len(set(arguments)) == 1:
            return f"{len(arguments)} values, each {describe(arguments[0])}"
        return f"{len(arguments)} values: {'; '.join(map(describe, arguments))}"
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[rule]


def _parameters(classes: Sequence[type]) -> dict[str, tuple[Any, Any]]:
    """Return `{parameter: (rule, default)}` of the first class, and of its parents if it takes `**others`."""
    first, *parents = classes
    target = first.__init__
    hints, parameters = _hints(target), inspect.signature(target).parameters
    others = [name for name, parameter in parameters.items() if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    own = {name: (hints.get(name, MISSING), parameter.default) for name, parameter in parameters.items()}
    own = {name: rule for name, rule in own.items() if name not in ("self", *others)}
    return _parameters(parents) | own if others and parents[1:] else own


def _follows(value: Any, rule: Any, ranges: bool = True) -> bool:
    origin, arguments = get_origin(rule), get_args(rule)
    if origin is Annotated:
        base, *limits = arguments
        return _follows(value, base, ranges) and (not ranges or all(value in limit for limit in limits))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(_follows(value, own, ranges) for own in arguments)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if arguments and arguments[-1] is Ellipsis:
            return all(_follows(item, arguments[0], ranges) for item in value)
        return len(value) == len(arguments) and all(map(_follows, value, arguments, (ranges,) * len(value)))
    if rule is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) < math.inf and (type(value) is float or _is_storable(value))
    return type(value) is rule and (rule is not int or not ranges or _is_storable(value))


def _is_storable(value: float) -> bool:
    """Return whether config.json can store a whole number."""
    return abs(value) < 10 ** (DIGITS - 1)


def _choices(rule: Any) -> tuple[str, ...]:
    """Return the texts that a rule, or a rule inside it, allows as choices."""
    if get_origin(rule) is Literal:
        return tuple(choice for choice in get_args(rule) if isinstance(choice, str))
    return tuple(choice for own in get_args(rule) for choice in _choices(own))


def _hints(target: Any) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(target, include_extras=True).items() if name != "return"}


def find_named(rule: Any) -> Named | None:
    """Return the Named of a rule for a mapping whose `name` picks a class, or None for another rule."""
    return next((extra for extra in get_args(rule)[1:] if isinstance(extra, Named)), None)


def _is_section(rule: Any) -> bool:
    return isinstance(rule, type) and rule is not MISSING and get_origin(rule) is None and rule.__module__ != "builtins"
