"""Files of weights, .safetensors: arrays by name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from errors import UserError
from wording import name_some


def read_weights(path: Path, field: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file.

    Raises UserError, which names the `field` that gave the path, where it cannot be read, or holds a value that is not finite.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{field}={path} cannot be read as safetensors ({error}); give a local .safetensors file"
        ) from None
    wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        raise UserError(f"{field}={path} has values that are not finite, in {name_some(wrong, 3)}; give another file")
    return arrays


def pack_weights(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a file with these arrays."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
