"""Tests of files, which are written completely or not at all and read within limits."""

import ast
import os
import re

import pytest

import files
import limits
from errors import UserError
from files import leads_out, open_lock, parse_json, read_bytes, read_json, read_text, write_atomically, write_folder
from tests.sources import ROOT, parse

PARTS = ("experiments", "input_pipeline", "benchmarks", "launch", "models", "configs")
SOURCES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py")) + sorted(ROOT.glob("*.py"))
NOT_PATHS = {"tables", "os", "Image", "dataset"}  # their open and write_text are other functions
# Messages between our processes, and files of data, which have their own limits.
MESSAGES = {"experiments/run/resolution.py", "experiments/run/roll_call.py", "experiments/run/directory.py"}
MESSAGES |= {"experiments/run/config_file.py", "experiments/preflight/pod.py", "experiments/sweep/agents.py"}
MESSAGES |= {
    "experiments/run/evaluator.py",
    "benchmarks/scaling.py",
    "benchmarks/preflight.py",
    "benchmarks/accelerator.py",
}
MESSAGES |= {"experiments/run/checksums.py"}


def test_a_full_disk_leaves_the_old_content(tmp_path, full_disk):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"old")
    full_disk(10)
    with pytest.raises(UserError, match="file.json: cannot be written"):
        write_atomically(path, b"new" * 10)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_written_completely_or_not_at_all_and_never_changed(tmp_path, full_disk):
    folder, files = tmp_path / "deep" / "folder", {"a": b"1", "b": b"2" * 100}
    assert write_folder(folder, files) and not write_folder(folder, files)
    (folder / "added").write_text("by another")
    assert not write_folder(folder, files)
    with pytest.raises(UserError, match="folder is there already, with another b; delete it, or name another --output"):
        write_folder(folder, files | {"b": b"3"})
    assert (folder / "b").read_bytes() == files["b"] and (folder / "added").exists()
    left = tmp_path / "other.tmp"  # by a killed write
    left.mkdir()
    (left / "c").write_text("half")
    full_disk(10)
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / "other", files)
    assert not (tmp_path / "other").exists()
    assert write_folder(tmp_path / "other", {"a": b"1"})
    assert [place.name for place in (tmp_path / "other").iterdir()] == ["a"] and not left.exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"\x7fELF" + bytes(300), "is not JSON"),
        (b"[1, 2]", "does not hold an object"),
        (b'"text"', "does not hold an object"),
        (b"null", "does not hold an object"),
        (b'{"a": ' * 60 + b"1" + b"}" * 60, "nested more than 50 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 50 deep"),
        (b'{"step": 1' + b"0" * 40 + b"}", "whole number of more than"),
        (b'{"step": 1' + b"0" * 9000 + b"}", "whole number of more than"),
    ],
)
def test_foreign_json_is_an_object_or_a_one_line_error(tmp_path, content, cause):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"own.json {cause}|own.json has .*{cause}|{cause}") as caught:
        read_json(path, remedy="make a new one")
    assert str(caught.value).endswith("; make a new one") and len(str(caught.value)) < 400


def test_wide_json_and_brackets_in_texts_are_read(tmp_path):
    wide = b'{"a": [' + b",".join([b"[0]"] * 1000) + b"]}"
    assert parse_json(wide, "it") == {"a": [[0]] * 1000}
    text = b'{"a": "' + b"[" * 1000 + b'"}'
    assert parse_json(text, "it") == {"a": "[" * 1000}


def test_anything_but_a_plain_file_is_an_error_at_once(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"[1]" * 10)
    for name, cause in {
        "folder": "is a folder",
        "pipe": "is a pipe, a device or a socket",
        "loop": "cannot be read: Too many levels",
        "n" * 300: "cannot be read: File name too long",
    }.items():
        with pytest.raises(UserError, match=cause):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="which is the limit"):
        read_text(tmp_path / "large", most=20)
    for missing in (tmp_path / "nowhere", tmp_path / "large" / "config.json"):
        with pytest.raises(FileNotFoundError):
            read_json(missing)


def test_files_of_runs_are_read_by_read_json():
    """A reader with json.load fails with a traceback for a folder, a pipe, a list or a deep nesting."""
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path != ROOT / "files.py"
        if re.search(r"json\.loads?\b", path.read_text("utf-8"))
    }
    assert found == MESSAGES


def name_call(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def opens_text(node: ast.Call) -> bool:
    """Return whether a call reads or writes text without an encoding."""
    keywords, name = {keyword.arg for keyword in node.keywords}, name_call(node)
    if "encoding" in keywords or (isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in NOT_PATHS):
        return False
    if name == "read_text":
        return isinstance(node.func, ast.Attribute) and not node.args
    if name == "write_text":
        return isinstance(node.func, ast.Attribute) and len(node.args) < 2
    if name == "open":
        modes = [
            own.value
            for own in node.args
            if isinstance(own, ast.Constant) and re.fullmatch("[rwabt+]+", str(own.value))
        ]
        modes += [own.value.value for own in node.keywords if own.arg == "mode"]
        return isinstance(node.func, ast.Name) and not any("b" in mode for mode in modes)
    return name == "makefile" or "text" in keywords


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_utf_8_in_every_locale(path):
    """The locale of a cluster's node is often C, and that of an old desktop may be ISO-8859-1."""
    nodes = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert [(node.lineno, ast.unparse(node)) for node in nodes if opens_text(node)] == []


def test_a_file_beyond_its_limit_is_not_read(tmp_path):
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="a device"):
        read_bytes(tmp_path / "endless")
    with pytest.raises(UserError, match="null"):
        read_bytes(tmp_path / "nu\0ll")
    path = tmp_path / "sparse.json"
    with open(path, "wb") as file:
        file.truncate(10**12)  # takes no space on the disk
    with pytest.raises(UserError, match=r"sparse.json has more than 2,000 MB, which is the limit .*docs/security.md"):
        read_json(path, limits.ANNOTATIONS)
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(UserError, match="more than"):
        read_bytes(path, 4)


def test_json_that_does_not_fit_in_memory_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MEMORY", 100 * limits.MB)
    monkeypatch.setattr(files, "SMALL", 100 * limits.MB)
    (tmp_path / "a.json").write_bytes(b"[" + b"[]," * 1_500_000 + b"1]")
    with pytest.raises(UserError, match=r"a.json may take .* MB of memory, and this machine has 100 MB"):
        read_json(tmp_path / "a.json", limits.ANNOTATIONS, kind=list)


def test_a_lock_is_a_file(tmp_path):
    open_lock(tmp_path / "new" / ".lock").close()
    open_lock(tmp_path / "new" / ".lock").close()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "new"):
        with pytest.raises(UserError, match=f"{name} is not a file; move it away"):
            open_lock(tmp_path / name)


def test_locks_are_opened_by_open_lock():
    """Opening a pipe as a lock could block forever."""
    locks = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"open\([^\n]*lock\", \"[aw]", path.read_text("utf-8"))
    ]
    assert locks == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", ".."])
def test_paths_that_lead_out(name):
    assert leads_out(name)
    assert not leads_out(f"a{name.replace('/', '_')}") and not leads_out("a/..b/c..png")


def test_text_is_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\xff")
    assert read_text(tmp_path / "a.txt", errors="replace") == "a\ufffd"
    with pytest.raises(UserError, match="a.txt is not text in UTF-8"):
        read_text(tmp_path / "a.txt")


def test_the_page_on_security_lists_every_limit():
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    numbers = {name: value for name, value in vars(limits).items() if name.isupper() and name != "MB"}
    for name, value in numbers.items():
        said = f"{value // limits.MB:,} MB" if value >= limits.MB else f"{value:,}"
        assert said in page, f"docs/security.md does not say {name}, {said}"
