"""`voc/2007` and `voc/2012`, PASCAL VOC's boxes as tfds prepares them."""

import numpy as np

from input_pipeline.batch import Size
from input_pipeline.datasets.prepared import Dataset, Record, read_text, scale_boxes
from input_pipeline.objects import Objects
from input_pipeline.preparation import ByTensorFlow


def read_objects(record: Record, size: Size) -> Objects:
    """Read the objects. VOC counts pixels from 1, and the last one belongs to the box."""
    listed = record["objects"]
    boxes = scale_boxes(record, size)
    boxes[:, :2] -= 1
    return {"boxes": boxes, "classes": np.array(listed["label"]), "difficult": np.array(listed["is_difficult"])}


VOC = Dataset(
    preparation=ByTensorFlow(
        "config.data.name=voc_folder, config.data.folder.first_pixel=1, and config.data.folder.root set to the VOCdevkit"
    ),
    name=lambda record: read_text(record, "image/filename"),
    read_objects=read_objects,
    as_stored=True,
)
