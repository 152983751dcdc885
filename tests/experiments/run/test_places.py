"""A workdir in which Orbax could not find its checkpoints is refused before anything is done."""

import pathlib

import pytest

from errors import UserError
from experiments.run.places import locate


@pytest.mark.parametrize(
    "name", ["plain", "sp ace", "ünï", "{a,b}", "per%20cent", "quote'\"", "-dash", "x" * 200, "a=1,b=2", "."]
)
def test_usable_names_are_accepted(tmp_path, name):
    assert locate(f"{tmp_path}/{name}") == tmp_path / name


@pytest.mark.parametrize("name", ["a[b]", "a[", "star*x", "q?x", "back\\slash", "new\nline", "tab\t", "\x1b[2J"])
def test_unusable_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="contains .* and checkpoints below such a path cannot be found"):
        locate(f"{tmp_path}/{name}/run")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be used \(File name too long\); choose another"):
        locate(f"{tmp_path}/{'n' * 300}/run")


def test_the_whole_path_is_checked(tmp_path, monkeypatch):
    place = tmp_path / "[1]"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=r"contains '\[', and checkpoints below such a path"):
        locate("run")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"file is not a folder; choose another"):
            locate(str(place))
    assert locate("~nosuchuser/run") == pathlib.Path.cwd() / "~nosuchuser" / "run"


def test_environment_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert locate("$SCRATCH/run") == pathlib.Path("/scratch/run")
    with pytest.raises(UserError, match="environment variable that is not set"):
        locate("$NOT_SET/run")


def test_a_name_outside_the_locale_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not UTF-8 in this locale; .* set LC_ALL=C\.UTF-8"):
        locate(f"{tmp_path}/\udcff")


@pytest.mark.parametrize("workdir", ["", "gs://bucket/run", "s3:/bucket"])
def test_an_empty_name_or_an_object_store_is_refused(workdir):
    with pytest.raises(UserError, match="--workdir"):
        locate(workdir)
