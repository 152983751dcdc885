"""Tasks by the name that `config.task.name` selects."""

from ml_collections import ConfigDict

from errors import UserError
from experiments.tasks.adversarial import AdversarialSegmentation
from experiments.tasks.base import Task
from experiments.tasks.segmentation import Segmentation
from experiments.tasks.ssd import SSD
from experiments.tasks.yolov1 import YOLOv1
from models import registry

TASKS = {
    "adversarial_segmentation": AdversarialSegmentation,
    "segmentation": Segmentation,
    "ssd": SSD,
    "yolov1": YOLOv1,
}


def make_task(config: ConfigDict, class_names: tuple[str, ...]) -> Task:
    """The task of a config for a dataset's classes. Raises UserError for an unknown name."""
    if config.task.name not in TASKS:
        raise UserError(f"config.task.name={config.task.name!r} is unknown; choose one of {', '.join(sorted(TASKS))}")
    task = TASKS[config.task.name](config, class_names)
    check_pair(task, config.task.name, registry.find_model(config.model.name), config.model.name)
    return task


def check_pair(task: Task, task_name: str, model: type[registry.Model], model_name: str) -> None:
    """Raises UserError for a task that cannot read what the model produces, or that trains a part which it has not."""
    if task.reads != model.produces:
        fitting = ", ".join(name for name, known in TASKS.items() if known.reads == model.produces)
        raise UserError(
            f"config.task.name={task_name!r} reads {task.reads}, and config.model.name={model_name!r} produces "
            f"{model.produces}; choose another model, or config.task.name of {fitting}"
        )
    lacking = [name for name in task.trains if name not in model.training_only]
    if lacking:
        raise UserError(
            f"config.task.name={task_name!r} needs a model with a {lacking[0]}, such as pix2pix; {model_name!r} has none"
        )
