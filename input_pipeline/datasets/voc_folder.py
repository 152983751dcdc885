"""`voc_folder`: boxes in PASCAL VOC's XML, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is a VOCdevkit (VOC2012 in it is taken, else its only year) or a folder that holds
JPEGImages/NAME.jpg (or any format Pillow reads), Annotations/NAME.xml and ImageSets/Main/SPLIT.txt, one name per line. Lists with
a second column are VOC's lists of one class, and no splits; neither is a list without a single annotation.

The classes are the sorted names that occur. config.data.folder.first_pixel is 0 where edges are taken as they are written,
and 1 where pixels are counted from 1 and the last one belongs to the box, as VOC's own are: xmin - 1 and ymin - 1 then.
"""

import collections
import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations.annotated_image import AnnotatedImage, Annotation, check_names
from input_pipeline.annotations.voc_xml import read_xml
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder
from input_pipeline.datasets.voc_segmentation import check_once, find_year, read_lines
from input_pipeline.decoding import list_images


class VocFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("2.0.0")

    @staticmethod
    def find_place(folder: ConfigDict) -> pathlib.Path:
        return find_year(folder.root)

    @classmethod
    def identify(cls, folder: ConfigDict) -> str:
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

        def annotate(number: int, stem: str) -> AnnotatedImage:
            size, objects = described[stem]
            annotations = []
            for named in objects:
                top, left, bottom, right = named.edges
                box = top - shift, left - shift, bottom, right
                annotations.append(Annotation(box, class_names.index(named.class_name), difficult=named.difficult))
            return AnnotatedImage(images[stem], images[stem].name, number, size, annotations)

        images_of = {split: [annotate(i, stem) for i, stem in enumerate(stems, 1)] for split, stems in splits.items()}
        return Contents(class_names, tuple(range(1, len(class_names) + 1)), images_of)


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
        lines = read_lines(path)
        stems = [line[0] for line in lines]
        if any(len(line) > 1 for line in lines):
            continue
        if not annotated.intersection(stems):
            unknown.append(f"{path.name} begins with {stems[0]!r}, but there is no {stems[0]}.xml")
            continue
        check_once(path, stems)
        missing = [f"{images / stem}.jpg" for stem in stems if stem not in there]
        missing += [str(annotations / f"{stem}.xml") for stem in stems if stem not in annotated]
        refuse(f"{path}: files that are missing", missing, "; bring them, or take their names off the list")
        splits[path.stem] = stems
    if not splits:
        problem = f"{main} has no SPLIT.txt with names of annotated images"
        remedy = "; write one name per line, without suffix"
        refuse(problem, unknown, remedy)
        raise UserError(problem + remedy)
    listed = {stem for stems in splits.values() for stem in stems}
    double = sorted(stem for stem in listed if there[stem] > 1)
    refuse(f"{images}: names that two images share", double, "; rename one of them")
    return splits


VOC_FOLDER = describe_folder(VocFolder)
