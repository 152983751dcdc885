"""Pictures of a run's input, which are examples of a source or rows of training batches."""

import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from experiments.command_line import Command
from experiments.pictures.png import write_new_png
from experiments.results.base import Results
from experiments.results.masks import paste
from files import expand_user
from input_pipeline.batch import Batch, Example
from input_pipeline.loader import draw_row
from input_pipeline.masks import collect
from input_pipeline.sources import Source
from input_pipeline.truths import Truth
from wording import make_printable

EXAMPLES = 16  # of a split, spread evenly


def choose_folder(command: Command, kind: str) -> pathlib.Path:
    """Return the folder of pictures, which is --output, else `kind` in --workdir, else a new temporary folder."""
    if command.output:
        return expand_user(command.output).absolute()
    return command.directory() / kind if command.workdir else pathlib.Path(tempfile.mkdtemp(prefix=f"{kind}-"))


def draw_source(
    folder: pathlib.Path, results: Results, source: Source, truth: Truth, data: ConfigDict, seed: int
) -> list[pathlib.Path]:
    """Draw some examples of a source twice, as they are read and as training may augment them. Return the two files."""
    indices = np.linspace(0, len(source) - 1, min(EXAMPLES, len(source))).round().astype(int).tolist()
    captions = [caption(source, index) for index in indices]
    augmented = (
        draw_row(source, truth, index, data.augment, np.random.default_rng((seed, index))) for index in indices
    )
    sheets = {
        "examples": results.sheet((source[index] for index in indices), captions),
        "augmented": results.sheet(map(as_example, augmented), captions),
    }
    return [write_new_png(folder / f"{name}.png", sheet) for name, sheet in sheets.items()]


def draw_batch(results: Results, source: Source, batch: Batch) -> np.ndarray:
    """Draw each row of a batch, with the number and the name of its image."""
    captions = [caption(source, index) for index in batch["image_id"].tolist()]
    return results.sheet(map(as_example, list_rows(batch)), captions)


def list_rows(batch: Batch) -> Iterator[Batch]:
    """Yield the rows of a batch."""
    for number in range(len(batch["image_id"])):
        yield {name: values[number] for name, values in batch.items()}


def as_example(row: Batch) -> Example:
    """Return a row of a batch in the form of a source's example, without padding and with masks as pixels."""
    if "boxes" not in row:
        return row
    kept = {name: row[name][row["valid"]] for name in ("boxes", "classes", "crowd", "difficult")}
    if "masks" in row:
        size, grids = row["image"].shape[:2], row["masks"][row["valid"]]
        pasted: Iterable = (paste(grid, box, size) for grid, box in zip(grids, kept["boxes"], strict=True))
        kept["masks"] = collect(pasted)
    return {"image": row["image"]} | kept


def caption(source: Source, index: int) -> str:
    """Return the number of an example in its source, and its name."""
    return f"{index}  {make_printable(source.name(index))}"


def name_files(files: Sequence[pathlib.Path]) -> str:
    """Return the line that names the files of pictures."""
    return f"pictures: {' '.join(map(str, files))}"
