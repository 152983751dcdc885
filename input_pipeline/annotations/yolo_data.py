"""The data file of a YOLO folder (Ultralytics' data.yaml or Darknet's obj.data), and the class names."""

import dataclasses
import pathlib
import reprlib
from typing import Any

import yaml

from errors import UserError
from files import read_bytes, read_text
from input_pipeline.annotations.annotated_image import check_names
from input_pipeline.batch import refuse
from limits import DEEPEST, NAMES, YAML

NAMED = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
LISTS = ("classes.txt", "obj.names")  # one class name per line
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict = 2, 2, 2


@dataclasses.dataclass(frozen=True)
class DataFile:
    """The content of a data file. Paths are as written there."""

    path: pathlib.Path
    content: dict[str, Any]

    @property
    def splits(self) -> dict[str, list[str]]:
        """The folders and lists of images of each split in the file."""
        named = {}
        for key, split in SPLITS.items():
            entries = self.content.get(key)
            entries = [entries] if isinstance(entries, str) else entries
            if not entries:
                continue
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise UserError(
                    f"{self.path}: {key} is {_short.repr(entries)}; give a folder of images, a list of such folders, or a text "
                    "file with an image on each line"
                )
            named.setdefault(split, entries)
        return named

    @property
    def prefix(self) -> str:
        """The folder that the other paths are relative to."""
        prefix = self.content.get("path")
        return prefix if isinstance(prefix, str) else ""

    @property
    def task(self) -> str:
        return str(self.content.get("task") or "")

    @property
    def keypoints(self) -> tuple[int, int] | None:
        """Numbers of keypoints per object and of values per keypoint. Raises UserError for an invalid kpt_shape."""
        shape = self.content.get("kpt_shape")
        if shape is None:
            return None
        if not (isinstance(shape, list) and len(shape) == 2 and type(shape[0]) is int and shape[1] in (2, 3)):
            raise UserError(
                f"{self.path}: kpt_shape is {_short.repr(shape)}; write [keypoints, 2] for x and y, or [keypoints, 3] with "
                "visibility"
            )
        return shape[0], shape[1]


def find_data_file(root: pathlib.Path) -> DataFile | None:
    """Read a folder's data file, if it has one. Raise UserError for several, or for one that cannot be used."""
    for name in NAMED:
        if (root / name).is_file():
            return DataFile(root / name, read_yaml(root / name))
    others = [path for path in sorted(root.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path.is_file()]
    found = []
    for path in others:
        content = load_yaml(path)
        if isinstance(content, dict) and "names" in content:
            found.append(DataFile(path, content))
    if len(found) > 1:
        raise UserError(f"{root} has several data files ({', '.join(file.path.name for file in found)}); keep only one")
    if found:
        return found[0]
    darknet = root / "obj.data"
    return DataFile(darknet, _read_darknet(darknet)) if darknet.is_file() else None


def list_name_files(root: pathlib.Path) -> list[pathlib.Path]:
    """List the files with a class on each line, the one in the folder or else those that labelImg leaves among labels."""
    for pattern in (*LISTS, f"*/{LISTS[0]}", f"*/*/{LISTS[0]}"):
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if found:
            return found
    return []


def read_classes(root: pathlib.Path, data: DataFile | None) -> dict[int, str]:
    """Read the class names by number, in rising order. Raise UserError where there are none."""
    if data is not None and data.path.suffix != ".data":
        return _read_names(data)
    paths = list_name_files(root)
    read = {path: read_text(path, NAMES, errors="replace").splitlines() for path in paths}
    named = {path: [line.strip() for line in lines if line.strip()] for path, lines in read.items()}
    for path, names in named.items():
        if names != named[paths[0]]:
            raise UserError(
                f"{paths[0]} and {path} name different classes; write the same ones into both, or keep one file in {root}"
            )
    if paths:
        return dict(enumerate(check_names(named[paths[0]], paths[0])))
    raise UserError(f"{root} has no data.yaml and no classes.txt; write one class name per line into classes.txt")


def _read_names(data: DataFile) -> dict[int, str]:
    names = data.content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    whole = isinstance(names, dict) and all(type(number) is int and number >= 0 for number in names)
    if isinstance(names, dict) and not whole and all(str(number).isdecimal() for number in names):
        raise UserError(f"{data.path}: `names` has its numbers in quotes; remove the quotes")
    if not isinstance(names, dict) or not whole:
        raise UserError(f"{data.path} has no `names`; add them as a list, or as numbers from 0 with names")
    # Without quotes, YAML does not read on, no, 1.5 and null as text.
    odd = [
        f"{i} is {_short.repr(name)}" for i, name in sorted(names.items()) if type(name) not in (str, int)
    ]  # bool is an int
    refuse(f"{data.path}: classes with names that are neither text nor whole numbers", odd, "; put them in quotes")
    numbers = sorted(names)
    return dict(zip(numbers, check_names([str(names[number]) for number in numbers], data.path), strict=True))


def note_count(data: DataFile | None, classes: dict[int, str]) -> list[str]:
    """Return a remark where a data file counts other classes than it names, or none."""
    counted = data.content.get("nc") if data else None
    if data is None or type(counted) is not int or counted in (len(classes), max(classes) + 1):
        return []
    return [f"{data.path.name}: nc is {counted}, but `names` has {len(classes)} classes, which are used"]


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """Read the mapping of a file, empty if it has none. Raise UserError for a file that cannot be read."""
    content = load_yaml(path)
    return content if isinstance(content, dict) else {}


def load_yaml(path: pathlib.Path) -> Any:
    """Read a YAML file. Raise UserError if it is not YAML, repeats parts of itself, or is nested deeply.

    Aliases let a file of a few hundred bytes expand to gigabytes. No list of classes needs them.
    """
    deep = f"{path} cannot be used: lists or mappings are nested more than {DEEPEST} deep; correct it"
    try:
        data, depth = read_bytes(path, YAML), 0
        for event in yaml.parse(data, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(deep)
            if isinstance(event, yaml.AliasEvent):
                raise UserError(
                    f"{path} cannot be used: it has aliases (*{event.anchor}); replace them by their values"
                )
        return yaml.load(data, Loader=LOADER)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError for impossible dates and numbers
        reason, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        if reason == "exceeded maximum nesting depth":  # the parser reads ahead, up to a limit of its own
            raise UserError(deep) from error
        reason = f"{reason} in line {mark.line + 1}" if reason and mark else str(error).splitlines()[0]
        raise UserError(f"{path} cannot be parsed as YAML ({reason}); correct it") from error


def _read_darknet(path: pathlib.Path) -> dict[str, Any]:
    """Read `key = value` lines."""
    pairs = (line.partition("=") for line in read_text(path, YAML, errors="replace").splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals and value.strip()}
