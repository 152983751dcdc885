"""Public functions annotate the shapes of their arrays, and the tests check calls against them."""

import ast

import jax.numpy as jnp
import jaxtyping
import pytest

from models.ops import boxes, nms
from tests.sources import ROOT, parse

PACKAGES = ("models/ops", "experiments/tasks", "experiments/metrics")  # whose public functions annotate shapes
SOURCES = [str(path.relative_to(ROOT)) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

ARRAYS = {"Array", "ArrayLike", "NDArray", "ndarray"}  # names of array types, alone or after a module's name
SHAPED = {name for name in dir(jaxtyping) if isinstance(getattr(jaxtyping, name), type(jaxtyping.Float))}


def is_shaped(node: ast.AST) -> bool:
    """Return whether an annotation is one array type with a shape, such as `Float[Array, "n 4"]`."""
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value).split(".")[-1] not in SHAPED:
        return False
    slots = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    return len(slots) == 2 and isinstance(slots[1], ast.Constant) and isinstance(slots[1].value, str)


def list_bare_arrays(node: ast.AST) -> list[str]:
    """Return the array types without a shape in an annotation, also those inside tuples, sequences and unions."""
    if is_shaped(node):
        return []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return list_bare_arrays(ast.parse(node.value, mode="eval"))
    if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] in ARRAYS:
        return [ast.unparse(node)]
    return [found for child in ast.iter_child_nodes(node) for found in list_bare_arrays(child)]


def list_public_functions(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    """Return the public functions of a module and the public methods of its public classes."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found += list_public_functions(node.body) if isinstance(node, ast.ClassDef) else [node]
    return found


def find_faults(tree: ast.Module) -> list[str]:
    """Return the parameters and results of public functions that have no annotation, or arrays without a shape."""
    faults = []
    for function in list_public_functions(tree.body):
        given = function.args
        parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        annotations = {own.arg: own.annotation for own in parameters if own and own.arg not in ("self", "cls")}
        for name, annotation in (annotations | {"the result": function.returns}).items():
            wrong = list_bare_arrays(annotation) if annotation else ["no annotation"]
            faults += [f"{function.name}, {name}: {found}" for found in wrong]
    return faults


@pytest.mark.parametrize("path", SOURCES)
def test_public_functions_annotate_the_shapes_of_arrays(path):
    faults = find_faults(parse(ROOT / path))
    assert not faults, f'{path} needs shapes, such as Float[Array, "n 4"]:\n' + "\n".join(faults)


@pytest.mark.parametrize(
    ("signature", "faults"),
    [
        ('(x: Float[Array, "n 4"]) -> Bool[np.ndarray, "n"]', []),
        ('(x: Sequence[Float[Array, "n 4"]] | None, n: int) -> tuple[Int32[ArrayLike, "n"], ...]', []),
        ("(x: jax.Array) -> None", ["f, x: jax.Array"]),
        ('(*, x: Float[Array, "n"] | np.ndarray) -> "Array"', ["f, x: np.ndarray", "f, the result: Array"]),
        ("(n: int) -> dict[str, list[Array]]", ["f, the result: Array"]),
        ("(n: int) -> Float[Array, SHAPE]", ["f, the result: Array"]),
        ("(n) -> int", ["f, n: no annotation"]),
        ("(n: int)", ["f, the result: no annotation"]),
    ],
)
def test_bare_arrays_are_found(signature, faults):
    assert find_faults(ast.parse(f"def f{signature}: ...")) == faults
    assert find_faults(ast.parse(f"class A:\n    def f{signature.replace('(', '(self, ', 1)}: ...")) == faults
    assert find_faults(ast.parse(f"def _f{signature}: ...")) == []


def test_a_wrong_shape_raises():
    assert boxes.iou(jnp.zeros((3, 4)), jnp.zeros((1, 4))).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        boxes.area(jnp.zeros((3, 5)))
    with pytest.raises(jaxtyping.TypeCheckError):
        boxes.iou(jnp.zeros((3, 4)), jnp.zeros((2, 4)))
    with pytest.raises(jaxtyping.TypeCheckError):
        nms.suppress(jnp.zeros((3, 4)), jnp.zeros(2), jnp.ones(3, bool), iou=0.5, count=1)


def test_a_wrong_dtype_raises():
    with pytest.raises(jaxtyping.TypeCheckError):
        nms.suppress(jnp.zeros((3, 4)), jnp.zeros(3), jnp.ones(3), iou=0.5, count=1)
