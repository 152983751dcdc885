"""The conversion of a PyTorch checkpoint to safetensors, which config.pretrained reads.

    python -m experiments.convert FILE.pth OUT.safetensors

Run it once, on a machine that has PyTorch. FILE contains parameters by name, or a dictionary with them under `state_dict`,
`model_state_dict` or `model`. Names stay the same, but a `module.` before all of them is removed. Values stay the same, but
16-bit values become float32. The command prints what it leaves out. It loads only tensors and never runs code in a file.

This file needs PyTorch, numpy and safetensors. It imports no jax, and only three small files of this project.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

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

NESTS = ("state_dict", "model_state_dict", "model")  # keys of the parameters in checkpoints, tried in this order
PREFIX = "module."  # before the names of a model that was trained in parallel
COUNTER = "num_batches_tracked"  # of batch normalisation; only training in PyTorch uses it
SHOWN = 3  # names of a list that are printed; the others are counted


def convert(source: Path, target: Path) -> list[str]:
    """Write the tensors of the PyTorch file `source` to `target`, whole or not at all.

    Return lines about the result. Raise UserError if PyTorch is not installed, if `target` exists, or if `source` cannot be
    read, contains objects other than tensors and plain values, or contains no parameters by name.
    """
    if target.exists():
        raise UserError(f"{target} already exists; choose another name or delete it")
    try:
        import torch  # pyright: ignore[reportMissingImports] - optional: only this command needs it
    except ImportError as error:
        raise UserError(
            f"PyTorch cannot be imported ({error}); install it with `pip install torch`, here or on another machine, and "
            "run this command there; nothing else needs it"
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
        except (RuntimeError, TypeError) as error:  # for a sparse or quantised tensor
            raise UserError(
                f"{source}: {name} cannot become an array: {_first_line(error)}; save a dense one"
            ) from None
    if widened:
        notes.append(f"converted {widened} arrays of 16 bits to float32")
    try:
        content = save(arrays)
    except SafetensorError as error:  # for an unknown type
        raise UserError(f"{source} cannot become safetensors: {_first_line(error)}") from None
    write_atomically(target, content)
    values = sum(array.size for array in arrays.values())
    written = f"{target}: {len(arrays)} arrays, {values:,} parameters (batch statistics included)"
    return [*notes, written, f"sha256 {hashlib.sha256(content).hexdigest()}"]


def find_parameters(loaded: Any, kind: type) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of a loaded file by name, values of the type `kind`, and notes about what was left out.

    Raise UserError, whose text follows the name of the file, if there are none.
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
        raise UserError(f"contains a {type(loaded).__name__}, not parameters by name; save the model's state_dict()")
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, kind)}
    counters = [name for name in tensors if name.rpartition(".")[2] == COUNTER]
    others = [name for name in loaded if name not in tensors]
    if others:
        notes.append(f"left out, not tensors with a name: {_list(others)}")
    if counters:
        notes.append(f"left out: {len(counters)} of {COUNTER}")
    tensors = {name: value for name, value in tensors.items() if name not in counters}
    if not tensors:
        only = f", only {_list(others + counters)}" if others or counters else ""
        raise UserError(f"contains no tensor with a name{only}; save the state_dict()")
    if all(name.startswith(PREFIX) for name in tensors):
        notes.append(f"removed {PREFIX!r} before all {len(tensors)} names")
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
    except Exception as error:  # a damaged file, or one of another kind, can raise any error
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UserError(
                f"{source} is not loaded: it contains objects of {code[1]}, and loading them runs code from the file; if "
                "you trust it, load it yourself and save only its state_dict()"
            ) from None
        if "TorchScript" in str(error):
            raise UserError(
                f"{source} is a TorchScript program; load it yourself and save only its state_dict()"
            ) from None
        raise UserError(f"{source} cannot be read as a PyTorch file: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].partition(". ")[0] or type(error).__name__


def _list(names: list) -> str:
    others = f" (and {len(names) - SHOWN} more)" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + others


def main(argv: list[str]) -> int:
    """Run the command and print its result, or one line on stderr. Return the exit code."""
    parser = Parser(
        prog="python -m experiments.convert", description="Write the tensors of a PyTorch checkpoint as safetensors."
    )
    parser.add_argument("source", type=Path, metavar="FILE.pth", help="a file of torch.save")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors", help="the new file")
    flags = parser.parse_args(argv)
    return report(lambda: convert(flags.source, flags.target))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
