"""The model card of an export, and its example: what the files are, what goes in, what comes out, and how good it is."""

import importlib.metadata
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import jax
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

UNESCAPED = re.compile(r"(?<!\\)\|")  # a bar that would end a cell
LOADER = '''\
"""Runs the model: python load.py INPUTS.npz OUTPUTS.npz, or without both on ones. Needs jax, flatbuffers and numpy alone."""
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
    "image": "RGB from 0 to 255, as it is in an image file: the program normalises it",
    "area": "(top, left, bottom, right) in pixels: the part of `image` that shows the image, without the border",
    "proposals": "(top, left, bottom, right) in pixels of `image`, the best first; zeros where there are fewer",
    "proposal_mask": "which of the proposals there are",
}
OUTPUTS = {
    "probability": "of each class, at each pixel",
    "boxes": "(top, left, bottom, right) in pixels of `image`, by falling score, after suppression",
    "scores": "0 to 1",
    "classes": "numbers of the table below",
    "valid": "which detections there are; the others are zeros",
    "masks": "of each detection, the probability of the object at the centres of cells over its box",
}
FITS = {
    "stretch": "Resize the image to {tall}x{wide} pixels (height x width), whatever its own shape.",
    "letterbox": (
        "Scale an image of h x w pixels by s = min({tall}/h, {wide}/w) to h' = round(s h) by w' = round(s w), and put its top "
        "left corner at row ({tall} - h') // 2, column ({wide} - w') // 2."
    ),
    "crop": (
        "Leave the image at its own scale, and put its top left corner at row ({tall} - h) // 2, column ({wide} - w) // 2; what "
        "does not fit is cut. (`--mode=predict` sees a larger image through several windows.)"
    ),
    "shortest": (
        "Scale an image of h x w pixels by s = min({short}/min(h, w), {long}/max(h, w)) to h' = floor(s h) by w' = floor(s w), "
        "which must fit, and put it at the top left."
    ),
}


def write_loader(program: Program) -> str:
    """Return the example: a program of ten lines."""
    ones = (f"{name}=np.ones({one.shape}, {str(one.dtype)!r})" for name, one in program.specify(1).items())
    return LOADER.replace("{ONES}", f"dict({', '.join(ones)})")


def write_card(
    config: ConfigDict,
    model: Loaded,
    program: Program,
    outputs: Mapping[str, jax.core.ShapedArray],
    workdir: pathlib.Path,
    licence: str | None,
    published: str | None,
) -> str:
    """Return the card, in Markdown.

    `outputs` are the program's, whose batch is a symbol, `licence` is that of data and weights in the user's words, and
    `published` says how much of the network torchvision has names for, None for nothing.
    """
    run = pathlib.Path(model.facts.get("run", workdir))
    sections = {
        "Files": _describe_files(published),
        "Inputs": [
            "b is the number of images, any.",
            "",
            *_tabulate(
                ["name", "type", "shape", "what"],
                [
                    _row(name, one.dtype, ("b", *one.shape[1:]), INPUTS[name])
                    for name, one in program.specify(1).items()
                ],
            ),
        ],
        "How an image becomes an input": _describe_fit(config),
        "Outputs": [
            *_tabulate(
                ["name", "type", "shape", "what"],
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
    """Describe the files, and how to run them."""
    jax_version, flatbuffers = (importlib.metadata.version(name) for name in ("jax", "flatbuffers"))
    rows = [
        [
            "`model.stablehlo`",
            "the network with its weights, normalisation, decoding and suppression, for CPU, CUDA and TPU",
        ],
        ["`load.py`", "an example that runs it"],
        ["`weights.safetensors`", "the weights, by our names"],
        ["`config.json`", "the experiment"],
        ["`classes.json`", "the classes"],
    ]
    if published:
        what = "all weights" if published == "all" else "the backbone's weights"
        rows.append(["`weights_torchvision.safetensors`", f"{what}, by torchvision's names and in its layout"])
    return [
        *_tabulate(["file", "what"], rows),
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
        lines.append(f"Around that are {data.margin} pixels on each side, which make it {canvas[0]}x{canvas[1]}.")
    if data.fit != "stretch" or data.margin:  # else nothing lies beyond
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
        "Windows, mirror images and zooms (`config.eval`) are `--mode=predict`'s; the program sees an input once."
    )
    return lines


def _describe_border(data: ConfigDict) -> str:
    if data.border == "mirror":
        return "What lies beyond the image goes on by mirroring it, without its border pixel twice."
    colour = ", ".join(str(round(value)) for value in data.mean)
    return f"What lies beyond the image has the colour ({colour})."


def _describe_margin(config: ConfigDict, outputs: Mapping[str, jax.core.ShapedArray]) -> list[str]:
    if "probability" not in outputs or not config.data.margin:
        return []
    return ["", f"The pixels are those of `image` without {config.data.margin} at each side."]


def _describe_scores(run: pathlib.Path, model: Loaded) -> list[str]:
    """List the validation scores of the checkpoint's step, and of every `--mode=evaluate` of these weights."""
    step, found = model.facts["step"], {}
    if model.facts.get("weights") != "raw":  # a run scores the moving average where there is one
        row = read_row(run / "metrics.jsonl", step)
        scores = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
        found[f"in training, step {step}"] = {k: v for k, v in scores.items() if v is None or isinstance(v, float)}
    own = {name: value for name, value in model.facts.items() if name != "run"}, _leave_out_split(model.changed)
    for path in sorted((run / "records").glob("*.json")):
        stored = read_json(path)
        changed, scores = stored.get("config"), stored.get("scores")
        if not isinstance(changed, dict) or not isinstance(scores, dict):
            raise UserError(f"{path} does not hold the result of an evaluation; {REMEDY}")
        if own == ({name: stored.get(name) for name in own[0]}, _leave_out_split(changed)):
            found[path.stem] = {name: value for name, value in scores.items() if isinstance(value, int | float | None)}
    lines = []
    for title, scores in found.items():
        if scores:
            table = format_table(scores).replace("`", "'")  # a name must not end the block
            lines += [f"{escape_markdown(title)}:", "", "```", *table.splitlines(), "```", ""]
    return lines[:-1] or ["None are known; `--mode=evaluate` makes them."]


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
        lines.append(f"* fields that differ from the run's: `{json.dumps(model.changed, sort_keys=True)}`")
    for what, made in (("trained", sessions[-1] if sessions else None), ("exported", here)):
        if made:
            git = made.get("git") or {"commit": "not in a repository"}
            code = f"{git.get('commit')}" + (", with changes" if git.get("dirty") else "")
            packages = ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items())
            lines.append(f"* {what} with Python {made.get('python')}, {packages}; the code's commit: {code}")
    return lines


def _row(name: str, dtype: object, shape: Sequence[object], what: str) -> list[str]:
    return [f"`{name}`", str(dtype), f"[{', '.join(map(str, shape))}]", what]


def _tabulate(titles: list[str], rows: list[list[object]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [
        "| " + " | ".join(UNESCAPED.sub(r"\\|", " ".join(str(cell).split())) for cell in line) + " |" for line in lines
    ]
