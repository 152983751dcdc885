"""Tasks by the name that `config.task.name` selects."""

from ml_collections import ConfigDict

from errors import UserError
from experiments.tasks.adversarial import AdversarialSegmentation
from experiments.tasks.base import Task
from experiments.tasks.segmentation import Segmentation
from experiments.tasks.ssd import SSD
from experiments.tasks.yolov1 import YOLOv1

TASKS = {
    "adversarial_segmentation": AdversarialSegmentation,
    "segmentation": Segmentation,
    "ssd": SSD,
    "yolov1": YOLOv1,
}


def find_task(name: str) -> type[Task]:
    """The class of a task, whose `needs` are known before its data is opened. Raises UserError for an unknown name."""
    if name not in TASKS:
        raise UserError(f"config.task.name={name!r} is unknown; choose one of {', '.join(sorted(TASKS))}")
    return TASKS[name]


def make_task(config: ConfigDict, class_names: tuple[str, ...]) -> Task:
    """The task of a config for a dataset's classes. Raises UserError for an unknown name."""
    return find_task(config.task.name)(config, class_names)
