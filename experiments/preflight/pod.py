"""`--mode=preflight --topology=pod`: whether the hosts of a job can do it together, in less than a minute, before it begins.

Every host runs it. What is wrong is said of the host whose fault it is.
"""

import collections
import concurrent.futures
import contextlib
import json
import pathlib
import secrets
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from errors import UserError
from experiments.command_line import Command
from experiments.object_counts import ENOUGH, check_objects
from experiments.preflight.board import Board
from experiments.run.config_file import FREE, check_same, flatten
from experiments.run.evidence import environment
from experiments.run.inputs import Inputs
from experiments.run.sessions import read_sessions
from experiments.tasks.registry import make_task
from files import read_json

SECONDS = 55.0  # of all checks
ANSWER = 20.0  # for what each host finds quickly
REDUCTION = 15.0  # for an all-reduce
ELEMENTS = 2**20  # of each device, that are reduced
LOADING = 4.0  # of the loader's batches, timed
SAMPLE = 500  # examples that a host checks
SLOW = 0.5  # of what the others load: a slower host slows them all
ENOUGH_INPUT = 0.9  # of what a measured step takes

Finding = dict[str, Any]  # of one host, as JSON can say it; `wrong` lists what is


def check_pod(command: Command) -> int:
    """Check all hosts and print one line for each, in process 0. Return 1 if a host has a problem, else 0."""
    config, workdir = command.run_config(), command.directory()
    board = Board(time.monotonic() + SECONDS)
    lines = check(board, config, workdir, command.data_dir)
    wrong = [line for line in lines if line[1]]
    print("\n".join(f"host {number} {_say(*line)}" for number, line in enumerate(lines)))
    print(f"{len(wrong)} of {board.count} hosts are wrong" if wrong else f"{board.count} hosts are ready", flush=True)
    board.post("end", "")
    board.read_all("end", 5.0)  # process 0 holds the board
    return int(bool(wrong))


def _say(facts: list[str], wrong: list[str]) -> str:
    return (
        ", ".join(facts[:1]) + ": " + ("WRONG: " + "; ".join(wrong) if wrong else "ready") + "; " + ", ".join(facts[1:])
    )


def check(
    board: Board, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None
) -> list[tuple[list[str], list[str]]]:
    """Return, of each host, facts and what is wrong. Every process comes here, and all return the same."""
    facts: list[list[str]] = [[] for _ in range(board.count)]
    wrong: list[list[str]] = [[] for _ in range(board.count)]

    def exchange(topic: str, look: Callable[[], Finding], seconds: float) -> list[Finding | None]:
        """What every host finds. What it fails with is its own fault, and so is silence."""
        try:
            own = look()
        except Exception as error:  # whatever it is, the others are to hear of it
            said = str(error) if isinstance(error, UserError) else repr(error)
            own = {"wrong": [" ".join(said.split())[:500]]}
        board.post(topic, json.dumps(own))
        found = [None if text is None else json.loads(text) for text in board.read_all(topic, seconds)]
        # What one process has read in time, another may have missed: process 0's word counts.
        if board.number == 0:
            board.post(f"{topic}/heard", json.dumps([one is not None for one in found]))
        heard = json.loads(board.read(f"{topic}/heard", seconds + 5, 0) or "[]") or [one is not None for one in found]
        differences = compare([one if there else None for one, there in zip(found, heard, strict=True)])
        for number, one in enumerate(found):
            wrong[number] += differences[number]
            if not heard[number] or one is None:
                found[number] = None
                wrong[number].append(f"no word about {topic} in {seconds:.0f} s")
            else:
                wrong[number] += one.get("wrong", [])
                facts[number] += one.get("facts", [])
        return found

    exchange("versions", lambda: identify(config, workdir), ANSWER)
    folder = Folder(board, workdir, config)
    exchange("run directory", folder.check, ANSWER)
    folder.clear()
    exchange("all-reduce", lambda: reduce(board, REDUCTION), REDUCTION + 5)
    rates = exchange("input", lambda: load(config, data_dir, workdir), board.left)
    for number, slow in enumerate(find_slow([one and one.get("rate") for one in rates])):
        wrong[number] += slow
    return list(zip(facts, wrong, strict=True))


def identify(config: ConfigDict, workdir: pathlib.Path) -> Finding:
    """Return what must be equal on all hosts, under `same`, and who this one is."""
    found = environment()
    git, packages = found["git"] or {}, found["packages"]
    same = {"python": found["python"], **packages}
    same |= {"commit": git.get("commit"), "uncommitted changes": git.get("dirty")}
    same |= {f"config.{name}": value for name, value in flatten(config).items() if name not in FREE}
    same |= {"processes": found["devices"]["processes"], "kind of device": found["devices"]["kind"]}
    same |= {"devices": jax.local_device_count(), "workdir": str(workdir)}
    facts = [
        f"({socket.gethostname()})",
        f"{jax.local_device_count()} x {found['devices']['kind']}",
        f"jax {packages['jax']}",
    ]
    return {"same": same, "facts": facts}


def compare(found: Sequence[Finding | None]) -> list[list[str]]:
    """Return, of each host, in what it differs from most of the others; of two, from the first."""
    held = [{} if one is None else one.get("same", {}) for one in found]
    wrong: list[list[str]] = [[] for _ in held]
    for name in dict.fromkeys(name for one in held for name in one):
        values = [json.dumps(one[name]) for one in held if name in one]
        usual = collections.Counter(values).most_common(1)[0][0]  # of equally many, the first one
        for number, one in enumerate(held):
            if name in one and json.dumps(one[name]) != usual:
                wrong[number].append(f"{name} is {one[name]} here and {json.loads(usual)} elsewhere")
    return wrong


class Folder:
    """The check that the run directory is one that process 0 can write and all can read."""

    def __init__(self, board: Board, workdir: pathlib.Path, config: ConfigDict):
        self._board, self._workdir, self._config = board, workdir, config
        self._probe = workdir / ".preflight"
        self._made = False

    def check(self) -> Finding:
        """Write, in process 0, and read what process 0 has written."""
        token = ""
        if self._board.number == 0:
            try:
                self._made = not self._workdir.exists()
                self._workdir.mkdir(parents=True, exist_ok=True)
                token = secrets.token_hex(8)
                self._probe.write_text(token, "utf-8")
            except OSError as error:
                self._board.post("probe", "")
                return {"wrong": [f"{self._workdir} cannot be written ({error.strerror})"]}
            self._board.post("probe", token)
            if (self._workdir / "config.json").exists():
                check_same(self._workdir, self._config)
        token = token or self._board.read("probe", ANSWER, 0)
        if not token:
            return {}  # process 0's fault
        end = time.monotonic() + 5  # a network's file system may show it late
        while True:
            try:
                seen = self._probe.read_text("utf-8")
            except OSError:
                seen = ""
            if seen == token:
                return {}
            if time.monotonic() > end:
                return {
                    "wrong": [
                        f"does not see what process 0 writes into {self._workdir}: --workdir must be on a file system that all "
                        "hosts share"
                    ]
                }
            time.sleep(0.2)

    def clear(self) -> None:
        """Take away, in process 0, what it has written."""
        if self._board.number == 0:
            with contextlib.suppress(OSError):  # nothing was written, or there is more by now
                self._probe.unlink()
                if self._made:
                    self._workdir.rmdir()


def reduce(board: Board, seconds: float) -> Finding:
    """Add up an array over all devices, twice, and time the second. Where a host does not come, the others do not begin."""
    board.post("reduction", "")
    absent = [number for number, text in enumerate(board.read_all("reduction", 10.0)) if text is None]
    if absent:
        return {"facts": [f"no all-reduce without host {', '.join(map(str, absent))}"]}
    done: concurrent.futures.Future = concurrent.futures.Future()

    def work() -> None:
        try:
            done.set_result(_reduce())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        total, taken = done.result(seconds)
    except concurrent.futures.TimeoutError:
        return {"wrong": [f"an all-reduce over all devices has not finished in {seconds:.0f} s"]}
    if total != jax.device_count():
        return {"wrong": [f"an all-reduce gave {total} where {jax.device_count()} is right"]}
    return {"facts": [f"all-reduce of {4 * ELEMENTS / 1e6:.0f} MB in {1e3 * taken:.1f} ms"]}


def _reduce() -> tuple[float, float]:
    """Return the sum of a one from each device, and the seconds it takes."""
    mesh = Mesh(np.array(jax.devices()), "device")
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["device"], []))
    ones = np.ones((jax.local_device_count(), ELEMENTS), np.float32)
    array = jax.make_array_from_process_local_data(rows, ones)
    add = jax.jit(lambda values: values.sum(0), out_shardings=whole)
    add(array).block_until_ready()
    began = time.perf_counter()
    total = add(array)
    total.block_until_ready()
    return float(total.addressable_shards[0].data[-1]), time.perf_counter() - began


def load(config: ConfigDict, data_dir: str | None, workdir: pathlib.Path) -> Finding:
    """Check a sample of this host's data, and time its loader."""
    inputs = Inputs(config, data_dir)
    task = make_task(config, inputs.source.class_names)
    facts, wrong = [f"data {inputs.source.fingerprint[:8]}"], []
    if "boxes" in task.needs:
        report = check_objects(config, task, Sample(inputs.source, jax.process_index(), jax.process_count()))
        share = report["matchable"]
        low = "" if share is None or share >= ENOUGH else f" (few: {report['advice']})"
        facts.append("no objects" if share is None else f"{share:.0%} of {report['objects']} objects matchable{low}")
    rate = measure_rate(inputs, config)
    needed, measured = find_need(workdir)
    facts.append(f"loads {rate:,.1f} images/s")
    if needed is not None:
        needed /= jax.process_count()
        words = "its step takes" if measured else "a step takes at most"
        facts.append(f"{words} {needed:,.1f}")
        if measured and rate < ENOUGH_INPUT * needed:
            wrong.append(
                f"loads {rate:,.1f} images/s, and the step of this run takes {needed:,.1f}: more data.num_threads"
            )
    return {
        "facts": facts,
        "wrong": wrong,
        "rate": rate,
        "same": {f"data of {name}": one for name, one in inputs.fingerprints.items()},
    }


class Sample:
    """Some examples of a source, spread evenly: those that one host of several checks."""

    def __init__(self, source: Any, number: int, count: int):
        self._source = source
        self._indices = range(number, len(source), count)[:: max(1, len(source) // (count * SAMPLE))]

    def __len__(self) -> int:
        return len(self._indices)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def objects(self, index: int) -> tuple:
        return self._source.objects(self._indices[index])

    def proposals(self, index: int) -> np.ndarray:
        return self._source.proposals(self._indices[index])

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        return self._source.find_bad_boxes(self._indices[index])


def measure_rate(inputs: Inputs, config: ConfigDict) -> float:
    """Return the images a second that the loader makes here, once what it makes ahead is used up."""
    loader = inputs.load(config)
    try:
        began, ready = time.perf_counter(), config.data.prefetch
        for _ in range(ready + 1):
            next(loader)
            if time.perf_counter() - began > LOADING:
                break
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < LOADING:
            images += len(next(loader)["image"])
        return images / (time.perf_counter() - start)
    finally:
        loader.close()


def find_need(workdir: pathlib.Path) -> tuple[float | None, bool]:
    """Return the images a second that the steps of all hosts take together, and whether that was measured.

    A run that goes on has measured it: what it did, without the time that it waited for input. A new one has the estimate
    of a preflight of its slice, if that was given the --workdir.
    """
    for session in reversed(read_sessions(workdir / "evidence.json")):
        try:
            devices, rate, wait = (session[name] for name in ("devices", "images_per_second", "train/input_wait"))
            if rate > 0 and wait < 1 and devices["kind"] == jax.devices()[0].device_kind:
                return rate / (1 - wait) * jax.device_count() / devices["count"], True
        except (TypeError, KeyError, ZeroDivisionError):
            continue  # a session that was killed before it measured
    try:
        estimate = read_json(workdir / "preflight.json")
        chip = estimate["roofline"]["images_per_second"] / estimate["chips"]
        return chip * jax.device_count(), False
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None, False


def find_slow(rates: Sequence[float | None]) -> list[list[str]]:
    """Return, of each host, that it loads much less than the others, who all wait for it."""
    known = [rate for rate in rates if rate is not None]
    usual = statistics.median_high(known) if known else 0.0
    return [
        [f"loads {rate:,.1f} images/s, and the others {usual:,.1f}"] if rate is not None and rate < SLOW * usual else []
        for rate in rates
    ]
