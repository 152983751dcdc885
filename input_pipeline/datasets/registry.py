"""Datasets by the name that `config.data.name` selects, each imported only when it is used.

A dataset says what it `provides` (of sources.ASKED_BY), and `open(data, split, place, needs)` returns a sources.Source of
one split, or a part of it, with what is needed; `place` is the folder for what is prepared.
"""

import importlib
from typing import Any

from errors import UserError
from fields import hint_at

DATASETS = {
    "coco/2017": "input_pipeline.datasets.coco:COCO",
    "coco_folder": "input_pipeline.datasets.coco_folder:COCO_FOLDER",
    "image_mask": "input_pipeline.datasets.image_mask:ImageMask",
    "oxford_iiit_pet": "input_pipeline.datasets.oxford_iiit_pet:OXFORD_IIIT_PET",
    "shapes": "input_pipeline.datasets.shapes:SHAPES",
    "voc/2007": "input_pipeline.datasets.voc:VOC",
    "voc/2012": "input_pipeline.datasets.voc:VOC",
    "voc_folder": "input_pipeline.datasets.voc_folder:VOC_FOLDER",
    "voc_segmentation": "input_pipeline.datasets.voc_segmentation:VOC_SEGMENTATION",
    "yolo_folder": "input_pipeline.datasets.yolo_folder:YOLO_FOLDER",
}


ANY = "tfds:"  # before a name that tfds knows


def find_dataset(name: str) -> Any:
    """The dataset of that name. Raises UserError for an unknown name."""
    if name.startswith(ANY):
        own = name.removeprefix(ANY)
        if own in DATASETS:  # their numbers have a meaning that their features do not tell
            raise UserError(f"config.data.name={name!r} is known here as {own!r}; write config.data.name={own}")
        return importlib.import_module("input_pipeline.datasets.tfds_named").TfdsNamed(name)
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise UserError(
            f"config.data.name={name!r} is unknown; {hint_at(name, DATASETS)}choose one of {known}; folder, for the format that "
            f"config.data.folder.root has; or {ANY}NAME, for what tfds has prepared"
        )
    module, member = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), member)
