"""Which layout a folder has, by the format that is asked for; and which other format it looks like."""

import contextlib
import importlib
import pathlib
from collections.abc import Collection

from errors import UserError
from files import expand_user
from input_pipeline.datasets.layouts.layout import SKIPPED, Layout

FORMATS = {  # each by config.data.name: a module with `find` and `NEEDS`
    "coco_folder": "input_pipeline.datasets.layouts.coco",
    "voc_folder": "input_pipeline.datasets.layouts.voc",
    "yolo_folder": "input_pipeline.datasets.layouts.yolo",
    "image_mask": "input_pipeline.datasets.layouts.masks",
}
MASKS = "image_mask"


def recognise(name: str, root: pathlib.Path) -> Layout:
    """Recognise the layout of a folder in the format `name`. Raises UserError where it has none of its layouts."""
    module = importlib.import_module(FORMATS[name])
    layout = module.find(root)
    if layout is not None:
        return layout
    raise UserError(
        f"config.data.folder.root={str(root)!r} is not laid out as {name} reads it: it needs {module.NEEDS}{_hint(name, root)}"
    )


def name_format(root: str, needs: Collection[str], instances: str = "") -> str:
    """Return the format of a folder, for what is needed of it. Raises UserError where it has none, or may have several.

    `instances` is config.data.folder.instances: how objects are found in masks.
    """
    place = expand_user(root)
    if not root or not place.is_dir():
        raise UserError(f"config.data.folder.root={root!r} is not a folder; give the one that holds the dataset")
    if "boxes" not in needs:
        return MASKS
    found, refused = {}, []
    for name in FORMATS:
        try:
            layout = importlib.import_module(FORMATS[name]).find(place)
        except UserError as error:
            refused.append(error)
            continue
        if layout:
            found[name] = layout
    # Folders of images look like those with masks, which have boxes only where objects are numbered, or are to be found in them.
    kinds = {kind for folders in found[MASKS].splits.values() for kind in folders} if MASKS in found else set()
    boxed = bool(instances) or "instances" in kinds
    if len(found) > 1 or kinds == {"images"} or (refused and not boxed):
        found.pop(MASKS, None)
    if len(found) > 1:
        seen = "; ".join(f"{name}: {layout.what}, found {layout.why}" for name, layout in found.items())
        raise UserError(f"{place} may be read in several ways; choose one as config.data.name. {seen}")
    if found:
        return next(iter(found))
    if refused:
        raise refused[0]
    inner = _find_below(place)
    if inner is not None:
        raise UserError(f"{place} holds one folder alone, which is laid out as a dataset; give {inner} instead")
    known = "; ".join(f"{name}: {importlib.import_module(FORMATS[name]).NEEDS}" for name in FORMATS)
    raise UserError(f"{place} has none of the layouts that are read. They are {known}")


def _find_below(root: pathlib.Path) -> pathlib.Path | None:
    """Return the only folder in a folder, if it has a layout: archives are unpacked into one more."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in SKIPPED]
    if len(folders) != 1:
        return None
    for place in FORMATS.values():
        with contextlib.suppress(UserError, OSError):
            if importlib.import_module(place).find(folders[0]):
                return folders[0]
    return None


def _hint(name: str, root: pathlib.Path) -> str:
    """Say which other format the folder has, if it has one."""
    for other, place in FORMATS.items():
        if other == name:
            continue
        found = None
        with contextlib.suppress(UserError, OSError):
            found = importlib.import_module(place).find(root)
        if found:
            return f"; it looks like {other} ({found.what}): try --config.data.name={other}"
    inner = _find_below(root) if root.is_dir() else None
    return f"; {inner} is laid out as a dataset: give it instead" if inner else ""
