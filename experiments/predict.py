"""`--mode=predict`, which applies a checkpoint to images of any size and writes predictions of the same size."""

import glob
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError, print_lines, warn
from experiments.command_line import Command
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run.config_file import name_changes
from experiments.run.inference import Inference
from experiments.run.model import load_model
from experiments.run.out_of_memory import explain_evaluation
from experiments.tasks.registry import make_task
from files import expand_user, write_atomically
from input_pipeline.decoding import (
    WHITE,
    choose_white,
    decode_samples,
    is_image,
    list_images,
    list_others,
    read_header,
    read_image,
    to_uint8,
)
from input_pipeline.proposals import SearchedOnRequest
from input_pipeline.remarks import name_files, name_others, note_white
from terminal import Count
from wording import count, make_file_name


def predict(command: Command) -> None:
    """Apply a checkpoint of the run in --workdir to --inputs, which is an image, a folder with sub-folders, or a glob.

    Where --workdir holds no run, the weights come from the run config.init_from or the file config.pretrained. With a file the
    classes are those of the config's dataset; the classes of COCO are known without the data.

    Files that cannot be read are named and counted. Raises UserError where no image can be read, where --output holds files
    already, and in a job of several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=predict works in one process only; start a single one")
    workdir, config = command.directory(), command.run_config()
    inputs, output = command.inputs or "", command.output
    paths, others = find_images(inputs, workdir)
    for line in name_others(others):
        print_lines(line)
    model = load_model(config, workdir, command.checkpoint, command.weights, command.data_dir)
    folder = expand_user(output).absolute() if output else None
    made_with = model.facts | {"config": model.changed}
    if folder is None:
        # Every input has its own folder: two photos of the same name must not share a result.
        place = hashlib.sha256(str(expand_user(inputs).absolute()).encode()).hexdigest()[:6]
        name = f"{model.name}{name_changes(model.changed)}"
        folder = workdir / "predictions" / name / place
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output={output} exists and is not an empty folder; name a new one")
    if config.eval.method == "canvas":  # is for scores; predictions are written at the size of the image
        config = config.copy_and_resolve_references()
        config.eval.method = "whole"
    task, mesh = make_task(config, model.class_names), sharding.make_mesh(config.mesh)
    results = make_results(task.needs, config.eval, model.class_names)
    variables = jax.device_put(model.variables, sharding.tree_shardings(model.variables, mesh))
    images = ImageFiles(paths, model.white_level or WHITE, config.data.max_pixels)
    names, written = output_names(paths), []
    source = images
    if "proposals" in task.needs:
        print(
            "finding proposals in every image by selective search: some seconds for an image of 500 pixels", flush=True
        )
        source = SearchedOnRequest(images, config.data)
    files = results.writer(folder, paths, model.category_ids, _number(config.data, paths))
    inference = Inference(config, task, results, model.architecture, mesh)
    with Count("predictions", len(paths)) as progress, explain_evaluation(config, lambda: inference.programs):
        for index, example, prediction in inference(variables, source):
            if index not in images.unreadable:
                path = paths[index]
                written.extend(files.add(path, names[path], example["image"], prediction))
            progress.add()
    written.extend(files.close())
    write_atomically(folder / "made_with.json", json.dumps(made_with, indent=2).encode() + b"\n")
    for line in (*name_files("read upright, as the EXIF orientation says", images.turned()), *images.note_depth()):
        print_lines(line)
    skipped = len(images.unreadable)
    counted = f"{len(paths) - skipped} of {len(paths)} images" + (f", {skipped} skipped" if skipped else "")
    print_lines(f"{counted}; {model.words}; {count(len(written), 'file')} in {folder}", *map(str, written[:2]))
    if skipped == len(paths):
        raise UserError(f"none of the {skipped} files could be read as an image; see the warnings above")


def _number(data: ConfigDict, paths: Sequence[pathlib.Path]) -> list[int]:
    """Return the ids of the images in the files of the run's own dataset. Empty where not all images have one."""
    if data.name != "coco_folder":
        return []
    from input_pipeline.datasets.coco_folder import number_images  # imported here because tfds takes seconds

    return number_images(data, paths)


class ImageFiles:
    """Image files as examples without ground truth. A file that cannot be read is a warning and a black pixel."""

    def __init__(self, paths: list[pathlib.Path], white: int, largest: int):
        self.paths, self.white, self.largest = paths, white, largest
        self.unreadable: set[int] = set()
        self.peak = 0  # the largest value in the images of 16 bits that were read
        self._turned: set[int] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        try:
            data, name = read_image(self.paths[index], self.largest), self.name(index)
            samples = decode_samples(data, name, largest=self.largest)
            if read_header(data, name).orientation > 1:
                self._turned.add(index)
            if samples.itemsize > 1:
                self.peak = max(self.peak, int(samples.max()))
            return {"image": to_uint8(samples, self.white)}
        except UserError as error:
            if index not in self.unreadable:
                warn(f"skipped: {error}")
            self.unreadable.add(index)
            return {"image": np.zeros((1, 1, 3), np.uint8)}

    def turned(self) -> list[str]:
        """Return the names of the images with an EXIF orientation, among those that were read."""
        return [self.paths[index].name for index in sorted(self._turned)]

    def note_depth(self) -> tuple[str, ...]:
        """Return remarks on images of 16 bits, with the remedy if they look dark."""
        fits = choose_white(self.peak)
        dark = f"; for images that are too dark, --config.data.white_level={fits}" if fits < self.white else ""
        return tuple(line + dark for line in note_white(self.peak, self.white))

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        # From the pixels, not from the header: a truncated file does not have its full size.
        return self[index]["image"].shape[:2]


def find_images(inputs: str, workdir: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Return the images that `--inputs` names, sorted, and the other files among them.

    A folder is searched with its sub-folders, except for hidden ones and `workdir`, which holds pictures of the run.
    Raises UserError without images.
    """
    if not inputs:
        raise UserError("--inputs is missing; give an image, a folder of images, or a glob in quotes")
    place = expand_user(inputs)
    if place.is_dir():
        paths, others = [], []
        for folder, below, _ in os.walk(place):
            here = pathlib.Path(folder)
            below[:] = sorted(name for name in below if name[0] != "." and (here / name).absolute() != workdir)
            paths += list_images(here)
            others += list_others(here)
    elif place.is_file():
        paths, others = [place], []
    else:
        found = [path for path in map(pathlib.Path, glob.glob(str(place), recursive=True)) if not path.is_dir()]
        paths = [path for path in found if is_image(path)]
        others = [path for path in found if not is_image(path)]
    if not paths:
        problem = f"--inputs={inputs} is not a file, and not a folder or a glob with images"
        raise UserError("; ".join([problem, *name_others(others)]))
    return sorted(paths), others


def output_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Return a name for the results of each path.

    It is the path relative to the common folder, without the suffix unless two paths would share the name.
    """
    common = os.path.commonpath([path.absolute().parent for path in paths])
    places = {path: path.absolute().relative_to(common) for path in paths}
    names = {path: place.with_suffix("").as_posix() for path, place in places.items()}
    shared = {name for name, times in Counter(names.values()).items() if times > 1}
    names = {path: places[path].as_posix() if name in shared else name for path, name in names.items()}
    return {path: "/".join(map(make_file_name, name.split("/"))) for path, name in names.items()}
