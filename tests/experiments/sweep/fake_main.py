"""A replacement of main.py whose steps only write rows, so that a launcher can be tested in seconds.

The state after a step is a hash of the state before it and of the run's fields, so a run that resumes from a wrong place ends
with another state. `behaviour.json` next to the run directories says what a run does, by seed: "fail" at a step, "quit" with a
code at a step, once or "always", "sleep" seconds per step. Its "optimum" has the optim.lr and optim.ema of the best score.
"""

import fcntl
import hashlib
import json
import math
import os
import pathlib
import signal
import sys
import time

EVERY = 4  # steps between two checkpoints and scores


def main() -> int:
    given = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    workdir, seed = pathlib.Path(given["workdir"]), given.get("config.seed.init", "0")
    behaviour = workdir.parent / "behaviour.json"
    told = json.loads(behaviour.read_text()) if behaviour.exists() else {}
    behaviour = told.get(seed, {})
    steps = int(given.get("config.train.steps", 12))
    workdir.mkdir(exist_ok=True)
    lock = open(workdir / ".lock", "a")  # noqa: SIM115 - held until the end
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop.append(number))
    print("pid", os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), flush=True)
    (workdir / "fields.json").write_text(json.dumps(given))
    last, metrics = workdir / "checkpoints" / "last", workdir / "metrics.jsonl"
    last.mkdir(parents=True, exist_ok=True)
    first = max((int(path.name) for path in last.iterdir() if path.name.isdigit()), default=0)
    state = (last / str(first) / "state").read_text() if first else begin(given)
    rows = metrics.read_text().splitlines() if metrics.exists() else []
    (workdir / "metrics.tmp").write_text("".join(f"{row}\n" for row in rows[:first]))
    os.replace(workdir / "metrics.tmp", metrics)
    for step in range(first + 1, steps + 1):
        if stop:
            if step > 1:
                save(last, step - 1, state)
            return 75
        if step == behaviour.get("fail"):
            print(f"error: the loss of step {step} is nan\nand a last word", file=sys.stderr)
            return 1
        if step == behaviour.get("step") and (behaviour.get("always") or first < step - 1):
            if behaviour.get("save"):
                save(last, step - 1, state)
            os.kill(os.getpid(), signal.SIGKILL) if behaviour["quit"] == "kill" else sys.exit(behaviour["quit"])
        time.sleep(behaviour.get("sleep", 0.01))
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        scores = {"val/mIoU": score(given, step, told.get("optimum"))} if step % EVERY == 0 else {}
        with open(metrics, "a") as file:
            file.write(json.dumps({"step": step, "train/loss": 1 / step} | scores) + "\n")
        if step % EVERY == 0:
            save(last, step, state)
    return 0


def score(given: dict[str, str], step: int, optimum: dict[str, float] | None) -> float:
    """Return the score of a step. With an optimum it is better the nearer the run's fields are, and rises with steps."""
    if optimum is None or "config.optim.lr" not in given:
        return (step * 7 % 12) / 12
    decades = math.log10(float(given["config.optim.lr"]) / optimum["lr"])
    return (1 - decades**2 / 4 - (float(given["config.optim.ema"]) - optimum["ema"]) ** 2) * step / 12


def begin(given: dict[str, str]) -> str:
    """Return the state before step 1, the run's fields and the last state of the run that it starts from."""
    start = given.get("config.init_from")
    fields = sorted(item for item in given.items() if item[0] not in ("workdir", "config", "config.init_from"))
    earlier = (pathlib.Path(start) / "checkpoints" / "last" / "12" / "state").read_text() if start else ""
    return json.dumps([fields, earlier])


def save(folder: pathlib.Path, step: int, state: str) -> None:
    place, part = folder / str(step), folder / f"{step}.tmp"
    if not place.exists():
        part.mkdir(exist_ok=True)
        (part / "state").write_text(state)
        part.rename(place)


if __name__ == "__main__":
    sys.exit(main())
