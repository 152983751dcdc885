"""The model card of an export, with its files, inputs, outputs and scores, and the example program load.py."""

import importlib.metadata
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from jax.core import ShapedArray
from ml_collections import ConfigDict

from errors import UserError
from experiments.run.evidence import environment
from experiments.run.metrics_file import read_row
from experiments.run.model import Loaded
from experiments.run.program import Program, find_canvas
from experiments.run.sessions import read_sessions
from experiments.run.tables import format_table
from files import REMEDY, read_json
from input_pipeline.augment.geometry import inner
from wording import escape_markdown

UNESCAPED = re.compile(r"(?<!\\)\|")  # a bar that would end a table cell
LOADER = '''\
"""Run the model: python load.py INPUTS.npz OUTPUTS.npz, or without files on ones. Needs only jax, flatbuffers and numpy."""
import pathlib, sys
import jax, numpy as np
from jax import export

model = export.deserialize(bytearray((pathlib.Path(__file__).parent / "model.stablehlo").read_bytes()))
ones = {ONES}
inputs = dict(np.load(sys.argv[1])) if sys.argv[1:] else ones
outputs = jax.jit(model.call)(**inputs)
np.savez(sys.argv[2], **outputs) if sys.argv[2:] else print({name: value.shape for name, value in outputs.items()})
'''
INPUTS = {
    "image": "RGB from 0 to 255, as in an image file; the program normalises it",
    "area": "(top, left, bottom, right) in pixels, the part of `image` that shows the image without the border",
    "proposals": "(top, left, bottom, right) in pixels of `image`, the best first, padded with zeros",
    "proposal_mask": "true for each proposal, false for padding",
}
OUTPUTS = {
    "probability": "of each class at each pixel",
    "boxes": "(top, left, bottom, right) in pixels of `image`, sorted by descending score, after non-maximum suppression",
    "scores": "0 to 1",
    "classes": "numbers in the table below",
    "valid": "true for each detection; the other rows are zeros",
    "masks": "for each detection, the probability of the object at the centres of a grid of cells over its box",
}
FITS = {
    "stretch": "Resize the image to {tall}x{wide} pixels (height x width), whatever its own shape.",
    "letterbox": (
        "Scale an image of h x w pixels by s = min({tall}/h, {wide}/w) to h' = round(s h) by w' = round(s w), and put its top "
        "left corner at row ({tall} - h') // 2, column ({wide} - w') // 2."
    ),
    "crop": (
        "Keep the image at its own scale, and put its top left corner at row ({tall} - h) // 2, column ({wide} - w) // 2; what "
        "does not fit is cut off. (`--mode=predict` sees a larger image through several windows.)"
    ),
    "shortest": (
        "Scale an image of h x w pixels by s = min({short}/min(h, w), {long}/max(h, w)) to h' = floor(s h) by w' = floor(s w), "
        "which must fit, and put it at the top left."
    ),
}


def write_loader(program: Program) -> str:
    """Return load.py, an example program of ten lines."""
    ones = (f"{name}=np.ones({one.shape}, {str(one.dtype)!r})" for name, one in program.specify(1).items())
    return LOADER.replace("{ONES}", f"dict({', '.join(ones)})")


def write_card(
    config: ConfigDict,
    model: Loaded,
    program: Program,
    outputs: Mapping[str, ShapedArray],
    workdir: pathlib.Path,
    licence: str | None,
    published: str | None,
) -> str:
    """Return the card, in Markdown.

    `outputs` are the program's, with a symbol as batch size. `licence` is the user's text on the licence of data and weights.
    `published` is the part of the network that torchvision has names for, None for no part.
    """
    run = pathlib.Path(model.facts.get("run", workdir))
    sections = {
        "Files": _describe_files(published),
        "Inputs": [
            "b is any number of images.",
            "",
            *_tabulate(
                ["name", "type", "shape", "meaning"],
                [
                    _row(name, one.dtype, ("b", *one.shape[1:]), INPUTS[name])
                    for name, one in program.specify(1).items()
                ],
            ),
        ],
        "How an image becomes an input": _describe_fit(config),
        "Outputs": [
            *_tabulate(
                ["name", "type", "shape", "meaning"],
                [_row(name, one.dtype, one.shape, OUTPUTS[name]) for name, one in outputs.items()],
            ),
            *_describe_margin(config, outputs),
        ],
        "Classes": _tabulate(
            ["number", "class", "id in the data's files"],
            [
                [number, escape_markdown(name), own]
                for number, (name, own) in enumerate(zip(model.class_names, model.category_ids, strict=True))
            ],
        ),
        "Scores": _describe_scores(run, model),
        "Data": _describe_data(run, config),
        "Licence": [
            "The program comes from code under the Apache-2.0 licence.",
            f"The licence of the data and of the weights: {licence or 'not stated'}.",
        ],
        "Made with": _describe_making(run, model),
    }
    words = f"{model.words[0].upper()}{model.words[1:]}, of {escape_markdown(run.name)}"
    title = f"# {config.model.name} on {config.data.name}\n\n{words}.\n"
    return title + "".join(f"\n## {name}\n\n" + "\n".join(lines) + "\n" for name, lines in sections.items())


def _describe_files(published: str | None) -> list[str]:
    """Return the lines on the files, and the commands that run them."""
    jax_version, flatbuffers = (importlib.metadata.version(name) for name in ("jax", "flatbuffers"))
    rows = [
        [
            "`model.stablehlo`",
            "the network with its weights, normalisation, decoding and suppression, for CPU, CUDA and TPU",
        ],
        ["`load.py`", "an example program that runs the network"],
        ["`weights.safetensors`", "the weights, with this project's names"],
        ["`config.json`", "the experiment"],
        ["`classes.json`", "the classes"],
    ]
    if published:
        what = "all weights" if published == "all" else "the backbone's weights"
        rows.append(["`weights_torchvision.safetensors`", f"{what}, with torchvision's names and layout"])
    return [
        *_tabulate(["file", "content"], rows),
        "",
        "```sh",
        f"pip install jax=={jax_version} flatbuffers=={flatbuffers}",
        "python load.py INPUTS.npz OUTPUTS.npz",
        "```",
    ]


def _describe_fit(config: ConfigDict) -> list[str]:
    data, canvas = config.data, find_canvas(config)
    tall, wide = inner(canvas, data.margin)
    lines = [FITS[data.fit].format(tall=tall, wide=wide, short=data.shortest[0], long=data.shortest[1])]
    if data.margin:
        lines.append(f"Then add {data.margin} pixels on each side, which gives {canvas[0]}x{canvas[1]} pixels.")
    if data.fit != "stretch" or data.margin:  # a stretched image fills the canvas, without a border
        lines.append(_describe_border(data))
    lines.append(
        "Pixels are sampled linearly at their centres: row r of h' rows shows row (r + 0.5) h / h' - 0.5 of the image."
    )
    if data.antialias:
        lines.append(
            "A side that shrinks to 1/k or less, k = 2, 3 ..., is averaged over areas of k pixels first (OpenCV's INTER_AREA)."
        )
    lines.append(f"The program subtracts {tuple(data.mean)} and divides by {tuple(data.std)}, for R, G and B.")
    lines.append(
        "Windows, mirror images and zooms (`config.eval`) exist only in `--mode=predict`; the program sees an input once."
    )
    return lines


def _describe_border(data: ConfigDict) -> str:
    if data.border == "mirror":
        return "The border mirrors the image, without repeating the image's edge pixel."
    colour = ", ".join(str(round(value)) for value in data.mean)
    return f"The border has the colour ({colour})."


def _describe_margin(config: ConfigDict, outputs: Mapping[str, ShapedArray]) -> list[str]:
    if "probability" not in outputs or not config.data.margin:
        return []
    return ["", f"The outputs cover `image` without {config.data.margin} pixels on each side."]


def _describe_scores(run: pathlib.Path, model: Loaded) -> list[str]:
    """Return the lines on the validation scores of the checkpoint's step and of each evaluation of these weights."""
    step, found = model.facts["step"], {}
    if model.facts.get("weights") != "raw":  # training scores the moving average if there is one
        row = read_row(run / "metrics.jsonl", step)
        scores = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
        found[f"in training, step {step}"] = {k: v for k, v in scores.items() if v is None or isinstance(v, float)}
    own = {name: value for name, value in model.facts.items() if name != "run"}, _leave_out_split(model.changed)
    for path in sorted((run / "records").glob("*.json")):
        stored = read_json(path)
        changed, scores = stored.get("config"), stored.get("scores")
        if not isinstance(changed, dict) or not isinstance(scores, dict):
            raise UserError(f"{path} does not contain the result of an evaluation; {REMEDY}")
        if own == ({name: stored.get(name) for name in own[0]}, _leave_out_split(changed)):
            found[path.stem] = {name: value for name, value in scores.items() if isinstance(value, int | float | None)}
    lines = []
    for title, scores in found.items():
        if scores:
            table = format_table(scores).replace("`", "'")  # a class name must not end the code block
            lines += [f"{escape_markdown(title)}:", "", "```", *table.splitlines(), "```", ""]
    return lines[:-1] or ["No scores are known; `--mode=evaluate` measures them."]


def _leave_out_split(changed: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in changed.items() if name != "data.eval_split"}


def _describe_data(run: pathlib.Path, config: ConfigDict) -> list[str]:
    sessions = read_sessions(run / "evidence.json")
    lines = [f"`{config.data.name}`, trained on `{config.data.train_split}`, scored on `{config.data.eval_split}`."]
    prints = sessions[-1].get("data", {}) if sessions else {}
    return lines + [f"Fingerprint of the split to {name}: `{value}`." for name, value in prints.items()]


def _describe_making(run: pathlib.Path, model: Loaded) -> list[str]:
    sessions, here = read_sessions(run / "evidence.json"), environment()
    lines = [f"* {name}: {value}" for name, value in model.facts.items() if name != "run"]
    if model.changed:
        lines.append(f"* config fields that differ from the run's: `{json.dumps(model.changed, sort_keys=True)}`")
    for what, made in (("trained", sessions[-1] if sessions else None), ("exported", here)):
        if made:
            git = made.get("git") or {"commit": "not in a repository"}
            code = f"{git.get('commit')}" + (", with changes" if git.get("dirty") else "")
            packages = ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items())
            lines.append(f"* {what} with Python {made.get('python')}, {packages}; the code's commit: {code}")
    return lines


def _row(name: str, dtype: object, shape: Sequence[object], what: str) -> list[str]:
    return [f"`{name}`", str(dtype), f"[{', '.join(map(str, shape))}]", what]


def _tabulate(titles: list[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [
        "| " + " | ".join(UNESCAPED.sub(r"\\|", " ".join(str(cell).split())) for cell in line) + " |" for line in lines
    ]
