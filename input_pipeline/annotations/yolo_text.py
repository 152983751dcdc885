"""Ultralytics' text: one row per object, a box or a polygon in fractions of the image, and the classes' names in YAML."""

import pathlib

import yaml

from errors import UserError
from input_pipeline.annotations.annotated_image import Annotation, check_names
from input_pipeline.annotations.masks import LEAST, is_polygon
from input_pipeline.batch import refuse

LARGEST = 2.0  # a fraction beyond it was meant in pixels; a little more than 1 is an object that leaves the image


def read_names(root: pathlib.Path) -> tuple[str, ...]:
    """The classes' names. Raises UserError where there are none."""
    path = root / "data.yaml"
    if not path.is_file():
        path = root / "classes.txt"
        if not path.is_file():
            raise UserError(
                f"{root} has no data.yaml and no classes.txt; write one class name per line into classes.txt"
            )
        return check_names(
            [line for line in path.read_text("utf-8-sig", errors="replace").splitlines() if line.strip()], path
        )
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # the latter of dates and numbers that cannot be
        raise UserError(f"{path} cannot be parsed as YAML ({str(error).splitlines()[0]}); correct it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path} has no `names`: a list, or each number from 0 with its name; write them")
    # Without quotes, YAML does not read on, no, 1.5 and null as text.
    odd = [f"{i} is {name!r}" for i, name in enumerate(names) if type(name) not in (str, int)]  # bool is an int
    refuse(f"{path}: classes with names that are neither text nor whole numbers", odd, "; put them in quotes")
    return check_names([str(name) for name in names], path)


def read_row(row: str, class_count: int) -> Annotation:
    """One object, in fractions of the image. Raises UserError that says what is wrong with the row."""
    try:
        number, *values = map(float, row.split())
    except ValueError:
        raise UserError(f"{row.strip()!r} contains something that is not a number") from None
    if number not in range(class_count):
        raise UserError(
            f"class {row.split()[0]}, but there are {class_count} (0 to {class_count - 1}); name it, or correct it"
        )
    label = int(number)
    far = [value for value in values if abs(value) > LARGEST]
    if far:
        raise UserError(f"{far[0]:g} is not a fraction of the image; divide x by its width and y by its height")
    if len(values) == 4:
        x, y, width, height = values
        return Annotation((y - height / 2, x - width / 2, y + height / 2, x + width / 2), label)
    if len(values) < LEAST or not is_polygon(values):
        raise UserError(
            f"{len(values)} numbers after the class; a box has 4 (centre x, centre y, width, height), a polygon x and y of 3 "
            "points or more"
        )
    xs, ys = values[::2], values[1::2]
    return Annotation((min(ys), min(xs), max(ys), max(xs)), label, segmentation=[values])
