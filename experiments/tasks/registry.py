"""The tasks by their names in `config.task.name`. To add one, write its file and add a line here."""

from typing import Annotated

from ml_collections import ConfigDict

import fields
from errors import UserError
from experiments.tasks.base import Task
from fields import Named
from models.registry import NAMED_MODEL

TASKS = {
    "adversarial_segmentation": "experiments.tasks.adversarial:AdversarialSegmentation",
    "box_regression": "experiments.tasks.stages:BoxRegression",
    "fast_rcnn": "experiments.tasks.fast_rcnn:FastRCNNTask",
    "faster_rcnn": "experiments.tasks.faster_rcnn:FasterRCNNTask",
    "fcos": "experiments.tasks.fcos:FCOSTask",
    "mask_rcnn": "experiments.tasks.mask_rcnn:MaskRCNNTask",
    "retinanet": "experiments.tasks.retinanet:RetinaNetTask",
    "segmentation": "experiments.tasks.segmentation:Segmentation",
    "ssd": "experiments.tasks.ssd:SSDTask",
    "svm": "experiments.tasks.stages:SVMTask",
    "yolov1": "experiments.tasks.yolov1:YOLOv1Task",
}
NAMED = Named("task", TASKS, frozenset({"class_names", "mean", "std", "margin"}))
TASK = Annotated[dict, NAMED]


def find_task(name: str) -> type[Task]:
    """Return the class of a task, whose `needs` are known before any data is open. Raises UserError for an unknown name."""
    return NAMED.load(name)


def make_task(config: ConfigDict, class_names: tuple[str, ...]) -> Task:
    """Make the task of a config for a dataset's classes.

    Raises UserError for an unknown name, for wrong fields, and for a model that the task cannot read.
    """
    values = config.task.to_dict()
    fields.check("config.task", values, TASK)
    name, data = values.pop("name"), config.data
    task: Task = NAMED.load(name)(class_names=class_names, mean=data.mean, std=data.std, margin=data.margin, **values)
    check_pair(name, config.model.name)
    return task


def check_pair(task_name: str, model_name: str) -> None:
    """Raise UserError if the task cannot read the model's outputs, or trains a submodule that the model lacks."""
    task, model = find_task(task_name), NAMED_MODEL.load(model_name)
    if task.reads != model.produces:
        fitting = ", ".join(name for name in TASKS if find_task(name).reads == model.produces)
        raise UserError(
            f"config.task.name={task_name!r} reads {task.reads}, and config.model.name={model_name!r} produces "
            f"{model.produces}; choose another model, or config.task.name of {fitting}"
        )
    lacking = [name for name in task.trains if name not in model.training_only]
    if lacking:
        raise UserError(
            f"config.task.name={task_name!r} needs a model with a {lacking[0]}, such as pix2pix; {model_name!r} has none"
        )
