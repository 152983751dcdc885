"""Runs under faults, each compared with an undisturbed run.

    .venv/bin/python -m tests.chaos --rounds=40 --seed=0

A round draws a scenario and faults from its seed and number, and starts the same command until the run has finished. Its
checkpoints, rows and records must then equal those of the undisturbed run bit for bit. No start may print a traceback, and a
failed start must print one line with the cause. The program prints one JSON line per round and a summary. The exit code is the
number of failed rounds. `--first=17 --rounds=1` repeats only round 17.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback

from experiments.run.checkpoints import Checkpoints
from experiments.run.checksums import digest
from tests.chaos_faults import FAULTS, Round
from tests.chaos_starts import SCENARIOS, STEPS, Scenario, Start
from tests.chaos_wandb import lose_wandb
from tests.conftest import ROOT

SHARES = FAULTS | {lose_wandb: 2}


def describe(run: pathlib.Path) -> dict:
    """Return the result of a run, which is its checkpoints, rows without times, and records."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    rows = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
    found = {kind: Checkpoints(run, read_only=True).read(kind) for kind in ("last", "best")}
    digests = {kind: (notes["step"], digest(arrays)) for kind, (arrays, notes) in found.items()}
    return {"rows": rows, "digests": digests, "records": (run / "records" / "val.jsonl").read_bytes()}


class Chaos:
    """The rounds of one seed, in their own folder."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.seed = folder, seed
        self._undisturbed: dict[Scenario, list[dict]] = {}

    def undisturbed(self, scenario: Scenario) -> list[dict]:
        """Train a scenario without faults, once, and return the result of each run."""
        if scenario not in self._undisturbed:
            workdir = self.folder / "undisturbed" / str(len(self._undisturbed))
            code, said = Start(scenario, workdir, self.folder / "data").finish()
            assert code == 0, said
            self._undisturbed[scenario] = [describe(run) for run in scenario.runs(workdir)]
            assert all(len(run["rows"]) == STEPS for run in self._undisturbed[scenario])
        return self._undisturbed[scenario]

    def play(self, number: int) -> dict:
        """Play a round and return its line of the report."""
        rng = random.Random(f"{self.seed} {number}")
        name = rng.choice(list(SCENARIOS))
        scenario, began = SCENARIOS[name], time.monotonic()
        expected = self.undisturbed(scenario)
        folder = self.folder / f"round-{number}"
        folder.mkdir()
        run = Round(scenario, folder, self.folder / "data", rng)
        report = {"round": number, "scenario": name, "workdir": run.workdir.name, "faults": []}
        try:
            for _ in range(rng.randint(2, 4)):
                (fault,) = rng.choices(list(SHARES), list(SHARES.values()))
                report["now"] = fault.__name__
                report["faults"].append(fault(run))
            report["now"] = "finish"
            code, said = run.start().finish()
            assert code == 0, (code, said)
            found = [describe(own) for own in scenario.runs(run.workdir)]
            for own, wanted in zip(found, expected, strict=True):
                for part in wanted:
                    assert own[part] == wanted[part], f"{part} differ"
            report["outcome"] = "identical"
            del report["now"]
            shutil.rmtree(folder)
        except Exception as error:
            report["outcome"] = f"{type(error).__name__}: {error}"[-1500:]
            traceback.print_exc()
        return report | {"starts": run.starts, "kills": run.kills, "seconds": round(time.monotonic() - began)}


def summarise(reports: list[dict], seconds: float) -> str:
    """Return the summary, with the number of rounds per scenario that ended like the undisturbed run."""
    lines = []
    for name in SCENARIOS:
        own = [report for report in reports if report["scenario"] == name]
        same = sum(report["outcome"] == "identical" for report in own)
        if own:
            lines.append(
                f"{name:15} {same:3} of {len(own):3} rounds identical, {sum(o['starts'] for o in own):4} starts"
            )
    faults = collections.Counter(fault.split(":")[0].split(" after")[0] for own in reports for fault in own["faults"])
    total = sum(report["outcome"] == "identical" for report in reports)
    starts, kills = (sum(report[name] for report in reports) for name in ("starts", "kills"))
    lines.append(
        f"{total} of {len(reports)} rounds identical: {sum(faults.values())} faults, {starts} starts, {kills} kills, "
        f"{seconds / 60:.0f} minutes"
    )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Trains runs under faults, and compares them with undisturbed ones.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument(
        "--folder", type=pathlib.Path, help="parent folder of the runs; the temporary folder of the system by default"
    )
    flags = parser.parse_args(argv)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    if flags.folder:
        flags.folder.mkdir(parents=True, exist_ok=True)
    began, reports = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        chaos = Chaos(pathlib.Path(folder), flags.seed)
        for number in range(flags.first, flags.first + flags.rounds):
            reports.append(chaos.play(number))
            print(json.dumps(reports[-1], ensure_ascii=False), flush=True)
            if reports[-1]["outcome"] != "identical":
                print(f"again: python -m tests.chaos --seed={flags.seed} --first={number} --rounds=1", flush=True)
    print(summarise(reports, time.monotonic() - began))
    return sum(report["outcome"] != "identical" for report in reports)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
