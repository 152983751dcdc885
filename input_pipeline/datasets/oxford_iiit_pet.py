"""`oxford_iiit_pet`, photographs of cats and dogs with the outline of each pet, downloaded and prepared by tfds."""

import numpy as np

from input_pipeline.datasets.prepared import Dataset, read_label, read_text
from input_pipeline.preparation import Downloaded

OXFORD_IIIT_PET = Dataset(
    preparation=Downloaded("https://thor.robots.ox.ac.uk"),
    name=lambda record: read_text(record, "file_name"),
    class_names=("pet", "background", "border"),
    read_label=lambda record: read_label(record) - np.uint8(1),  # the trimap counts its classes from 1
)
