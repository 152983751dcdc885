"""A file is there whole or not at all."""

import pytest

from errors import UserError
from files import write_atomically


def test_a_full_disk_leaves_the_old_content(tmp_path, full_disk):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"old")
    full_disk(10)
    with pytest.raises(UserError, match="file.json: cannot be written"):
        write_atomically(path, b"new" * 10)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
