"""The parameters, outputs and operations of each module of a network, from one trace without values.

Operations are those of convolutions and matrix products. A multiplication with its addition counts as two, also where the
input is padding. The figures of compiled steps show the operations after XLA's optimisation.
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
SCOPE = "module_%d_of_summary"  # the scope of a module's operations


class Row(NamedTuple):
    """One module of a network. `flops` and `parameters` include its submodules."""

    path: Path
    kind: str
    parameters: int
    calls: int
    outputs: str  # shapes of the first call's outputs
    flops: int


def list_modules(
    architecture: Architecture,
    variables: Mapping[str, jax.ShapeDtypeStruct],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    run: Callable[[nnx.Module, Arrays], Any],
) -> list[Row]:
    """List the modules of a network in the order in which `run(network, batch)` calls them.

    A module comes after the module that contains it. `variables` and `batch` are shapes. The network is traced, and nothing is
    computed.
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
    for path in kinds:  # modules that are not called because they only contain others
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
    """Replace the `__call__` of each class by `call(original, module, ...)`."""
    originals = {kind: kind.__call__ for kind in kinds if any("__call__" in vars(base) for base in kind.__mro__)}
    stored = {kind: vars(kind).get("__call__") for kind in originals}  # None if it is inherited
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
    """Return the shapes of an output as text, with names if it contains several arrays by name."""
    if hasattr(result, "shape"):
        return f"[{', '.join(map(str, result.shape))}]"
    if isinstance(result, Mapping):
        return ", ".join(f"{name}: {_describe(value)}" for name, value in result.items())
    return ", ".join(map(_describe, result))


def _count(jaxpr: core.Jaxpr, owner: int) -> Iterator[tuple[int, int]]:
    """Yield (module number, operations) of each convolution and product. `owner` gets those without a scope."""
    for equation in jaxpr.eqns:
        scopes = re.findall(SCOPE.replace("%d", r"(\d+)"), str(equation.source_info.name_stack))
        number = int(scopes[-1]) if scopes else owner
        if equation.primitive.name == "conv_general_dilated":
            yield number, _count_convolution(equation)
        elif equation.primitive.name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            contracted = math.prod(_shape(equation.invars[0])[axis] for axis in left)
            yield number, 2 * math.prod(_shape(equation.outvars[0])) * contracted
        else:
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            inner = [list(_count(part, number)) for part in _find_jaxprs(equation.params)]
            if (
                equation.primitive.name == "cond"
            ):  # of alternatives, or forms for several platforms, the most expensive counts
                inner = [max(inner, key=lambda counted: sum(flops for _, flops in counted))]
            yield from ((number, times * flops) for counted in inner for number, flops in counted)


def _count_convolution(equation: core.JaxprEqn) -> int:
    """Count two operations per kernel element and output position, or per input position if the inputs are dilated."""
    inputs, kernel = map(_shape, equation.invars)
    numbers = equation.params["dimension_numbers"]
    out_channels = kernel[numbers.rhs_spec[0]]
    met = math.prod(_shape(equation.outvars[0]))
    if any(step > 1 for step in equation.params["lhs_dilation"]):
        batch, *size = (inputs[axis] for axis in (numbers.lhs_spec[0], *numbers.lhs_spec[2:]))
        met = batch * math.prod(size) * out_channels
    return 2 * met * math.prod(kernel) // out_channels


def _shape(variable: Any) -> tuple[int, ...]:
    """Return the shape of an array in a jaxpr. jax's own types do not show it."""
    return variable.aval.shape


def _find_jaxprs(parameters: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one
