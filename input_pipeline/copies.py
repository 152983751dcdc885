"""Lists the prepared copies of folders, and removes outdated ones.

    python -m input_pipeline.copies --tfds_data_dir=data                  list the copies: state, size, folder
    python -m input_pipeline.copies --tfds_data_dir=data --remove=old     remove the copies that nothing reads any more
    python -m input_pipeline.copies --tfds_data_dir=data --remove=PATH    remove one copy

A folder of boxes is prepared again whenever its files change, and earlier copies stay. The states of a copy are:

current     its folder has not changed since
old         its folder has changed, or this version prepares it in another way
alone       its folder is gone; the copy can still be read
unfinished  its preparation was killed, or still runs

Only such copies are removed.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first, because the imports take time

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator

from ml_collections import ConfigDict

from errors import UserError, print_lines
from files import expand_user, read_json
from input_pipeline.datasets.registry import find_dataset
from input_pipeline.scratch_folders import is_running
from limits import METADATA

COPIED = ("coco_folder", "voc_folder", "yolo_folder")  # the datasets that are prepared from folders
RUNNING = 3600.0  # seconds since its last change after which an unfinished preparation counts as killed
MEGA = 1e6


@dataclasses.dataclass(frozen=True)
class Copy:
    """A prepared copy. `root` is the folder it was made from, "" where the copy does not name it."""

    path: pathlib.Path
    state: str
    root: str

    @property
    def size(self) -> int:
        """The bytes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def list_copies(place: pathlib.Path) -> Iterator[Copy]:
    """Yield the copies below `place`, by name."""
    for name in COPIED:
        for path in sorted(place.glob(f".{name}-*")):
            yield Copy(path, "unfinished", "")
        current: dict[str, str] = {}
        for info in sorted(place.glob(f"{name}/*/*/dataset_info.json")):
            root = _read_root(info.parent)
            if root not in current:
                current[root] = _identify(name, root)
            yield Copy(info.parent, _judge(name, info.parent, current[root]), root)


def _read_root(copy: pathlib.Path) -> str:
    try:
        root = read_json(copy / "metadata.json", METADATA).get("root")
    except UserError:  # an earlier version wrote no such file
        return ""
    return root if isinstance(root, str) else ""


def _identify(name: str, root: str) -> str:
    """Return the identity of the folder's present content, without the fields for reading it, or "" if it is gone."""
    try:
        folder = ConfigDict(dict(root=root, first_pixel=0))
        return find_dataset(name).preparation.identify(folder).split("_")[0] if root else ""
    except (UserError, OSError):
        return ""


def _judge(name: str, copy: pathlib.Path, identity: str) -> str:
    if copy.name != find_dataset(name).preparation.version:
        return "old"
    if not identity:
        return "alone"
    return "current" if copy.parent.name.split("_")[0] == identity else "old"


def choose(copies: list[Copy], what: str) -> list[Copy]:
    """Return the copies that `what` names, "old" or one path. Raise UserError for a path that is not a copy."""
    if what == "old":
        killed = time.time() - RUNNING
        unfinished = [copy for copy in copies if copy.state == "unfinished"]
        running = {copy.path: is_running(copy.path) for copy in unfinished}  # None: of an earlier version
        dead = [own for own in unfinished if running[own.path] is False]
        dead += [own for own in unfinished if running[own.path] is None and own.path.stat().st_mtime < killed]
        return [copy for copy in copies if copy.state == "old" or copy in dead]
    chosen = [copy for copy in copies if copy.path == expand_user(what).absolute()]
    if not chosen:
        raise UserError(f"--remove={what} is not a prepared copy; give a path from the list, or old")
    return chosen


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.copies", description="List or remove prepared copies of folders."
    )
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    parser.add_argument("--tfds_data_dir", default=default, help=f"folder of prepared datasets (default: {default})")
    parser.add_argument("--remove", metavar="WHAT", help="copies to remove: old, or the path of one")
    flags = parser.parse_args(argv)
    place = expand_user(flags.tfds_data_dir).absolute()
    try:
        if not place.is_dir():
            raise UserError(
                f"--tfds_data_dir={flags.tfds_data_dir} is not a folder; give the folder of the prepared datasets"
            )
        copies = list(list_copies(place))
        chosen = copies if flags.remove is None else choose(copies, flags.remove)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    total = 0
    for copy in chosen:
        size, total = copy.size, total + copy.size
        print_lines(
            f"{copy.state:10}  {size / MEGA:>9,.1f} MB  {copy.path}  {copy.root or '(original folder unknown)'}"
        )
        if flags.remove is not None:
            shutil.rmtree(copy.path)
            if copy.state != "unfinished" and not any(copy.path.parent.iterdir()):
                copy.path.parent.rmdir()
    done = "removed" if flags.remove is not None else "listed"
    print(f"{len(chosen)} {'copy' if len(chosen) == 1 else 'copies'} {done}, {total / MEGA:,.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
