"""A file is there whole or not at all."""

import os
import pathlib

import pytest

import files
import limits
from errors import UserError
from files import read_file, read_json, read_text, write_atomically, write_folder


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


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path):
    """A pipe would be waited for, a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "endless").symlink_to("/dev/zero")
    odd = {
        "pipe": "is a pipe",
        "loop": "symbolic links",
        "endless": "a device",
        ".": "is a folder",
        "nowhere": "No such file",
    }
    for name, reason in (odd | {"a" * 300: "too long", "nu\0ll": "null"}).items():
        with pytest.raises(UserError, match=reason):
            read_file(tmp_path / name, 10**6)


def test_a_file_beyond_its_limit_is_not_read(tmp_path):
    path = tmp_path / "sparse.json"
    with open(path, "wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    with pytest.raises(UserError, match=r"sparse.json has more than 2,000 MB, which is the limit .*docs/security.md"):
        read_json(path, limits.ANNOTATIONS)
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(UserError, match="more than"):
        read_file(path, 4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[" + b"[]," * 1_500_000 + b"1]", "may take .* MB of memory, and this machine has 100 MB"),
    ],
)
def test_json_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, content, reason):
    monkeypatch.setattr(files, "MEMORY", 100 * limits.MB)
    monkeypatch.setattr(files, "SMALL", 100 * limits.MB)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json.*{reason}"):
        read_json(tmp_path / "a.json", limits.ANNOTATIONS)


def test_text_is_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\xff")
    assert read_text(tmp_path / "a.txt", 10) == "a\ufffd"
    with pytest.raises(UserError, match="a.txt: cannot be read: it is not UTF-8"):
        read_text(tmp_path / "a.txt", 10, "strict")


def test_the_page_on_security_lists_every_limit():
    page = (pathlib.Path(files.__file__).parent / "docs/security.md").read_text()
    numbers = {name: value for name, value in vars(limits).items() if name.isupper() and name != "MB"}
    for name, value in numbers.items():
        said = f"{value // limits.MB:,} MB" if value >= limits.MB else f"{value:,}"
        said = "1,000 pages" if name == "PAGES" else said  # ten times as many are looked at
        assert said in page, f"docs/security.md does not say {name}, {said}"
