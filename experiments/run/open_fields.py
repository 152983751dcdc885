"""Fields that a config may leave open, for the data to settle once. The run's config.json stores their values.

config.data.name="folder" stands for the format found in config.data.folder.root. config.data.image_size=(0, 0) stands for the
median size of the training images, scaled down so that no side exceeds config.data.longest, in multiples of STEP pixels.
"""

from typing import Any

from ml_collections import ConfigDict

from errors import UserError

FOLDER = "folder"
STEP = 32  # pixels, the stride of most backbones
MOST = 500  # images whose sizes are read, evenly spaced


def settle(config: ConfigDict, data_dir: str | None, stored: ConfigDict | None = None) -> ConfigDict:
    """Return the config with its open fields settled by the data, or by the `stored` config of a run if there is one.

    Raises UserError if the data cannot be opened.
    """
    if config.data.name != FOLDER and all(config.data.image_size):
        return config
    # Imported here because most configs leave nothing open, and a launcher then starts without jax, numpy and cv2.
    from experiments.tasks.registry import find_task
    from input_pipeline.datasets.layouts.recognition import name_format
    from input_pipeline.sources import FOUND, open_source

    needs = tuple(need for need in find_task(config.task.name).needs if need not in FOUND)
    settled = config.copy_and_resolve_references()
    data = settled.data
    if data.name == FOLDER:
        if not data.folder.root:
            raise UserError(
                "config.data.name='folder' needs config.data.folder.root, the folder of your data; if the data is not on this "
                "machine, set config.data.name to a format, such as coco_folder, and set config.data.image_size"
            )
        data.name = name_format(data.folder.root, needs, data.folder.instances)
        print(f"config.data.name={data.name}, found from the layout of {data.folder.root}", flush=True)
    if not all(data.image_size):
        if any(data.image_size):
            raise UserError(
                f"config.data.image_size={tuple(data.image_size)} has one side of 0; give both sides, or (0, 0) for the data's "
                "median size"
            )
        if stored is not None:
            data.image_size = tuple(stored.data.image_size)
        else:
            data.image_size = _follow(data, open_source(data, data.train_split, data_dir, needs))
    return settled


def _follow(data: ConfigDict, source: Any) -> tuple[int, int]:
    import numpy as np

    places = np.unique(np.linspace(0, len(source) - 1, MOST).round().astype(int))
    sizes = np.array([source.size(int(place)) for place in places])
    median = np.median(sizes, axis=0)
    scaled = median * min(1.0, data.longest / median.max())
    height, width = (max(STEP, STEP * round(side / STEP)) for side in scaled)
    print(
        f"config.data.image_size=({height}, {width}): the median of {len(sizes)} training images is "
        f"{median[0]:g}x{median[1]:g}, and config.data.longest={data.longest}",
        flush=True,
    )
    return height, width
