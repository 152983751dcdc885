"""Tasks by the name that `config.task.name` selects."""

from typing import Annotated

from ml_collections import ConfigDict

import fields
from experiments.tasks.base import Task
from fields import Named

TASKS = {
    "adversarial_segmentation": "experiments.tasks.adversarial:AdversarialSegmentation",
    "segmentation": "experiments.tasks.segmentation:Segmentation",
    "ssd": "experiments.tasks.ssd:SSDTask",
    "yolov1": "experiments.tasks.yolov1:YOLOv1Task",
}
NAMED = Named("task", TASKS, frozenset({"class_names", "mean", "std", "margin"}))
TASK = Annotated[dict, NAMED]


def find_task(name: str) -> type[Task]:
    """The class of a task, whose `needs` are known before its data is opened. Raises UserError for an unknown name."""
    return NAMED.load(name)


def make_task(config: ConfigDict, class_names: tuple[str, ...]) -> Task:
    """Makes the task of a config for a dataset's classes. Raises UserError for an unknown name, and for wrong fields."""
    values = config.task.to_dict()
    fields.check("config.task", values, TASK)
    task, data = NAMED.load(values.pop("name")), config.data
    return task(class_names=class_names, mean=data.mean, std=data.std, margin=data.margin, **values)
