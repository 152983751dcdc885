"""Preflights of the headline configs on slices of TPUs without a TPU, or of the debug variants of all configs.

    python -m benchmarks.preflight preflight.jsonl
    python -m benchmarks.preflight debug.jsonl --debug
    python -m benchmarks.preflight preflight.jsonl --table

writes one row of JSON per case to the file, and skips the cases that the file already has. So after a kill the same command
continues. Each case is a separate process and takes minutes. On every slice a chip has a quarter of the config's batch, at least
one image (weak scaling). Of several canvases of evaluation only the largest is compiled. `--table` prints the rows as Markdown.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

from experiments.command_line import CONFIGS, read_experiment
from experiments.run.evidence import commit

ROOT = pathlib.Path(__file__).parents[1]
HEADLINES = {  # with their numbers of classes, so that no data is needed
    "unet_pets": 3,
    "fcn8s_voc": 21,
    "deeplabv3plus_camvid": 11,
    "ssd300_voc": 20,
    "retinanet_coco": 80,
    "faster_rcnn_r50_fpn_coco": 80,
    "mask_rcnn_r50_fpn_coco": 80,
}
SLICES = {"v5e:2x2": 4, "v5e:16x16": 256}  # with their numbers of chips
CLASSES = 5  # of a debug variant


def list_cases(debug: bool) -> list[dict]:
    """Return the cases, each with config, topology and the flags of main.py."""
    if debug:
        names = sorted(
            path.stem for path in CONFIGS.glob("*.py") if "def get_config(variant" in path.read_text("utf-8")
        )
        cases = [(f"configs/{name}.py:debug", "v5e:2x2", CLASSES) for name in names]
    else:
        cases = [(f"configs/{name}.py", topology, HEADLINES[name]) for topology in SLICES for name in HEADLINES]
    return [
        {"config": config, "topology": topology, "flags": list_flags(config, topology, classes)}
        for config, topology, classes in cases
    ]


def list_flags(config: str, topology: str, classes: int) -> list[str]:
    """Return the flags of main.py for a case, with its batch sizes and only the largest canvas."""
    fields = read_experiment(str(ROOT / config), [])
    flags = [f"--config={config}", f"--topology={topology}", f"--classes={classes}"]
    for part in ("train", "eval"):
        share = max(1, fields[part].batch_size // SLICES["v5e:2x2"])
        flags.append(f"--config.{part}.batch_size={share * SLICES[topology]}")
    if len(fields.data.canvases) > 1:
        height, width = max(fields.data.canvases, key=math.prod)
        flags.append(f"--config.data.canvases=(({height},{width}),)")
    return flags


def run_case(case: dict) -> dict:
    """Run a case. Return its row, with the result of preflight or the end of its error."""
    began = time.monotonic()
    command = [sys.executable, "main.py", "--mode=preflight", *case["flags"]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    last = done.stdout.strip().rpartition("\n")[2]
    found = {"result": json.loads(last)} if last.startswith("{") else {"error": done.stderr.strip()[-600:]}
    return case | found | {"code": done.returncode, "seconds": round(time.monotonic() - began), "git": commit(ROOT)}


def read_rows(path: pathlib.Path) -> list[dict]:
    """Return the rows of a file. The last row of a case counts, and incomplete lines are skipped."""
    rows = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["config"], row["topology"]] = row
    return list(rows.values())


def tabulate(rows: list[dict]) -> list[str]:
    """Return the rows as a table in Markdown."""
    lines = [
        "| config | slice | images per chip | MB per chip: training, evaluation | of HBM | TFLOP per chip "
        "| all-reduced MB, of the parameters | least step, ms | most images/s | efficiency, at best | compile s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = f"`{row['config'].removeprefix('configs/').removesuffix('.py')}` | {row['topology']}"
        if "result" not in row:
            lines.append(f"| {name} | " + " | ".join(["-"] * 8) + f" | {row['error'].splitlines()[-1][:100]} |")
            continue
        found, training = row["result"], row["result"]["training"]
        evaluations = found["evaluation"].values()
        taken = [
            training["needed_mb"] if training else None,
            max((one["taken_mb"] or 0 for one in evaluations), default=0),
        ]
        share = max(value or 0 for value in taken) / found["capacity_mb"]
        line, reduced = found["roofline"], training and training["collectives"].get("all-reduce", {"megabytes": 0})
        seconds = sum(one["compile_s"] for one in [training, *evaluations] if one)
        cells = [
            f"{found['batch_size'] / found['chips']:g}",
            ", ".join(f"{value:,.0f}" if value else "-" for value in taken),
            f"{share:.0%}" + ("" if found["fits"] else ", too much"),
            f"{training['gflop'] / 1e3:.3g}" if training else "-",
            f"{reduced['megabytes']:,.1f}, {found['all_reduced_of_parameters']:.2f}" if training else "-",
            f"{1e3 * line['step_s']:.2f} ({line['bound']})" if line else "-",
            f"{line['images_per_second']:,.0f}" if line else "-",
            f"{line['efficiency']:.1%}, {line['efficiency_at_best']:.1%}" if line else "-",
            f"{seconds:.0f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="a file with rows of JSON, new or to be continued")
    parser.add_argument("--debug", action="store_true", help="run the debug variants of all configs, for v5e:2x2")
    parser.add_argument("--table", action="store_true", help="print the rows of the file and run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {(row["config"], row["topology"]) for row in read_rows(arguments.output) if "error" not in row}
        for case in list_cases(arguments.debug):
            if (case["config"], case["topology"]) in done:
                continue
            print(f"{case['config']} {case['topology']} ...", flush=True)
            row = run_case(case)
            with open(arguments.output, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(
                row.get("error") or f"{'fits' if row['code'] == 0 else 'does not fit'}, {row['seconds']} s", flush=True
            )
    rows = read_rows(arguments.output)
    print("\n".join(tabulate(rows)))
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
