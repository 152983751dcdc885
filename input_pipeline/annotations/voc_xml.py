"""PASCAL VOC's XML, with an image's size and the boxes of its objects."""

import dataclasses
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from xml.parsers import expat

from errors import UserError
from files import read_bytes
from limits import DEEPEST, XML

ROOT = "annotation"
ORIENTED = "robndbox"
EDGES = ("ymin", "xmin", "ymax", "xmax")


@dataclasses.dataclass(frozen=True)
class Named:
    """An object as written in the file."""

    class_name: str
    edges: tuple[float, float, float, float]
    difficult: bool


def read_xml(path: pathlib.Path) -> tuple[tuple[float, float] | None, list[Named]]:
    """Return the image's (height, width), None where unknown, and its objects. Raise UserError for an unusable file."""
    data = read_bytes(path, XML)
    try:
        _refuse_bombs(data, path)
        root = ElementTree.fromstring(data)
    except UserError:
        raise
    except (
        ElementTree.ParseError,
        expat.ExpatError,
        ValueError,
        LookupError,
    ) as error:  # the last two for the encoding
        raise UserError(f"{path} cannot be parsed as XML ({error})") from error
    for element in root.iter():
        element.tag = re.sub(r"^\{.*\}", "", str(element.tag))  # namespaces are ignored
    if root.tag != ROOT:
        raise UserError(f"{path} is not VOC's XML: its root is <{root.tag}>, not <{ROOT}>")
    size = None
    if root.find("size") is not None:
        size = _read_number(root, "size/height", str(path)), _read_number(root, "size/width", str(path))
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        where = f"{path}: object {number}"
        name = " ".join((element.findtext("name") or "").split())
        if not name:
            raise UserError(f"{where} has no name")
        if element.find("bndbox") is None and element.find(ORIENTED) is not None:
            raise UserError(
                f"{where} has an oriented box ({ORIENTED}), which is not supported; write an upright box as bndbox"
            )
        top, left, bottom, right = (_read_number(element, f"bndbox/{edge}", where) for edge in EDGES)
        difficult = element.findtext("difficult", "0").strip()
        if difficult not in ("0", "1"):
            raise UserError(f"{where} has difficult={difficult!r}, which must be 0 or 1")
        objects.append(Named(name, (top, left, bottom, right), difficult == "1"))
    return None if size == (0, 0) else size, objects  # some programs write 0 for an unknown size


def _refuse_bombs(data: bytes, path: pathlib.Path) -> None:
    """Raise UserError for deep nesting and for entities, which can expand to gigabytes or read other files."""
    parser, depth = expat.ParserCreate(), 0

    def refuse_entity(name: str, *_) -> None:
        raise UserError(f"{path} cannot be used: it defines the entity {name[:80]}; replace it by its text")

    def enter(*_) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(f"{path} cannot be used: its elements are nested more than {DEEPEST} deep; correct it")

    def leave(_) -> None:
        nonlocal depth
        depth -= 1

    parser.EntityDeclHandler, parser.StartElementHandler, parser.EndElementHandler = refuse_entity, enter, leave
    parser.Parse(data, True)


def _read_number(element: ElementTree.Element, place: str, where: str) -> float:
    text = element.findtext(place)
    if text is None:
        raise UserError(f"{where} has no {place}")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where} has {place}={text!r}, which must be a number") from None
