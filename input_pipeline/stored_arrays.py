"""Files of named arrays (.npz) for a later start. They are read unchanged, or an error names the file."""

import io
import pathlib
import threading
import zipfile
from collections.abc import Mapping

import numpy as np

from errors import UserError
from files import write_atomically

# numpy parses the header of an array as Python code. CPython before 3.11.8 cannot do that in two threads at a time and raises
# "AST constructor recursion depth mismatch".
PARSING = threading.Lock()


def write_arrays(place: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> int:
    """Write arrays by name, whole or not at all. Return the bytes of the file."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(place, content.getvalue())
    return len(content.getvalue())


def read_arrays(place: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
    """Read the arrays `names` from a file of `write_arrays`, or all of them without names.

    Raise UserError for a damaged file: zip has a checksum of each array. Memory is bounded by the size of the file, because
    compressed arrays are refused, and so are arrays whose header claims more than their bytes.
    """
    try:
        with zipfile.ZipFile(place) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
                raise ValueError("it is compressed")
            return {name: _read_array(archive.read(members[name])) for name in names or members}
    except UserError:
        raise
    except Exception as error:  # a damaged zip file raises errors of any type
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{place} is damaged ({reason}); move it away and start again to make a new one") from error


def _read_array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    with PARSING:
        shape, by_columns, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    # All bytes are read, not only those that the shape needs: so the reshape checks that the sizes agree.
    values = np.frombuffer(content, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if by_columns else "C").copy()
