"""The one-line error of a run that is out of memory, with the sizes and the fields that lower them."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

import jax
from ml_collections import ConfigDict

from errors import UserError
from experiments.run.screen import find_capacity, find_memory, format_bytes

# XLA's words, and numpy's
ASKED = re.compile(r"(?:allocat\w*(?: of)?|Used) (\d+(?:\.\d*)?) ?([KMGT]i?B?|bytes?|B)\b", re.IGNORECASE)
SCALE = " KMGT"  # powers of 1024
Programs = Callable[[], Iterable[jax.stages.Compiled | None]]


@contextlib.contextmanager
def explain_training(config: ConfigDict, programs: Programs = tuple) -> Iterator[None]:
    """Raise UserError if training runs out of memory. `programs` returns the compiled steps."""
    with _explain("training", config, programs, _list_training_remedies):
        yield


@contextlib.contextmanager
def explain_evaluation(config: ConfigDict, programs: Programs = tuple) -> Iterator[None]:
    """Raise UserError if an evaluation or a prediction runs out of memory."""
    with _explain("evaluation", config, programs, _list_evaluation_remedies):
        yield


@contextlib.contextmanager
def _explain(
    work: str, config: ConfigDict, programs: Programs, list_remedies: Callable[[ConfigDict], list[str]]
) -> Iterator[None]:
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if isinstance(error, MemoryError):
            asked, batch = read_size(text), "train" if work == "training" else "eval"
            size = f": {format_bytes(asked)} could not be allocated" if asked else ""
            fields = [
                f"config.{name}={value}"
                for name, value in (
                    ("data.prefetch", config.data.prefetch),
                    ("data.num_threads", config.data.num_threads),
                    (f"{batch}.batch_size", config[batch].batch_size),
                )
            ]
            raise UserError(f"out of memory on the host in {work}{size}; lower {_join(fields)}") from None
        if "RESOURCE_EXHAUSTED" not in text or "memory" not in text.lower():
            raise
        words = "".join(_describe(text, programs()))
        raise UserError(f"out of memory in {work}{words}; {_join(list_remedies(config))}") from None


def _describe(text: str, programs: Iterable[jax.stages.Compiled | None]) -> Iterator[str]:
    asked, capacity = read_size(text), find_capacity()
    if asked:
        yield f": {format_bytes(asked)} could not be allocated"
    if capacity:
        yield f" on a device with {format_bytes(capacity)}"
    for size in find_memory(programs)[-1:]:
        yield f"; the compiled step needs {format_bytes(size)} on a device"


def read_size(text: str) -> float | None:
    """Return the bytes that could not be allocated, by the text of an error. None if the text does not say it."""
    found = ASKED.search(text)
    if not found:
        return None
    unit = found[2][0].upper()
    return float(found[1]) * 1024.0 ** (SCALE.index(unit) if unit in SCALE else 0)


def _list_training_remedies(config: ConfigDict) -> list[str]:
    train, optim, size = config.train, config.optim, tuple(config.data.image_size)
    lower = [f"config.train.batch_size={train.batch_size}"] if train.batch_size > 1 else []
    remedies = [f"lower {_join([*lower, f'config.data.image_size={size}'])}"]
    if train.batch_size > optim.accumulate:
        remedies.append(f"raise config.optim.accumulate={optim.accumulate}")
    if not train.remat:
        remedies.append("set config.train.remat=True")
    if config.model.dtype == "float32":
        remedies.append("set config.model.dtype=bfloat16")
    return remedies


def _list_evaluation_remedies(config: ConfigDict) -> list[str]:
    canvases = f"config.data.{'canvases' if config.data.canvases else 'image_size'}"
    fields = [f"config.eval.batch_size={config.eval.batch_size}"] if config.eval.batch_size > 1 else []
    fields += [f"{canvases}={tuple(config.data[canvases.rpartition('.')[2]])}"]
    if max(config.eval.scales) > 1:
        fields.append(f"config.eval.scales={tuple(config.eval.scales)}")
    return [f"lower {_join(fields)}"]


def _join(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
