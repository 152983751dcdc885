"""`--mode=propose`, which stores the proposals of a trained first stage for detectors that read them."""

from collections.abc import Iterator
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError, print_lines
from experiments.command_line import Command
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run.inference import Inference
from experiments.run.model import load_model
from experiments.run.out_of_memory import explain_evaluation
from experiments.run.state import Variables
from experiments.tasks.base import Arrays, Means, Task
from experiments.tasks.faster_rcnn import FasterRCNNTask
from experiments.tasks.registry import make_task
from files import claim_folder, expand_user
from input_pipeline.proposals import Store, place_store
from input_pipeline.sources import Part, Source, open_source, read_part
from terminal import Count
from wording import count


def propose(command: Command) -> None:
    """Store the proposals that the run in --workdir makes for config.data.train_split and config.data.eval_split.

    Images are seen as in an evaluation without augmentation, and config.task.proposals limits the proposals of an image. The
    folder is --output, or WORKDIR/proposals; a detector reads it as config.data.proposals.folder. Images that have proposals
    there keep them, so a start after a kill goes on.

    Raises UserError for a task without a first stage, for an --output of other weights, and in a job of several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=propose works in one process only; start a single one")
    workdir, config = command.directory(), command.run_config().copy_and_resolve_references()
    config.eval.update(method="whole", flip=False, scales=(1.0,), metrics=("coco",))
    model = load_model(config, workdir, command.checkpoint, command.weights, command.data_dir)
    task, mesh = make_task(config, model.class_names), sharding.make_mesh(config.mesh)
    if task.reads not in ("proposals and regions", "proposals, regions and masks"):
        raise UserError(
            f"config.task.name={config.task.name!r} makes no proposals; use the --workdir of a Faster R-CNN or Mask R-CNN"
        )
    # Where fit=crop needs several windows, the limit holds for all windows of an image together.
    config.data.white_level = model.white_level
    limits = cast(FasterRCNNTask, task)  # or one that reads the same
    config.eval.update(merge_iou=limits.proposal_iou, max_detections=limits.proposals[1])
    folder = expand_user(command.output).absolute() if command.output else workdir / "proposals"
    facts = model.facts | {"proposals": limits.proposals[1], "config": model.changed}
    claim_folder(
        folder,
        facts,
        "holds proposals of other weights or fields, see its made_with.json; name a new folder as --output",
    )
    results = make_results(FirstStage.needs, config.eval, model.class_names)
    variables = jax.device_put(model.variables, sharding.tree_shardings(model.variables, mesh))
    inference = Inference(config, FirstStage(task), results, model.architecture, mesh)
    for split in dict.fromkeys((config.data.train_split, config.data.eval_split)):
        for part in split.split("+"):
            data, name = read_part(config.data, part)
            source = open_source(data, name, command.data_dir, ("boxes",))
            store = place_store(folder, source, data.name, name)
            with explain_evaluation(config, lambda: inference.programs):
                _fill(store, source, inference, variables, f"{data.name} {name}")
    print(f"{model.words}; a detector reads them with --config.data.proposals.method=folder")
    print_lines(f"--config.data.proposals.folder={folder}")


class FirstStage(Task[nnx.Module]):
    """A task whose detections are the proposals of another task, in their order and all of class 0."""

    needs, trains = ("boxes",), ()

    def __init__(self, task: Task):
        self._task, self.reads = task, task.reads

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        return self._task.apply(model, batch, train=train, rngs=rngs)

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        return {}, {}

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """Return the proposals. They do not depend on the second stage, so XLA removes it."""
        boxes, valid = outputs["regions"], outputs["region_mask"]
        scores = jnp.broadcast_to(jnp.linspace(1.0, 0.0, valid.shape[1]), valid.shape)
        return {"boxes": boxes, "scores": scores, "classes": jnp.zeros(valid.shape, jnp.int32), "valid": valid}


def _fill(store: Store, source: Source, inference: Inference, variables: Variables, title: str) -> None:
    missing = store.missing()
    with Count(f"{title}: proposals", sum(map(len, missing))) as progress:
        for indices in missing:
            found = dict(_find(inference, variables, Part(source, indices)))
            store.write(indices, [found[index] for index in range(len(indices))])
            progress.add(len(indices))
    print_lines(f"{title}: proposals of {count(len(source), 'image')} in {store.folder}")


def _find(inference: Inference, variables: Variables, part: Part) -> Iterator[tuple[int, np.ndarray]]:
    for index, _, prediction in inference(variables, part):
        yield index, prediction["boxes"].astype(np.float32)
