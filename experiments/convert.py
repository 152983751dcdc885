"""A PyTorch checkpoint as safetensors, which config.pretrained reads. Once, on a machine that has PyTorch.

    python -m experiments.convert FILE.pth OUT.safetensors

FILE holds parameters by name, or a dictionary that has them under `state_dict`, `model_state_dict` or `model`. Names stay as
they are, but for a `module.` before all of them. Values stay as they are, but for those of 16 bits, which become float32. What
is left out is said. Only tensors are loaded: code that a file holds is never run.

This file imports neither jax nor our other code but for three small files: PyTorch, numpy and safetensors do.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all, for the imports take their time

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save

from errors import UserError
from experiments.arguments import Parser, report
from files import write_atomically

NESTS = ("state_dict", "model_state_dict", "model")  # where training programs keep the parameters, in this order
PREFIX = "module."  # of a model that was trained in parallel
COUNTER = "num_batches_tracked"  # of batch normalisation; only training in PyTorch reads it
SHOWN = 3  # names of a list; the others are counted


def convert(source: Path, target: Path) -> list[str]:
    """Write the tensors of the PyTorch file `source` to `target`, whole or not at all.

    Return what was done, in lines. Raise UserError for a file that cannot be read, that holds more than tensors and plain
    values, or that holds no parameters by name; where `target` exists; and where PyTorch is not installed.
    """
    if target.exists():
        raise UserError(f"{target} exists; give another name, or delete it first")
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"PyTorch cannot be imported ({error}): install it with `pip install torch`, here or on another machine, and "
            "convert there; nothing else needs it"
        ) from None
    loaded = _load(source, torch)
    try:
        tensors, notes = find_parameters(loaded, torch.Tensor)
    except UserError as error:
        raise UserError(f"{source} {error}") from None
    arrays, widened = {}, 0
    for name, tensor in tensors.items():
        try:
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            arrays[name] = (tensor.float() if half else tensor).detach().contiguous().numpy()
            widened += half
        except (RuntimeError, TypeError) as error:  # of a sparse or quantised tensor
            raise UserError(f"{source}: {name} cannot become an array: {_first_line(error)}") from None
    if widened:
        notes.append(f"{widened} arrays of 16 bits are float32 now")
    try:
        content = save(arrays)
    except SafetensorError as error:  # of a type that it does not know
        raise UserError(f"{source} cannot be safetensors: {_first_line(error)}") from None
    write_atomically(target, content)
    values = sum(array.size for array in arrays.values())
    written = f"{target}: {len(arrays)} arrays, {values:,} parameters (batch statistics included)"
    return [*notes, written, f"sha256 {hashlib.sha256(content).hexdigest()}"]


def find_parameters(loaded: Any, kind: type) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors, of the type `kind`, that a loaded file holds, by name; and what was done to find them, in lines.

    Raise UserError, whose text goes on after the file's name, where there are none.
    """
    notes = []
    while isinstance(loaded, Mapping):
        nest = next((key for key in NESTS if isinstance(loaded.get(key), Mapping)), None)
        if nest is None:
            break
        others = [key for key in loaded if key != nest]
        notes.append(f"taken from {nest!r}" + (f"; left out: {_list(others)}" if others else ""))
        loaded = loaded[nest]
    if not isinstance(loaded, Mapping):
        raise UserError(f"holds one {type(loaded).__name__}, not parameters by name; save the model's state_dict()")
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, kind)}
    counters = [name for name in tensors if name.rpartition(".")[2] == COUNTER]
    others = [name for name in loaded if name not in tensors]
    if others:
        notes.append(f"left out, for they are no tensors with a name: {_list(others)}")
    if counters:
        notes.append(f"left out: {len(counters)} of {COUNTER}")
    tensors = {name: value for name, value in tensors.items() if name not in counters}
    if not tensors:
        raise UserError(
            f"holds no tensor with a name, but {_list(others + counters) or 'nothing'}; save the state_dict()"
        )
    if all(name.startswith(PREFIX) for name in tensors):
        notes.append(f"{PREFIX!r} is left out before all {len(tensors)} names")
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return tensors, notes


def _load(source: Path, torch: Any) -> Any:
    try:
        with open(source, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from None
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file, or one of another kind, raises almost anything
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UserError(
                f"{source} is not loaded: it holds objects of {code[1]}, and to load these runs code of the file's "
                "maker; where you trust it, load it yourself and save its state_dict() alone"
            ) from None
        if "TorchScript" in str(error):
            raise UserError(f"{source} is a TorchScript program; load it yourself and save its state_dict()") from None
        raise UserError(f"{source} cannot be read as a PyTorch file: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].partition(". ")[0] or type(error).__name__


def _list(names: list) -> str:
    others = f" (and {len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + others


def main(argv: list[str]) -> int:
    """Run the command: print what was done, or one line on stderr. Return the exit code."""
    parser = Parser(
        prog="python -m experiments.convert", description="Writes a PyTorch checkpoint's tensors as safetensors."
    )
    parser.add_argument("source", type=Path, metavar="FILE.pth", help="what torch.save has written")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors", help="a file that does not exist yet")
    flags = parser.parse_args(argv)
    return report(lambda: convert(flags.source, flags.target))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
