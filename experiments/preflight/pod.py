"""The mode `--mode=preflight --topology=pod`, which checks the hosts of a job in less than a minute before it begins.

Every host runs it. Each problem is reported for the host that causes it.
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
from experiments.tasks.dense import Detection
from experiments.tasks.registry import make_task
from files import read_json

SECONDS = 55.0  # for all checks
ANSWER = 20.0  # seconds for the quick checks
REDUCTION = 15.0  # seconds for an all-reduce
ELEMENTS = 2**20  # reduced elements per device
LOADING = 4.0  # seconds for which the loader is timed
SAMPLE = 500  # examples that a host checks
SLOW = 0.5  # of the others' loading rate: a slower host slows all of them
ENOUGH_INPUT = 0.9  # of the images that a measured step needs

Finding = dict[str, Any]  # of one host, fit for JSON; `wrong` lists its problems


def check_pod(command: Command) -> int:
    """Check all hosts and print one line for each, in process 0. Return 1 if a host has a problem, else 0."""
    config, workdir = command.run_config(), command.directory()
    board = Board(time.monotonic() + SECONDS)
    lines = check(board, config, workdir, command.data_dir)
    wrong = [line for line in lines if line[1]]
    print("\n".join(f"host {number} {_format_host(*line)}" for number, line in enumerate(lines)))
    print(f"{len(wrong)} of {board.count} hosts are wrong" if wrong else f"{board.count} hosts are ready", flush=True)
    board.post("end", "")
    board.read_all("end", 5.0)  # process 0 holds the board
    return int(bool(wrong))


def _format_host(facts: list[str], wrong: list[str]) -> str:
    return (
        ", ".join(facts[:1]) + ": " + ("WRONG: " + "; ".join(wrong) if wrong else "ready") + "; " + ", ".join(facts[1:])
    )


def check(
    board: Board, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None
) -> list[tuple[list[str], list[str]]]:
    """Return the facts and the problems of each host. Every process calls it, and all return the same."""
    facts: list[list[str]] = [[] for _ in range(board.count)]
    wrong: list[list[str]] = [[] for _ in range(board.count)]

    def exchange(topic: str, look: Callable[[], Finding], seconds: float) -> list[Finding | None]:
        """Return the findings of all hosts. An error or a missing answer is a problem of its host."""
        try:
            own = look()
        except Exception as error:  # any error: the others must receive it
            said = str(error) if isinstance(error, UserError) else repr(error)
            own = {"wrong": [" ".join(said.split())[:500]]}
        board.post(topic, json.dumps(own))
        found = [None if text is None else json.loads(text) for text in board.read_all(topic, seconds)]
        # One process may read in time what another one misses, so process 0 decides.
        if board.number == 0:
            board.post(f"{topic}/heard", json.dumps([one is not None for one in found]))
        heard = json.loads(board.read(f"{topic}/heard", seconds + 5, 0) or "[]") or [one is not None for one in found]
        differences = compare([one if there else None for one, there in zip(found, heard, strict=True)])
        for number, one in enumerate(found):
            wrong[number] += differences[number]
            if not heard[number] or one is None:
                found[number] = None
                wrong[number].append(f"no answer about {topic} in {seconds:.0f} s")
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
    for number, slow in enumerate(find_slow([None if one is None else one.get("rate") for one in rates])):
        wrong[number] += slow
    return list(zip(facts, wrong, strict=True))


def identify(config: ConfigDict, workdir: pathlib.Path) -> Finding:
    """Return the values that must be equal on all hosts, under `same`, and the facts about this host."""
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
    """Return for each host how it differs from most of the others, or from the first of two."""
    held = [{} if one is None else one.get("same", {}) for one in found]
    wrong: list[list[str]] = [[] for _ in held]
    for name in dict.fromkeys(name for one in held for name in one):
        values = [json.dumps(one[name]) for one in held if name in one]
        usual = collections.Counter(values).most_common(1)[0][0]  # the first of equally common ones
        for number, one in enumerate(held):
            if name in one and json.dumps(one[name]) != usual:
                wrong[number].append(f"{name} is {one[name]} here and {json.loads(usual)} elsewhere")
    return wrong


class Folder:
    """The check that process 0 can write the run directory and all processes can read it."""

    def __init__(self, board: Board, workdir: pathlib.Path, config: ConfigDict):
        self._board, self._workdir, self._config = board, workdir, config
        self._probe = workdir / ".preflight"
        self._made = False

    def check(self) -> Finding:
        """Write a file in process 0, and read it in all processes."""
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
            return {}  # a problem of process 0
        end = time.monotonic() + 5  # a network file system may show it late
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
                        f"cannot see what process 0 writes into {self._workdir}; choose a --workdir on a file system that all "
                        "hosts share"
                    ]
                }
            time.sleep(0.2)

    def clear(self) -> None:
        """Delete, in process 0, what it has written."""
        if self._board.number == 0:
            with contextlib.suppress(OSError):  # nothing was written, or the folder has other files
                self._probe.unlink()
                if self._made:
                    self._workdir.rmdir()


def reduce(board: Board, seconds: float) -> Finding:
    """Add up an array over all devices twice, and time the second sum. If a host is missing, the others do not start."""
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
        return {"wrong": [f"an all-reduce gave {total} instead of {jax.device_count()}"]}
    return {"facts": [f"all-reduce of {4 * ELEMENTS / 1e6:.0f} MB in {1e3 * taken:.1f} ms"]}


def _reduce() -> tuple[float, float]:
    """Return the sum of ones, one from each device, and the seconds of the second sum."""
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
    if isinstance(task, Detection):
        sample: Any = Sample(inputs.source, jax.process_index(), jax.process_count())
        report = check_objects(config, task, sample)
        share = report["matchable"]
        low = "" if share is None or share >= ENOUGH else f" (few: {report['advice']})"
        facts.append("no objects" if share is None else f"{share:.0%} of {report['objects']} objects matchable{low}")
    rate = measure_rate(inputs, config)
    needed, measured = find_need(workdir)
    facts.append(f"loads {rate:,.1f} images/s")
    if needed is not None:
        needed /= jax.process_count()
        words = "its step needs" if measured else "a step needs at most"
        facts.append(f"{words} {needed:,.1f}")
        if measured and rate < ENOUGH_INPUT * needed:
            wrong.append(
                f"loads {rate:,.1f} images/s, but the step of this run needs {needed:,.1f}; increase data.num_threads"
            )
    return {
        "facts": facts,
        "wrong": wrong,
        "rate": rate,
        "same": {f"data of {name}": one for name, one in inputs.fingerprints.items()},
    }


class Sample:
    """The examples of a source that one host checks, spread evenly."""

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
    """Return the images per second of this host's loader, measured after its prefetched batches are used up."""
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
    """Return the images per second that the steps of all hosts need together, and whether that was measured.

    A resumed run has measured its speed, which counts here without the time spent waiting for input. A new run has the
    estimate of a preflight of its slice, if one was made with this --workdir. Return None if neither exists.
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
    """Return for each host a problem if it loads much more slowly than the others, which all wait for it."""
    known = [rate for rate in rates if rate is not None]
    usual = statistics.median_high(known) if known else 0.0
    return [
        [f"loads {rate:,.1f} images/s, but the others {usual:,.1f}"] if rate is not None and rate < SLOW * usual else []
        for rate in rates
    ]
