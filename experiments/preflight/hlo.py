"""The text of a compiled program (HLO), with its collectives, gathers and scatters and their places in the sources.

Shapes in the text are those of one chip. The body of a loop counts as often as the loop runs, if its condition gives the number.
The bodies of other loops count once, and `loops` is the number of these loops.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.+?) ([a-z][a-z0-9-]*)\((.*)$")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")
CALLS = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    name: str
    shape: str  # as written, also that of a tuple
    kind: str
    rest: str  # operands and attributes
    is_root: bool


@dataclasses.dataclass(frozen=True)
class Collective:
    """An operation on `size` bytes among `group` chips, run `count` times in a call of the program."""

    kind: str
    size: int
    group: int
    count: int

    @property
    def sent(self) -> float:
        """The bytes that a chip sends per operation, along a ring."""
        share = (self.group - 1) / self.group
        return self.size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


@dataclasses.dataclass(frozen=True)
class Access:
    """A gather or scatter of `slices` with `elements` each, run `count` times in a call, at `place` in the sources."""

    kind: str
    place: str
    slices: int
    elements: int
    count: int


class Program:
    """The parsed text of a compiled program, from `Compiled.as_text`."""

    def __init__(self, text: str):
        self._computations, self._entry = _split(text)
        self._frames = _Frames(text)
        self.loops = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._callers: dict[str, tuple[str, Instruction]] = {}
        self._count(self._entry, 1)

    def collectives(self) -> list[Collective]:
        """Return the collectives.

        One that overlaps with other work has several instructions with the same channel, and counts once.
        """
        found: dict[str, Collective] = {}
        for computation, instruction in self._instructions():
            kind = instruction.kind.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = re.search(r"\bchannel_id=(\d+)", instruction.rest)
            key = channel[1] if channel else f"{computation}/{instruction.name}"
            group = _group(instruction.rest)
            size = _result_bytes(instruction) * (group if kind == "reduce-scatter" else 1)
            found.setdefault(key, Collective(kind, size, group, self._counts[computation]))
        return [one for one in found.values() if one.group > 1]

    def accesses(self) -> list[Access]:
        """Return the gathers and scatters, those with the most slices first. Equal ones are merged."""
        found: collections.Counter[tuple[str, str, int, int]] = collections.Counter()
        for computation, instruction in self._instructions():
            if instruction.kind not in ("gather", "scatter"):
                continue
            shapes = {one.name: one.shape for one in self._computations[computation]}
            elements, slices = (_gathered if instruction.kind == "gather" else _scattered)(instruction, shapes)
            place = self._place(computation, instruction)
            found[instruction.kind, place, slices, elements] += self._counts[computation]
        accesses = [Access(*key, count) for key, count in found.items()]
        return sorted(accesses, key=lambda one: -one.slices * one.count)

    def _place(self, computation: str, instruction: Instruction) -> str:
        """Return the source place of an instruction, or of the caller of its computation if XLA has lost it."""
        place = self._frames.place(instruction.rest)
        while not place and computation in self._callers:
            computation, instruction = self._callers[computation]
            place = self._frames.place(instruction.rest)
        return place or "unknown"

    def _instructions(self) -> Iterable[tuple[str, Instruction]]:
        return ((name, one) for name, body in self._computations.items() if self._counts[name] for one in body)

    def _count(self, name: str, times: int) -> None:
        """Add `times` calls of a computation and of the computations that it calls."""
        self._counts[name] += times
        for one in self._computations.get(name, ()):
            called = CALLS.findall(one.rest)
            called += [branch for group in BRANCHES.findall(one.rest) for branch in re.findall(r"[\w.-]+", group)]
            repeats = 1
            if one.kind == "while":
                condition = re.search(r"\bcondition=%?([\w.-]+)", one.rest)
                length = self._length(condition[1]) if condition else None
                self.loops += length is None
                repeats = 1 if length is None else length
            for other in called:
                self._callers.setdefault(other, (name, one))
                self._count(other, times * repeats)

    def _length(self, condition: str) -> int | None:
        """Return how often a loop runs whose counter begins at 0 and stays below a constant, or None for another loop."""
        body = {one.name: one for one in self._computations.get(condition, ())}
        root = next((one for one in body.values() if one.is_root), None)
        if root is None or root.kind != "compare" or "direction=LT" not in root.rest:
            return None
        bound = body.get(_operands(root.rest)[-1])
        value = bound and bound.kind == "constant" and re.match(r"(\d+)\)", bound.rest)
        return int(value[1]) if value else None


def _split(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return the instructions of each computation, and the name of the entry computation."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(Instruction(found[2], found[3], found[4], found[5], bool(found[1])))
        elif line.startswith("}"):
            current = None
    return computations, entry


def _dimensions(shape: str) -> list[int]:
    """Return the dimensions of the first array in a shape."""
    array = ARRAY.search(shape)
    return [int(length.lstrip("<=")) for length in array[3].split(",") if length] if array else []


def _bytes(shape: str) -> int:
    """Return the bytes of all arrays in a shape."""
    bits = 0
    for kind, width, dimensions in ARRAY.findall(shape):
        lengths = [int(length.lstrip("<=")) for length in dimensions.split(",") if length]
        bits += math.prod(lengths) * (8 if kind == "pred" else int(width))
    return bits // 8


def _result_bytes(instruction: Instruction) -> int:
    """Return the bytes of a collective's results. The shape of a start instruction lists its operands first."""
    if instruction.kind in ("all-gather-start", "collective-permute-start") and instruction.shape.startswith("("):
        return _bytes(_elements(instruction.shape)[1])
    return _bytes(instruction.shape)


def _elements(shape: str) -> list[str]:
    """Return the elements of a tuple."""
    parts, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _operands(rest: str) -> list[str]:
    """Return the names of an instruction's operands."""
    depth, inside = 1, ""
    for letter in rest:
        depth += (letter == "(") - (letter == ")")
        if not depth:
            break
        inside += letter
    return re.findall(r"%?([\w.-]+)(?:,|$)", inside.strip())


def _group(rest: str) -> int:
    """Return the number of chips in a group of a collective."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return 2 if any(len(set(pair.split(","))) > 1 for pair in re.findall(r"\{([\d,]+)", pairs[0])) else 1
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", rest):
        return int(counted[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    raise ValueError(f"the groups of a collective cannot be parsed: {rest[:300]}")


def _gathered(instruction: Instruction, shapes: dict[str, str]) -> tuple[int, int]:
    """Return the elements per slice, and the number of slices."""
    sizes = re.findall(r"slice_sizes=\{([\d,]*)\}", instruction.rest)[0]
    elements = math.prod(int(size) for size in sizes.split(",") if size)
    return elements, math.prod(_dimensions(instruction.shape)) // max(elements, 1)


def _scattered(instruction: Instruction, shapes: dict[str, str]) -> tuple[int, int]:
    """Return the elements per update, and the number of updates."""
    operands = _operands(instruction.rest)
    updates = _dimensions(shapes[operands[len(operands) // 2 + 1]])  # arrays, indices, updates: 2n + 1 of them
    window = re.findall(r"update_window_dims=\{([\d,]*)\}", instruction.rest)[0]
    elements = math.prod(updates[int(axis)] for axis in window.split(",") if axis)
    return elements, math.prod(updates) // max(elements, 1)


class _Frames:
    """The source places of instructions, from the tables of files, functions and calls at the head of the text."""

    def __init__(self, text: str):
        self._files = _table(text, "FileNames", r'"(.*)"')
        self._functions = _table(text, "FunctionNames", r'"(.*)"')
        self._locations = _table(text, "FileLocations", r"\{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)")
        self._stack = _table(text, "StackFrames", r"\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")

    def place(self, rest: str) -> str:
        """Return the place of the innermost call in this project as `FILE:LINE (FUNCTION)`.

        Return jax's name of the operation if there is none, or an empty text.
        """
        frame = re.search(r"\bstack_frame_id=(\d+)", rest)
        if frame and (place := self._innermost(int(frame[1]))):
            return place
        name = re.search(r'op_name="([^"]*)"', rest)
        return name[1] if name else ""

    @functools.cache  # noqa: B019 - it lives as long as the program
    def _innermost(self, frame: int) -> str | None:
        while frame in self._stack:
            location, parent = self._stack[frame]
            file, function, line = self._locations[int(location)]
            path = Path(self._files[int(file)][0])
            if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
                return f"{path.relative_to(ROOT)}:{line} ({self._functions[int(function)][0].split('.')[-1]})"
            frame = int(parent or 0) - 1  # parents are numbered from 1, and 0 or 1 is none
        return None


def _table(text: str, title: str, row: str) -> dict[int, tuple[str, ...]]:
    """Return a table at the head of the text, the groups of `row` by the number of the row."""
    part = re.search(rf"^{title}\n((?:\d+ .*\n)+)", text, flags=re.MULTILINE)
    lines = part[1].splitlines() if part else []
    found = (re.match(rf"(\d+) {row}", line) for line in lines)
    return {int(one[1]): one.groups()[1:] for one in found if one}
