"""The pictures of runs on the same validation images for a page, with the ground truth and each run's prediction."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.compare.runs import Run
from experiments.pictures.examples import encode_webp, read_examples
from experiments.pictures.palette import class_colour, find_background
from files import leads_out, read_bytes
from limits import EXAMPLES

SHEET = 1200  # pixels of the longer side of a sheet, the picture of all examples in older runs
MOST_RUNS = 30  # runs with pictures on a page: each adds some hundred kilobytes


def collect_examples(runs: Sequence[tuple[int, Run]]) -> dict[str, Any]:
    """Collect the drawn examples of the newest evaluation of each of the numbered `runs`.

    `rows` are images that at least one run has drawn, with the predictions by run number. Images of two runs are the same if
    their names and the fingerprints of the data agree. `sheets` are the pictures of runs without separate examples. `classes`
    are the colours of label maps, without the background, which pictures do not colour.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    sheets: dict[int, str] = {}
    classes: dict[str, str] = {}
    for number, run in runs[:MOST_RUNS]:
        try:
            drawn = read_examples(run.workdir / "predictions" / "val-examples.zip")
            embedded = [{name: _embed(tile) for name, tile in own.tiles.items()} for own in drawn.examples]
        except (OSError, ValueError, KeyError, TypeError):
            sheet = _read_sheet(run)
            if sheet:
                sheets[number] = sheet
            continue
        fingerprint = find_fingerprint(run)
        for own, tiles in zip(drawn.examples, embedded, strict=True):
            row = rows.setdefault((fingerprint, own.name), {"name": own.name, "index": own.index, "predictions": {}})
            row["predictions"][number] = tiles.pop("prediction", None)
            for name, tile in tiles.items():
                row.setdefault(name, tile)
            if "image" in tiles:
                background = find_background(drawn.class_names)
                classes |= {
                    name: write_colour(class_colour(index))
                    for index, name in enumerate(drawn.class_names)
                    if index != background
                }
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], item[1]["index"]))
    return {
        "rows": [row for _, row in ordered],
        "sheets": sheets,
        "classes": classes,
        "left_out": len(runs[MOST_RUNS:]),
    }


def find_fingerprint(run: Run) -> str:
    """Return the fingerprint of the validation data of a run's newest session, or the run's path without one."""
    data = run.sessions[-1].get("data") if run.sessions else None
    return str(data["eval"]) if isinstance(data, dict) and "eval" in data else str(run.workdir)


def _read_sheet(run: Run) -> str | None:
    """Read the newest sheet of examples, made smaller. Return None if it is missing or damaged."""
    place = next((row["val/examples"] for row in reversed(run.rows) if isinstance(row.get("val/examples"), str)), None)
    if place is None or leads_out(place):
        return None
    try:
        with Image.open(io.BytesIO(read_bytes(run.workdir / place, EXAMPLES))) as picture:
            picture.thumbnail((SHEET, SHEET))
            return _embed(encode_webp(np.asarray(picture.convert("RGB"))))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _embed(webp: bytes) -> str:
    """Return a picture as a data URL. Raise OSError if it is not WebP, because files of a run are not trusted."""
    with Image.open(io.BytesIO(webp), formats=["WEBP"]) as picture:
        picture.verify()
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def write_colour(colour: Sequence[int]) -> str:
    """Return an RGB colour in the notation of CSS."""
    return "#" + bytes(colour).hex()
