"""Layouts of PASCAL VOC's XML, which are VOC's own with lists of names, or one XML file per image without lists."""

import pathlib
import unicodedata
from collections.abc import Set

from errors import UserError
from files import read_text
from input_pipeline.batch import count, refuse
from input_pipeline.datasets.layouts.layout import (
    IMAGE_FOLDERS,
    Layout,
    Pair,
    describe_other_files,
    group_splits,
    index_places,
    list_below,
    list_texts,
    name_in_split,
    walk_folders,
)
from input_pipeline.remarks import name_files
from limits import ROWS

NEEDS = (
    "JPEGImages, Annotations/*.xml and ImageSets/Main/SPLIT.txt; or NAME.xml next to each NAME.jpg in SPLIT; or both in folders "
    "such as images and annotations"
)
KINDS = IMAGE_FOLDERS | {"annotations", "annotation", "xml", "xmls", "labels"}
FLAGS = ("1", "0", "-1")  # the second column of VOC's lists of one class


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder. Each split is a list of `Pair`. Raise UserError where files are missing."""
    year = find_year(root)
    if year is not None:
        return _read_lists(year)
    return _pair_up(root)


def find_year(root: pathlib.Path) -> pathlib.Path | None:
    """Return the folder with VOC's lists, `root` or a year in it. Raise UserError where there are several years."""
    if (root / "ImageSets" / "Main").is_dir():
        return root
    years = sorted(path.parents[1] for path in root.glob("VOC20[0-9][0-9]/ImageSets/Main"))
    if root / "VOC2012" in years:
        return root / "VOC2012"
    if len(years) > 1:
        held = ", ".join(path.name for path in years)
        raise UserError(f"config.data.folder.root={str(root)!r} holds {held}; set it to one of them")
    return years[0] if years else None


def _pair_up(root: pathlib.Path) -> Layout | None:
    """Recognise images and XML files of the same names, next to each other or in folders of their own."""
    files = [path for folder in walk_folders(root) for path in list_texts(folder, ".xml")]
    if not files:
        return None
    annotations = index_places(files, root, KINDS)
    images = index_places(list_below(root), root, KINDS)
    missing = [str(path) for place, (path, *_) in annotations.items() if place not in images]
    refuse(f"{root}: annotations without their image", missing, "; add the images, or remove the annotations")
    for kind in (images, annotations):
        double = [" and ".join(map(str, kind[place])) for place in annotations if len(kind[place]) > 1]
        refuse(f"{root}: files that share one name", double, "; rename one of them")
    groups = group_splits(root, annotations)
    splits = {
        split: [
            Pair(images[place][0], annotations[place][0], name_in_split(place, images[place][0])) for place in places
        ]
        for split, places in groups.items()
    }
    held = {path.parent for place in annotations for path in images[place]}
    bare = [path.name for place, (path, *_) in images.items() if place not in annotations and path.parent in held]
    notes = count(bare, "image without an XML file is skipped", "images without an XML file are skipped")
    notes += describe_other_files(pair.image for pairs in splits.values() for pair in pairs)
    first = next(iter(groups.values()))[0]
    image, annotation = images[first][0], annotations[first][0]
    why = f"{annotation.relative_to(root)}, whose image is {image.relative_to(root)}"
    what = "VOC's XML next to the images" if image.parent == annotation.parent else "VOC's XML and images in folders"
    return Layout(f"{what}, without lists", why, splits, notes={"": notes})


def _read_lists(year: pathlib.Path) -> Layout:
    """Read VOC's lists. Raise UserError for no list, an empty one, a missing file."""
    images, annotations, main = year / "JPEGImages", year / "Annotations", year / "ImageSets" / "Main"
    for place in (images, annotations):
        if not place.is_dir():
            raise UserError(
                f"{place} is missing; the folder needs JPEGImages, Annotations and ImageSets/Main/SPLIT.txt"
            )
    there: dict[str, list[pathlib.Path]] = {}
    for path in list_below(images):
        there.setdefault(_name(path, images), []).append(path)
    files = [path for folder in walk_folders(annotations) for path in list_texts(folder, ".xml")]
    annotated = {_name(path, annotations): path for path in files}
    splits, unknown, lists = {}, [], find_lists(year)
    for path in lists:
        stems = read_list(path)
        if is_of_one_class(stems, annotated.keys()):
            continue
        if not annotated.keys() & set(stems):
            unknown.append(f"{path.name} begins with {stems[0]!r}, but there is no {stems[0]}.xml")
            continue
        check_once(path, stems)
        missing = [f"{images / stem}.jpg" for stem in stems if stem not in there]
        missing += [str(annotations / f"{stem}.xml") for stem in stems if stem not in annotated]
        refuse(f"{path}: missing files", missing, "; add them, or remove their names from the list")
        splits[path.stem] = stems
    if not splits:
        problem = f"{main} has no SPLIT.txt with names of annotated images"
        remedy = "; write one name per line, without suffix"
        refuse(problem, unknown, remedy)
        raise UserError(problem + remedy)
    listed = {stem for stems in splits.values() for stem in stems}
    double = sorted(stem for stem in listed if len(there[stem]) > 1)
    refuse(f"{images}: names that two images share", double, "; rename one of them")
    pairs = {
        split: [Pair(there[stem][0], annotated[stem], there[stem][0].relative_to(images).as_posix()) for stem in stems]
        for split, stems in splits.items()
    }
    unlisted = [path.name for stem, paths in there.items() if stem not in listed for path in paths]
    notes = count(unlisted, "image is not in any split's list", "images are not in any split's list")
    notes += [f"skipped (not a list of annotated images): {line}" for line in unknown]
    elsewhere = [path.name for folder in (year, year / "ImageSets") for path in list_texts(folder, ".txt")]
    if elsewhere:
        notes += name_files("skipped (lists are only read in ImageSets/Main)", elsewhere)
    notes += describe_other_files(paths[0] for paths in there.values())
    why = f"{main.relative_to(year)} with {', '.join(f'{split}.txt' for split in splits)}"
    return Layout("VOC's own, with lists", why, pairs, files=tuple(lists), notes={"": notes})


def _name(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Return the name of a file in a list, its path in its folder without suffix, in Unicode's composed form."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def find_lists(year: pathlib.Path) -> list[pathlib.Path]:
    """List the files that may be lists, sorted."""
    return [path for path in list_texts(year / "ImageSets" / "Main", ".txt") if path.is_file()]


def read_list(path: pathlib.Path) -> list[str]:
    """Read the lines of one of VOC's lists. Raise UserError for an empty one."""
    text = unicodedata.normalize("NFC", read_text(path, ROWS, errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} names no image; write one name per line, or remove the file")
    return lines


def is_of_one_class(lines: list[str], annotated: Set[str]) -> bool:
    """Return whether a list is one of VOC's for one class, with a flag after each name. Names may hold spaces."""
    flagged = all(len(words) > 1 and words[-1] in FLAGS for words in map(str.split, lines))
    return flagged and annotated.isdisjoint(lines)


def check_once(path: pathlib.Path, stems: list[str]) -> None:
    """Raise UserError where the list at `path` has a name twice."""
    twice = len(stems) - len(set(stems))
    if twice:
        raise UserError(f"{path} names images more than once: {twice}; list each only once")
