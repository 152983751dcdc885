"""Pictures of what a run is fed: examples as a source has them, and rows of training batches."""

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
    """Returns where pictures go: --output, else `kind` in --workdir, else a new folder among the temporary files."""
    if command.output:
        return expand_user(command.output).absolute()
    return command.directory() / kind if command.workdir else pathlib.Path(tempfile.mkdtemp(prefix=f"{kind}-"))


def draw_source(
    folder: pathlib.Path, results: Results, source: Source, truth: Truth, data: ConfigDict, seed: int
) -> list[pathlib.Path]:
    """Draws the same examples of a source twice: as they are read, and as training may see them. Returns the two files."""
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
    """Draws each row of a batch, with the number and the name of its image."""
    captions = [caption(source, index) for index in batch["image_id"].tolist()]
    return results.sheet(map(as_example, list_rows(batch)), captions)


def list_rows(batch: Batch) -> Iterator[Batch]:
    """Yields the rows of a batch."""
    for number in range(len(batch["image_id"])):
        yield {name: values[number] for name, values in batch.items()}


def as_example(row: Batch) -> Example:
    """Returns a row of a batch as a source would have it: without padding, and with masks as pixels of the picture."""
    if "boxes" not in row:
        return row
    kept = {name: row[name][row["valid"]] for name in ("boxes", "classes", "crowd", "difficult")}
    if "masks" in row:
        size, grids = row["image"].shape[:2], row["masks"][row["valid"]]
        pasted: Iterable = (paste(grid, box, size) for grid, box in zip(grids, kept["boxes"], strict=True))
        kept["masks"] = collect(pasted)
    return {"image": row["image"]} | kept


def caption(source: Source, index: int) -> str:
    """Returns the number of an example in its source, and its name."""
    return f"{index}  {make_printable(source.name(index))}"


def name_files(files: Sequence[pathlib.Path]) -> str:
    """Returns the line that says where pictures are."""
    return f"pictures: {' '.join(map(str, files))}"
