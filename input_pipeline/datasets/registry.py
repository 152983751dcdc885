"""Datasets by the name in `config.data.name`. Each is imported only when it is used.

A dataset lists the keys that it `provides` (of sources.ASKED_BY). `open(data, split, place, needs)` returns a sources.Source of
one split, or of a part of it, with the keys `needs`. `place` is the folder of prepared datasets.
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


ANY = "tfds:"  # the prefix of names of tfds


def find_dataset(name: str) -> Any:
    """Return the dataset of that name. Raise UserError for an unknown name."""
    if name.startswith(ANY):
        own = name.removeprefix(ANY)
        if own in DATASETS:  # the features alone do not define the meaning of their numbers
            raise UserError(f"config.data.name={name!r} is built in as {own!r}; set config.data.name={own}")
        return importlib.import_module("input_pipeline.datasets.tfds_named").TfdsNamed(name)
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise UserError(
            f"config.data.name={name!r} is unknown; {hint_at(name, DATASETS)}choose one of {known}; folder, to recognise the "
            f"format of config.data.folder.root; or {ANY}NAME, for a dataset that tfds has prepared"
        )
    module, member = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), member)
