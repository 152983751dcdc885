"""A network module by module: parameters, outputs and operations, from one trace without values.

The operations are those of convolutions and matrix products, two for a multiplication with its addition, for each
output whether padding adds to it or not. What XLA makes of them is in the figures of compiled steps.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.extend import core

from experiments.run.state import Architecture, Variables
from experiments.tasks.base import Arrays

Path = tuple[str, ...]
SCOPE = "module_%d_of_summary"  # what the operations of a module are written under


class Row(NamedTuple):
    """What is known of a module. `flops` and `parameters` are those of all that it holds."""

    path: Path
    kind: str
    parameters: int
    calls: int
    outputs: str  # shapes of the first call's
    flops: int


def list_modules(
    architecture: Architecture,
    variables: Mapping[str, jax.ShapeDtypeStruct],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    run: Callable[[nnx.Module, Arrays], Any],
) -> list[Row]:
    """Lists the modules of a network in the order in which `run` of it and a batch calls them, each after what holds it.

    `variables` and `batch` are shapes. The network is traced, and nothing is computed.
    """
    paths: list[Path] = []
    kinds: dict[Path, str] = {}
    outputs: dict[Path, list[str]] = {}

    def register(path: Path) -> None:
        for length in range(len(path) + 1):
            if path[:length] not in outputs:
                outputs[path[:length]] = []
                paths.append(path[:length])

    def trace(variables: Variables, batch: Arrays) -> Any:
        model = architecture.merge(variables)
        own = {id(module): tuple(map(str, path)) for path, module in nnx.iter_modules(model)}
        kinds.update({tuple(map(str, path)): type(module).__name__ for path, module in nnx.iter_modules(model)})

        def call(original: Callable, module: nnx.Module, *arguments: Any, **named: Any) -> Any:
            path = own[id(module)]
            register(path)
            with jax.named_scope(SCOPE % paths.index(path)):
                result = original(module, *arguments, **named)
            outputs[path].append(_describe(result))
            return result

        register(())
        with _wrapped({type(module) for _, module in nnx.iter_modules(model)}, call):
            return run(model, batch)

    traced = jax.make_jaxpr(trace)(dict(variables), dict(batch))
    for path in kinds:  # those that are not called: what only holds others
        register(path)
    counts = [0] * len(paths)
    for number, flops in _count(traced.jaxpr, 0):
        counts[number] += flops
    sizes = {tuple(name.split("/")): math.prod(one.shape) for name, one in variables.items()}
    return [
        Row(
            path,
            kinds.get(path, ""),
            sum(size for name, size in sizes.items() if _holds(path, name)),
            len(outputs[path]),
            outputs[path][0] if outputs[path] else "",
            sum(flops for flops, other in zip(counts, paths, strict=True) if _holds(path, other)),
        )
        for path in paths
    ]


def _holds(path: Path, other: Path) -> bool:
    return other[: len(path)] == path


@contextlib.contextmanager
def _wrapped(kinds: set[type], call: Callable) -> Iterator[None]:
    """The classes with `call(original, module, ...)` in the place of their own `__call__`."""
    originals = {kind: kind.__call__ for kind in kinds if any("__call__" in vars(base) for base in kind.__mro__)}
    stored = {kind: vars(kind).get("__call__") for kind in originals}  # None where it is inherited
    for kind, original in originals.items():

        def wrapper(module: nnx.Module, *arguments: Any, original: Callable = original, **named: Any) -> Any:
            return call(original, module, *arguments, **named)

        kind.__call__ = wrapper
    try:
        yield
    finally:
        for kind, own in stored.items():
            if own is None:
                del kind.__call__
            else:
                kind.__call__ = own


def _describe(result: Any) -> str:
    """The shapes of an output: of one array, or by their names of several."""
    if hasattr(result, "shape"):
        return f"[{', '.join(map(str, result.shape))}]"
    if isinstance(result, Mapping):
        return ", ".join(f"{name}: {_describe(value)}" for name, value in result.items())
    return ", ".join(map(_describe, result))


def _count(jaxpr: core.Jaxpr, owner: int) -> Iterator[tuple[int, int]]:
    """(number of the module, operations) of each convolution and product; those without a scope are `owner`'s."""
    for equation in jaxpr.eqns:
        scopes = re.findall(SCOPE.replace("%d", r"(\d+)"), str(equation.source_info.name_stack))
        number = int(scopes[-1]) if scopes else owner
        if equation.primitive.name == "conv_general_dilated":
            yield number, _count_convolution(equation)
        elif equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            contracted = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            yield number, 2 * equation.outvars[0].aval.size * contracted
        else:
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            inner = [list(_count(part, number)) for part in _find_jaxprs(equation.params)]
            if equation.primitive.name == "cond":  # forms of one thing by platform, or alternatives: the dearest
                inner = [max(inner, key=lambda counted: sum(flops for _, flops in counted))]
            yield from ((number, times * flops) for counted in inner for number, flops in counted)


def _count_convolution(equation: core.JaxprEqn) -> int:
    """Two for each pair of a position in the kernel and of what it meets: outputs, or inputs where zeros lie between them."""
    inputs, kernel = (variable.aval for variable in equation.invars)
    numbers = equation.params["dimension_numbers"]
    out_channels = kernel.shape[numbers.rhs_spec[0]]
    met = math.prod(equation.outvars[0].aval.shape)
    if any(step > 1 for step in equation.params["lhs_dilation"]):
        batch, *size = (inputs.shape[axis] for axis in (numbers.lhs_spec[0], *numbers.lhs_spec[2:]))
        met = batch * math.prod(size) * out_channels
    return 2 * met * kernel.size // out_channels


def _find_jaxprs(parameters: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
