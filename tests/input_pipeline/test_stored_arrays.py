"""Files of arrays are read back exactly, or give a one-line error that names the file."""

import re
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import UserError
from input_pipeline import stored_arrays
from input_pipeline.stored_arrays import read_arrays, write_arrays

ARRAYS = {"boxes": np.arange(24, dtype=np.float32).reshape(6, 4), "ends": np.array([0, 2, 6])}


def same(found):
    return found.keys() == ARRAYS.keys() and all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_written_arrays_are_read_back(tmp_path):
    write_arrays(tmp_path / "a.npz", ARRAYS | {"none": np.zeros((0, 4)), "columns": np.ones((2, 3), order="F")})
    found = read_arrays(tmp_path / "a.npz")
    assert same({name: found.pop(name) for name in ARRAYS})
    assert found["none"].shape == (0, 4) and found["columns"].tolist() == [[1.0] * 3] * 2
    assert list(read_arrays(tmp_path / "a.npz", "ends")) == ["ends"]


@given(st.data())
def test_damage_raises_a_one_line_error_and_never_gives_another_array(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("arrays") / "a.npz"
    write_arrays(place, ARRAYS)
    content = bytearray(place.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    place.write_bytes(content)
    try:
        assert same(read_arrays(place, *ARRAYS))
    except UserError as error:
        assert re.fullmatch(f"{place} is damaged .*; move it away and start again to make a new one", str(error))
        assert "\n" not in str(error)


def test_bombs_and_pickled_objects_raise_an_error(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(10_000_000, np.uint8))
    np.savez(tmp_path / "object.npz", value=np.array([{}], object))
    header = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117)
    )
    with zipfile.ZipFile(tmp_path / "shape.npz", "w") as archive:
        archive.writestr("value.npy", header + b"\n123")
    for name, reason in (
        ("bomb", "compressed"),
        ("object", "objects"),
        ("shape", "reshape"),
        ("nowhere", "No such file"),
    ):
        with pytest.raises(UserError, match=f"{name}.npz is damaged .*{reason}"):
            read_arrays(tmp_path / f"{name}.npz")


def test_one_thread_at_a_time_parses_a_header(tmp_path, monkeypatch):
    """CPython 3.11.7 fails at random if two threads parse headers."""
    write_arrays(tmp_path / "a.npz", ARRAYS)
    read, held = np.lib.format.read_array_header_1_0, []
    monkeypatch.setattr(
        np.lib.format, "read_array_header_1_0", lambda file: held.append(stored_arrays.PARSING.locked()) or read(file)
    )
    assert same(read_arrays(tmp_path / "a.npz")) and held == [True, True]
