"""Which layout a folder has, by the format that is asked for; and which other format it looks like."""

import contextlib
import importlib
import pathlib

from errors import UserError
from input_pipeline.datasets.layouts.layout import Layout

FORMATS = {  # each by config.data.name: a module with `find` and `NEEDS`
    "coco_folder": "input_pipeline.datasets.layouts.coco",
    "voc_folder": "input_pipeline.datasets.layouts.voc",
    "yolo_folder": "input_pipeline.datasets.layouts.yolo",
    "image_mask": "input_pipeline.datasets.layouts.masks",
}


def recognise(name: str, root: pathlib.Path) -> Layout:
    """Recognise the layout of a folder in the format `name`. Raises UserError where it has none of its layouts."""
    module = importlib.import_module(FORMATS[name])
    layout = module.find(root)
    if layout is not None:
        return layout
    raise UserError(
        f"config.data.folder.root={str(root)!r} is not laid out as {name} reads it: it needs {module.NEEDS}{_hint(name, root)}"
    )


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
    return ""
