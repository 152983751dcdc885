"""Recognition of a folder's layout in the chosen format, and of other formats that it looks like."""

import contextlib
import importlib
import pathlib
from collections.abc import Collection

from errors import UserError
from files import expand_user
from input_pipeline.datasets.layouts.layout import SKIPPED, Layout

FORMATS = {  # for each config.data.name, a module with `find` and `NEEDS`
    "coco_folder": "input_pipeline.datasets.layouts.coco",
    "voc_folder": "input_pipeline.datasets.layouts.voc",
    "yolo_folder": "input_pipeline.datasets.layouts.yolo",
    "image_mask": "input_pipeline.datasets.layouts.masks",
}
MASKS = "image_mask"


def recognise(name: str, root: pathlib.Path) -> Layout:
    """Recognise the layout of a folder in the format `name`. Raise UserError where it has none of its layouts."""
    module = importlib.import_module(FORMATS[name])
    layout = module.find(root)
    if layout is not None:
        return layout
    raise UserError(
        f"config.data.folder.root={str(root)!r} does not have a layout of {name}, which needs {module.NEEDS}{_hint(name, root)}"
    )


def name_format(root: str, needs: Collection[str], instances: str = "") -> str:
    """Return the format of a folder that provides `needs`. Raise UserError where it has none, or may have several.

    `instances` is config.data.folder.instances, the way in which objects are found in masks.
    """
    place = expand_user(root)
    if not root or not place.is_dir():
        raise UserError(f"config.data.folder.root={root!r} is not a folder; set it to the one that holds the dataset")
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
    # Folders of images also look like image_mask. That has boxes only where objects are numbered, or are to be found in masks.
    kinds = {kind for folders in found[MASKS].splits.values() for kind in folders} if MASKS in found else set()
    boxed = bool(instances) or "instances" in kinds
    if len(found) > 1 or kinds == {"images"} or (refused and not boxed):
        found.pop(MASKS, None)
    if len(found) > 1:
        seen = "; ".join(f"{name}: {layout.what}, found {layout.why}" for name, layout in found.items())
        raise UserError(f"{place} fits several formats; set config.data.name to one of them: {seen}")
    if found:
        return next(iter(found))
    if refused:
        raise refused[0]
    inner = _find_below(place)
    if inner is not None:
        raise UserError(f"{place} holds only one folder, which is a dataset; set config.data.folder.root to {inner}")
    known = "; ".join(f"{name}: {importlib.import_module(FORMATS[name]).NEEDS}" for name in FORMATS)
    raise UserError(f"{place} has no supported layout; arrange it as one of these: {known}")


def _find_below(root: pathlib.Path) -> pathlib.Path | None:
    """Return the only folder in a folder, if it has a layout. Unpacked archives often have one more folder."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in SKIPPED]
    if len(folders) != 1:
        return None
    for place in FORMATS.values():
        with contextlib.suppress(UserError, OSError):
            if importlib.import_module(place).find(folders[0]):
                return folders[0]
    return None


def _hint(name: str, root: pathlib.Path) -> str:
    """Return a hint about another format that the folder has, or ""."""
    for other, place in FORMATS.items():
        if other == name:
            continue
        found = None
        with contextlib.suppress(UserError, OSError):
            found = importlib.import_module(place).find(root)
        if found:
            return f"; it looks like {other} ({found.what}): set --config.data.name={other}"
    inner = _find_below(root) if root.is_dir() else None
    return f"; {inner} is a dataset: set --config.data.folder.root to it" if inner else ""
