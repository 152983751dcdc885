"""The conversion of an export to ONNX, for onnxruntime and similar programs.

    make onnx EXPORT=runs/pets/export/best-auto-600

makes an environment from requirements-onnx.txt and runs `python -m experiments.onnx DIR` in it. From the config, the classes and
the weights that `--mode=export` has written to DIR it makes DIR/model.onnx, runs it in onnxruntime on random images, and prints
the largest differences from jax.

A segmenter takes any batch size. A detector takes batches of --batch_size images: jax2onnx converts the remainder operation of
non-maximum suppression only for fixed sizes. Operations that ONNX or onnxruntime lacks are traced in equivalent forms.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax

from errors import UserError
from experiments.arguments import Parser, report
from experiments.run.config_file import read_config
from experiments.run.program import Program, make_program
from experiments.run.state import Variables, check_same_shapes, describe
from experiments.run.weights_file import read_weights
from experiments.tasks.registry import make_task
from files import read_json, write_atomically
from models.ops import boxes as box_ops
from models.ops import nms, pooling
from models.ops.convolution import Pads

COUNTS = (1, 3)  # batch sizes of the check, if any size is allowed
TOLERANCE = 1e-3  # relative to the largest value of an output, or to 1
OFF = 0.01  # share of values that may differ more: two detections with equal scores may change places


def convert(folder: Path, batch_size: int) -> list[str]:
    """Write `folder`/model.onnx. Return lines with its size and its differences from jax.

    Raise UserError if the folder has no export, if jax2onnx is missing, or if onnxruntime computes other values.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports] - in requirements-onnx.txt alone
        import onnxruntime  # pyright: ignore[reportMissingImports] - in requirements-onnx.txt alone
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; run `make onnx EXPORT={folder}`, which makes an environment with it"
        ) from None
    program, variables, free = _read_export(folder)
    inputs = program.specify(jax.export.symbolic_shape("b")[0] if free else batch_size)
    with _portable_forms():
        traced, outputs = jax.make_jaxpr(lambda inputs: program.predict(variables, inputs), return_shape=True)(inputs)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        # jax2onnx replaces functions of jax while it traces. The program here is already traced, with jax's own.
        model = jax2onnx.to_onnx(
            lambda *arrays: core.eval_jaxpr(traced.jaxpr, traced.consts, *arrays),
            inputs=list(jax.tree.leaves(inputs)),
            input_names=sorted(inputs),
            output_names=sorted(outputs),
            model_name=folder.name,
        )
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both can raise any error for an operation that they lack
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{folder}: this network cannot be converted by jax2onnx: {first}; use model.stablehlo"
        ) from error
    found: dict[str, float] = {}
    for count in COUNTS if free else (batch_size,):
        given = _draw(program.specify(count))
        expected = jax.jit(program.predict)(variables, given)
        for name, value in zip(sorted(outputs), session.run(sorted(outputs), given), strict=True):
            found[name] = max(found.get(name, 0.0), _compare(name, np.asarray(expected[name]), value))
    place = folder / "model.onnx"
    write_atomically(place, content)
    said = "any number of images" if free else f"{batch_size} images"
    return [
        f"{place}: {len(content) / 1e6:.1f} MB, for {said}",
        "largest differences from jax on random images: "
        + ", ".join(f"{name} {value:.1e}" for name, value in found.items()),
    ]


def _read_export(folder: Path) -> tuple[Program, Variables, bool]:
    """Return the program of an export, its variables, and whether it takes any batch size."""
    try:
        classes = tuple(entry["name"] for entry in read_json(folder / "classes.json", kind=list))
    except (TypeError, KeyError):
        raise UserError(f"{folder / 'classes.json'} is not the list of classes of an export; export again") from None
    except FileNotFoundError:
        raise UserError(f"{folder} has no export (no classes.json); make one with --mode=export") from None
    config = read_config(folder)
    variables = cast(Variables, read_weights(folder / "weights.safetensors", "the export's"))
    architecture, shapes, _ = describe(config, len(classes))
    check_same_shapes(variables, architecture.lasting(shapes), str(folder))
    task = make_task(config, classes)
    return make_program(config, architecture, task), variables, "boxes" not in task.needs


def _draw(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Draw random inputs. Boxes have ordered corners."""
    rng, inputs = np.random.default_rng(0), {}
    height, width = shapes["image"].shape[1:3]
    for name, one in shapes.items():
        if name in ("area", "proposals"):
            corners = np.sort(rng.uniform(0, 1, (2, *one.shape[:-1], 2)), axis=0) * (height, width)
            inputs[name] = np.concatenate([*corners], -1).astype(np.float32)
        else:
            inputs[name] = rng.integers(0, 2 if one.dtype == bool else 256, one.shape).astype(one.dtype)
    return inputs


def _compare(name: str, expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference. Raise UserError for another shape or dtype, or if too many values differ."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise UserError(f"{name}: onnxruntime gives {found.dtype} {found.shape}, jax {expected.dtype} {expected.shape}")
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    off = float(np.mean(~(apart <= TOLERANCE * max(1.0, float(np.abs(expected).max())))))
    if off > OFF:
        raise UserError(
            f"{name}: {off:.0%} of onnxruntime's values differ from jax's, by up to {apart.max():g}; nothing is written"
        )
    return float(apart.max())


@contextlib.contextmanager
def _portable_forms() -> Iterator[None]:
    """Replace operations that ONNX lacks, while a program is traced."""
    forms = (
        (lax, "platform_dependent", _default),
        (lax, "clamp", _clamp),
        (pooling, "_native_max_pool", _max_pool),
        (nms, "suppress", _suppress),
    )
    with contextlib.ExitStack() as replaced:
        for module, name, form in forms:
            replaced.enter_context(mock.patch.object(module, name, form))
        yield


def _default(*arguments: Any, default: Any, **others: Any) -> Any:
    """Call the form that is not specific to a platform."""
    return default(*arguments)


def _clamp(low: jax.Array, x: jax.Array, high: jax.Array) -> jax.Array:
    """Clamp by two operations, because jax2onnx converts the single one for fixed sizes only."""
    return jnp.minimum(jnp.maximum(x, low), high)


def _max_pool(size: int, stride: int, pads: Pads, x: jax.Array) -> jax.Array:
    """Pool in three dimensions, because onnxruntime cannot pool in four."""
    batch, height, width, channels = x.shape
    x = x.transpose(0, 3, 1, 2).reshape(batch * channels, height, width)
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size), (1, stride, stride), ((0, 0), *pads))
    return x.reshape(batch, channels, *x.shape[1:]).transpose(0, 2, 3, 1)


def _suppress(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    *,
    iou: float,
    count: int,
    classes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute `nms.suppress` without gather and scatter in the loop.

    jax2onnx converts these wrongly under jax.vmap.
    """
    places = jnp.arange(len(scores))

    def keep(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        left, indices, mask = carry
        there, here = left.max() > -jnp.inf, jnp.arange(count) == number
        best = jnp.min(jnp.where(left == left.max(), places, len(scores)))
        chosen = places == best
        dropped = box_ops.iou(jnp.sum(jnp.where(chosen[:, None], boxes, 0.0), 0), boxes) > iou
        if classes is not None:
            dropped &= classes == jnp.sum(jnp.where(chosen, classes, 0))
        left = jnp.where(dropped | chosen, -jnp.inf, left)
        return left, jnp.where(here & there, best, indices), mask | (here & there)

    start = jnp.where(valid, scores, -jnp.inf), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool)
    _, indices, mask = lax.fori_loop(0, count, keep, start)
    return indices, mask


def main(argv: list[str]) -> int:
    """Run the command and print its result, or one line on stderr. Return the exit code."""
    parser = Parser(prog="python -m experiments.onnx", description="Convert an export to ONNX.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of --mode=export")
    parser.add_argument("--batch_size", type=int, default=1, help="the batch size of a detector")
    flags = parser.parse_args(argv)
    return report(lambda: convert(flags.folder, flags.batch_size))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main(sys.argv[1:]))
