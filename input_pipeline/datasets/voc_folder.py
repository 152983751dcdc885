"""`voc_folder`, boxes in PASCAL VOC's XML, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is a VOCdevkit (VOC2012 in it is read, else its only year), or has another layout of layouts/voc.py. An
image and its XML have the same name. VOC's lists with a second column belong to one class and are not splits. A list without a
single annotation is not a split either.

The classes are the sorted names that occur. With config.data.folder.first_pixel=0, edges are taken as written. With 1, pixels are
counted from 1 and the last one belongs to the box, as in VOC's own files, so 1 is subtracted from xmin and ymin.
"""

import pathlib

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations import box_kinds
from input_pipeline.annotations.annotated_image import AnnotatedImage, Annotation, check_names
from input_pipeline.annotations.voc_xml import Named, read_xml
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder
from input_pipeline.datasets.layouts.recognition import recognise

Described = dict[pathlib.Path, tuple[tuple[float, float] | None, list[Named]]]  # XML files: height and width, objects
MANY = 20  # boxes needed to judge whether a tool counts from 0 or 1


class VocFolder(DetectionFolder):
    """The tfds builder of a `voc_folder` (see `DetectionFolder`)."""

    VERSION = tfds.core.Version("2.0.0")

    @classmethod
    def identify(cls, folder: ConfigDict) -> str:
        return f"{super().identify(folder)}_{folder.first_pixel}"

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        layout = recognise("voc_folder", cls.find_place(folder))
        pairs = dict.fromkeys(pair for held in layout.splits.values() for pair in held)
        return [*layout.files, *(path for pair in pairs for path in (pair.image, pair.annotation))]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        root, described, wrong = cls.find_place(folder), {}, []
        layout = recognise("voc_folder", root)
        for pair in dict.fromkeys(pair for held in layout.splits.values() for pair in held):
            try:
                described[pair.annotation] = read_xml(pair.annotation)
            except UserError as error:
                wrong.append(str(error))
        remedy = "remove their names from the lists" if layout.files else "remove them"
        refuse(f"{root}: annotations that cannot be used", wrong, f"; correct them, or {remedy}")
        check_pixels(root, described)
        class_names = sorted({named.class_name for _, objects in described.values() for named in objects})
        # A folder of negatives alone names no class. It is scored with the classes of a run.
        class_names = check_names(class_names, root) if class_names else ()
        shift = folder.first_pixel

        def annotate(number: int, image: pathlib.Path, annotation: pathlib.Path, name: str) -> AnnotatedImage:
            size, objects = described[annotation]
            annotations = []
            for named in objects:
                top, left, bottom, right = named.edges
                box = top - shift, left - shift, bottom, right
                annotations.append(Annotation(box, class_names.index(named.class_name), difficult=named.difficult))
            return AnnotatedImage(image, name, number, size, annotations)

        images = {
            split: [annotate(i, *pair) for i, pair in enumerate(pairs, 1)] for split, pairs in layout.splits.items()
        }
        counted = note_first_pixel(described, shift)
        remarks = {split: [*layout.remarks(split), *counted] for split in images}
        return Contents(class_names, tuple(range(1, len(class_names) + 1)), images, remarks, layout.describe())


def check_pixels(root: pathlib.Path, described: Described) -> None:
    """Raise UserError where the numbers of a folder's boxes are not edges in pixels."""
    edges = np.array([named.edges for _, objects in described.values() for named in objects]).reshape(-1, 4)[
        :, [1, 0, 3, 2]
    ]
    sizes = [size or (np.nan, np.nan) for size, objects in described.values() for _ in objects]
    sizes = np.array(sizes, np.float64).reshape(-1, 2)[:, ::-1]
    if box_kinds.are_fractions(edges, np.nan_to_num(sizes, nan=np.inf)):
        raise UserError(
            f"{root}: the edges in its XML files look like fractions of the image (all are between 0 and 1); "
            "multiply x by the width and y by the height"
        )
    unknown = np.full((len(edges), 4), np.nan)
    own = "left, top, right, bottom"
    kind = box_kinds.recognise(edges, own, sizes, unknown, unknown[:, 0])
    if kind:
        raise UserError(
            f"{root}: xmin, ymin, xmax, ymax in its XML files look like {kind}: read as {own}, many are not valid boxes in their "
            "image; convert them to that"
        )
    if box_kinds.leave(edges, own, sizes):
        raise UserError(
            f"{root}: nearly all boxes in its XML files reach out of their images or have no area; xmin, ymin, xmax and ymax are "
            "pixels: scale the numbers to the width and height in <size>"
        )


def note_first_pixel(described: Described, first_pixel: int) -> list[str]:
    """Return a remark where the boxes contradict config.data.folder.first_pixel, or none."""
    boxes = [(named.edges, size) for size, objects in described.values() for named in objects]
    zero = sum(min(edges[:2]) == 0 for edges, _ in boxes)
    if first_pixel and zero:
        return [
            f"{zero} of {len(boxes)} boxes begin at 0, but config.data.folder.first_pixel=1 counts pixels from 1; these boxes "
            "are clipped"
        ]
    at_one = sum(min(edges[:2]) == 1 for edges, _ in boxes)
    at_end = sum(size is not None and (edges[2] == size[0] or edges[3] == size[1]) for edges, size in boxes)
    if not first_pixel and not zero and at_one and at_end and len(boxes) >= MANY:
        return [
            f"no box begins at 0, and {at_one} of {len(boxes)} begin at 1; set config.data.folder.first_pixel=1 if the files "
            "count pixels from 1, as VOC's own do; keep 0 for labelImg, which only clips boxes at 1"
        ]
    return []


VOC_FOLDER = describe_folder(VocFolder)
