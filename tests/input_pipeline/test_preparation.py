"""Datasets are found, prepared, or raise an error."""

import pathlib

import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline.preparation import Preparation, find_prepared, prepare


class Files(Preparation):
    """A preparation that writes one file."""

    version = "2.0.0"

    def __init__(self, identity="", broken=None):
        self.identity, self.broken = identity, broken

    def identify(self, folder):
        return self.identity

    def check(self, name, place):
        if self.broken == "check":
            raise OSError("no network\nat all")

    def make(self, name, scratch, folder, largest):
        made = pathlib.Path(scratch) / name / self.identity / self.version
        made.mkdir(parents=True)
        if self.broken == "make":
            raise RuntimeError("no room")
        (made / "dataset_info.json").touch()
        return made

    def remedy(self, name, place):
        return "buy a disk"


def test_prepared_dataset_is_found_and_no_other_files_are_left(tmp_path):
    folder, how = get_config().data.folder, Files("abc")
    assert find_prepared("mine", how, tmp_path, folder) is None
    made = prepare("mine", how, tmp_path, folder)
    assert made == tmp_path / "mine/abc/2.0.0" == find_prepared("mine", how, tmp_path, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert find_prepared("mine", Files("*"), tmp_path, folder) == made
    prepare("mine", Files("def"), tmp_path, folder)
    with pytest.raises(UserError, match="prepared 2 times"):
        find_prepared("mine", Files("*"), tmp_path, folder)


@pytest.mark.parametrize(("broken", "reason"), [("check", "no network"), ("make", "no room")])
def test_failure_raises_a_one_line_error_with_the_remedy_and_leaves_no_files(tmp_path, broken, reason):
    with pytest.raises(UserError, match=rf"cannot be prepared here \({reason}\); buy a disk$") as caught:
        prepare("mine", Files(broken=broken), tmp_path / "place", get_config().data.folder)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "place").glob("*")) and (broken == "make") == (tmp_path / "place").exists()
