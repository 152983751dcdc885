"""Read and pack weight files (.safetensors), which hold arrays by name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from errors import UserError
from wording import name_some


def read_weights(path: Path, field: str) -> dict[str, np.ndarray]:
    """Return the arrays of a weight file by name.

    Raises UserError if the file cannot be read or holds a value that is not finite. The error names `field`, the config
    field that gave the path.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{field}={path} cannot be read as safetensors ({error}); give a local .safetensors file"
        ) from None
    wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        raise UserError(f"{field}={path} holds values that are not finite, in {name_some(wrong, 3)}; give another file")
    return arrays


def pack_weights(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of a .safetensors file with these arrays."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
