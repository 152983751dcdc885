"""`coco/2017`, COCO's boxes as tfds prepares them. tfds has no masks of COCO. For masks use `coco_folder`."""

import numpy as np

from input_pipeline.batch import Size
from input_pipeline.datasets.prepared import Dataset, Record, read_text, scale_boxes
from input_pipeline.objects import Objects
from input_pipeline.preparation import ByTensorFlow

# COCO's own numbers of its 80 classes: 1 to 90 without the unused ones.
CATEGORY_IDS = tuple(sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))
CLASS_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)


def read_objects(record: Record, size: Size) -> Objects:
    listed = record["objects"]
    fields = {"classes": listed["label"], "crowd": listed["is_crowd"], "area": listed["area"]}
    return {"boxes": scale_boxes(record, size)} | {key: np.array(values) for key, values in fields.items()}


COCO = Dataset(
    preparation=ByTensorFlow(
        "config.data.name=coco_folder, and config.data.folder.root set to the folder of annotations/ and val2017/"
    ),
    name=lambda record: read_text(record, "image/filename"),
    image_id=lambda record: int(record["image/id"]),
    category_ids=CATEGORY_IDS,
    read_objects=read_objects,
    as_stored=True,
)
