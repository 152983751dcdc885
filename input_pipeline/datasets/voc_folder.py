"""`voc_folder`: boxes in PASCAL VOC's XML, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is a VOCdevkit (VOC2012 in it is taken, else its only year) or a folder that holds
JPEGImages/NAME.jpg (or any format Pillow reads), Annotations/NAME.xml and ImageSets/Main/SPLIT.txt, a name a line. Lists with
a second column are VOC's lists of one class, and no splits; neither is a list without a single annotation.

The classes are the sorted names that occur. config.data.folder.first_pixel is 0 where edges are taken as they are written,
and 1 where pixels are counted from 1 and the last one belongs to the box, as VOC's own are: xmin - 1 and ymin - 1 then.
"""

import collections
import dataclasses
import pathlib
import xml.etree.ElementTree as ElementTree

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import (
    Annotation,
    Contents,
    DetectionFolder,
    Picture,
    check_names,
)
from input_pipeline.datasets.voc_segmentation import find_year
from input_pipeline.decoding import SUFFIXES, list_images
from input_pipeline.transforms import Size

EDGES = ("ymin", "xmin", "ymax", "xmax")


@dataclasses.dataclass(frozen=True)
class Named:
    """An object as it is written."""

    class_name: str
    edges: tuple[float, float, float, float]
    difficult: bool


class VocFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("1.0.0")

    @staticmethod
    def find_place(folder: ConfigDict) -> pathlib.Path:
        return find_year(folder.root)

    @classmethod
    def identify(cls, folder: ConfigDict) -> str:
        if folder.first_pixel not in (0, 1):
            raise UserError(f"config.data.folder.first_pixel={folder.first_pixel} is unknown; choose 0 or 1")
        return f"{super().identify(folder)}_{folder.first_pixel}"

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        year = cls.find_place(folder)
        stems = {stem for listed in list_splits(year).values() for stem in listed}
        files = [path for path in list_images(year / "JPEGImages") if path.stem in stems]
        return [*find_lists(year), *files, *(year / "Annotations" / f"{stem}.xml" for stem in sorted(stems))]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        year = cls.find_place(folder)
        splits = list_splits(year)
        images = {path.stem: path for path in list_images(year / "JPEGImages")}
        described, wrong = {}, []
        for stem in dict.fromkeys(stem for stems in splits.values() for stem in stems):
            try:
                described[stem] = read_xml(year / "Annotations" / f"{stem}.xml")
            except UserError as error:
                wrong.append(str(error))
        refuse(f"{year}: annotations that cannot be used", wrong, "; correct them, or take their names off the lists")
        class_names = sorted({named.class_name for _, objects in described.values() for named in objects})
        class_names = check_names(class_names, year / "Annotations")
        shift = folder.first_pixel

        def picture(number: int, stem: str) -> Picture:
            size, objects = described[stem]
            annotations = []
            for named in objects:
                top, left, bottom, right = named.edges
                box = top - shift, left - shift, bottom, right
                annotations.append(Annotation(box, class_names.index(named.class_name), difficult=named.difficult))
            return Picture(images[stem], images[stem].name, number, size, annotations)

        pictures = {split: [picture(i, stem) for i, stem in enumerate(stems, 1)] for split, stems in splits.items()}
        return Contents(class_names, tuple(range(1, len(class_names) + 1)), pictures)


def find_lists(year: pathlib.Path) -> list[pathlib.Path]:
    """The files that may be lists, sorted."""
    return sorted(path for path in (year / "ImageSets" / "Main").glob("*.txt") if path.is_file())


def list_splits(year: pathlib.Path) -> dict[str, list[str]]:
    """The names in each list, in its order. Raises UserError for no list, an empty one, a missing file."""
    images, annotations, main = year / "JPEGImages", year / "Annotations", year / "ImageSets" / "Main"
    for place in (images, annotations, main):
        if not place.is_dir():
            raise UserError(f"{place} is not there; it needs JPEGImages, Annotations and ImageSets/Main/SPLIT.txt")
    there = collections.Counter(path.stem for path in list_images(images))
    annotated = {path.stem for path in annotations.glob("*.xml")}
    splits, unknown = {}, []
    for path in find_lists(year):
        text = path.read_text("utf-8-sig", errors="replace")
        lines = [line.split() for line in text.splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{path} names no image; write a name a line, or take the file away")
        stems = [line[0] for line in lines]
        if any(len(line) > 1 for line in lines):
            continue
        if not annotated.intersection(stems):
            unknown.append(f"{path.name} begins with {stems[0]!r}, but there is no {stems[0]}.xml")
            continue
        twice = len(stems) - len(set(stems))
        if twice:
            raise UserError(f"{path} names {twice} images more than once; each may stand there once")
        missing = [f"{images / stem}{SUFFIXES[0]}" for stem in stems if stem not in there]
        missing += [str(annotations / f"{stem}.xml") for stem in stems if stem not in annotated]
        refuse(f"{path}: files that are missing", missing, "; bring them, or take their names off the list")
        splits[path.stem] = stems
    if not splits:
        problem = f"{main} has no SPLIT.txt with names of annotated images"
        remedy = "; write a name a line, without suffix"
        refuse(problem, unknown, remedy)
        raise UserError(problem + remedy)
    listed = {stem for stems in splits.values() for stem in stems}
    double = sorted(stem for stem in listed if there[stem] > 1)
    refuse(f"{images}: names that two images share", double, "; rename one of them")
    return splits


def read_xml(path: pathlib.Path) -> tuple[Size | None, list[Named]]:
    """The image's (height, width), None where it is unknown, and its objects. Raises UserError for what cannot be used."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two of its encoding
        raise UserError(f"{path} cannot be parsed as XML ({error})") from error
    size = None
    if root.find("size") is not None:
        size = tuple(_read_number(root, f"size/{side}", str(path)) for side in ("height", "width"))
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        where = f"{path}: object {number}"
        name = " ".join((element.findtext("name") or "").split())
        if not name:
            raise UserError(f"{where} has no name")
        edges = tuple(_read_number(element, f"bndbox/{edge}", where) for edge in EDGES)
        difficult = element.findtext("difficult", "0").strip()
        if difficult not in ("0", "1"):
            raise UserError(f"{where} has {difficult!r} as difficult, which is neither 0 nor 1")
        objects.append(Named(name, edges, difficult == "1"))
    return None if size == (0, 0) else size, objects  # some programs write 0 for what they do not know


def _read_number(element: ElementTree.Element, place: str, where: str) -> float:
    text = element.findtext(place)
    if text is None:
        raise UserError(f"{where} has no {place}")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where} has {text!r} as {place}, which is no number") from None
