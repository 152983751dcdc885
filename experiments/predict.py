"""Applies a checkpoint to images of any size and writes what the task makes of them, at the images' own size."""

import glob
import hashlib
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments.errors import RunError, warn
from experiments.pretrained import load_run
from experiments.tasks import make_task
from input_pipeline.batch import DataError
from input_pipeline.decoding import SUFFIXES, decode_image, list_images
from input_pipeline.loader import fit_image


def predict(
    config: ConfigDict, workdir: pathlib.Path, inputs: str | None, output: str | None, checkpoint: str, weights: str
) -> None:
    """`--mode=predict`: `inputs` is an image, a folder of them, or a glob. What cannot be read is named and counted.

    Raises RunError where there is nothing to read, or where `output` holds files already.
    """
    paths = find_images(inputs)
    architecture, variables, notes = load_run(config, workdir, checkpoint, weights)
    folder = pathlib.Path(output).expanduser().absolute() if output else None
    if folder is None:
        # A name of its own for every input: two photos of one name must not share a result.
        place = hashlib.sha256(str(pathlib.Path(inputs).expanduser().absolute()).encode()).hexdigest()[:6]
        folder = workdir / "predictions" / f"{checkpoint}-{weights}-{notes['step']}" / place
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"--output={output} exists and is not an empty folder; name a new one")
    task = make_task(config, tuple(notes["class_names"]))
    variables = jax.device_put(variables)
    apply = jax.jit(lambda variables, image: task.predict(architecture.merge(variables), {"image": image}))

    names, skipped, written = output_names(paths), 0, []
    queues: dict[tuple, list] = defaultdict(list)  # by canvas: every shape compiles once

    def flush(queue: list) -> None:
        images = np.stack([canvas for _, _, canvas, _ in queue])
        rows = np.concatenate([images, np.zeros((config.eval.batch_size - len(images), *images.shape[1:]), np.uint8)])
        predictions = jax.device_get(apply(variables, rows))
        for row, (name, image, _, to_original) in enumerate(queue):
            one = {key: values[row] for key, values in predictions.items()}
            written.extend(task.write(folder, name, image, one, to_original))
        queue.clear()

    for path, image in read_images(tqdm(paths, unit="image", disable=None)):
        if image is None:
            skipped += 1
            continue
        canvas, to_original, _ = fit_image(image, config.data)
        queue = queues[canvas.shape]
        queue.append((names[path], image, canvas, to_original))
        if len(queue) == config.eval.batch_size:
            flush(queue)
    for queue in filter(None, queues.values()):
        flush(queue)
    counted = f"{len(paths) - skipped} of {len(paths)} images" + (f", {skipped} skipped" if skipped else "")
    print(
        f"{counted}; {checkpoint} checkpoint (step {notes['step']}), {weights} weights; {len(written)} files in {folder}"
    )
    for path in written[:2]:
        print(path)
    if skipped == len(paths):
        raise RunError(f"none of the {skipped} files could be read as an image; see the warnings above")


def find_images(inputs: str | None) -> list[pathlib.Path]:
    """The files that `--inputs` names, sorted. Raises RunError where there are none."""
    if not inputs:
        raise RunError("--inputs is missing; give an image, a folder of images, or a glob in quotes")
    place = pathlib.Path(inputs).expanduser()
    if place.is_dir():
        paths = list_images(place)
    elif place.exists():
        paths = [place]
    else:
        paths = [path for path in map(pathlib.Path, glob.glob(str(place), recursive=True)) if path.is_file()]
    if not paths:
        raise RunError(f"--inputs={inputs}: no such file, and no image ({' '.join(SUFFIXES)}) in such a folder or glob")
    return sorted(paths)


def output_names(paths: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """A name for each path's results: its stem, or where two share one, as much of the path as tells them apart."""
    names = {path: path.stem for path in paths}
    for longer in (lambda path: path.name, lambda path: "_".join(path.absolute().parts[1:])):
        shared = {name for name, times in Counter(names.values()).items() if times > 1}
        names = {path: longer(path) if name in shared else name for path, name in names.items()}
    return names


def read_images(paths) -> Iterator[tuple[pathlib.Path, np.ndarray | None]]:
    """Each path with its pixels [H,W,3] uint8, or with None (and a warning) where it cannot be read."""
    for path in paths:
        try:
            yield path, decode_image(path.read_bytes(), str(path))
        except (DataError, OSError) as error:
            warn(f"skipped: {error}")
            yield path, None
