"""A file is there whole or not at all."""

import pytest

from errors import UserError
from files import write_atomically, write_folder


def test_a_full_disk_leaves_the_old_content(tmp_path, full_disk):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"old")
    full_disk(10)
    with pytest.raises(UserError, match="file.json: cannot be written"):
        write_atomically(path, b"new" * 10)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_there_whole_or_not_at_all_and_stays_as_it_is(tmp_path, full_disk):
    folder, files = tmp_path / "deep" / "folder", {"a": b"1", "b": b"2" * 100}
    assert write_folder(folder, files) and not write_folder(folder, files)
    (folder / "added").write_text("by another")
    assert not write_folder(folder, files)
    with pytest.raises(UserError, match="folder is there already, with another b; delete it, or name another --output"):
        write_folder(folder, files | {"b": b"3"})
    assert (folder / "b").read_bytes() == files["b"] and (folder / "added").exists()
    left = tmp_path / "other.tmp"  # by a write that was killed
    left.mkdir()
    (left / "c").write_text("half")
    full_disk(10)
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / "other", files)
    assert not (tmp_path / "other").exists()
    assert write_folder(tmp_path / "other", {"a": b"1"})
    assert [place.name for place in (tmp_path / "other").iterdir()] == ["a"] and not left.exists()
