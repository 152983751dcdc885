"""Faults of a run, drawn from a generator. Each starts the run at least once and checks its messages.

After a fault the same command must continue to the same end. A fault returns a few words about what it did.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from tests.chaos_starts import UNFINISHED, Scenario, Start

MEETING = 25  # seconds until several processes have connected, on a busy machine
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REFUSED = ("a[b]", "back\\slash", "new\nline", "star*", "really?", "\x1b[31mred", "n" * 300)
ODD = ("plain", "sp ace", "ünï-ビ", "quote'\"", "-dash", "a=1,b=2", "per%20cent", "x" * 150, "{a,b}", "#hash;&|")


class Round:
    """A run under faults."""

    def __init__(self, scenario: Scenario, folder: pathlib.Path, data_dir: pathlib.Path, rng: random.Random):
        self.scenario, self.folder, self.rng = scenario, folder, rng
        self.workdir, self.data_dir, self.shared_data = folder / rng.choice(ODD), data_dir, data_dir
        self.run = scenario.runs(self.workdir)[-1]  # faults damage its files
        self.starts = self.kills = 0

    def start(self, *flags: str, **how) -> Start:
        self.starts += 1
        return Start(self.scenario, self.workdir, self.data_dir, flags, **how)

    def refuse(self, *words: str, flags: tuple[str, ...] = ()) -> None:
        """Start the run, which must fail in one line with these words."""
        code, said = self.start(*flags).finish()
        assert code == 1 and all(word in said for word in words), (code, said)

    def refuse_with(self, path: pathlib.Path, content: bytes | None, *words: str) -> None:
        """Start the run with a file replaced, or missing for None, which must fail. Then restore the file."""
        before = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        self.refuse(*words)
        path.write_bytes(before)

    def rows(self) -> int:
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def is_saving(self) -> bool:
        """Return whether a checkpoint is being written, and has a temporary folder."""
        return any((self.run / "checkpoints").glob("*/*tmp*"))

    def checkpoints(self) -> list[pathlib.Path]:
        """Return the folders of the last checkpoints, the newest first."""
        folder = self.run / "checkpoints" / "last"
        found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
        return sorted(found, key=lambda path: -int(path.name))

    def advance(self) -> bool:
        """Train until there is a checkpoint, kill the run, and return whether there is one."""
        if not self.checkpoints():
            running = self.start()
            running.wait_for(lambda: bool(self.checkpoints()) and not self.is_saving())
            self.kill(running)
        return bool(self.checkpoints())

    def draw_ranks(self, running: Start) -> list[int]:
        """Draw a process, or all of them before they have connected, as the others would wait five minutes for it."""
        ranks = range(len(running.processes))
        return list(ranks) if time.monotonic() < running.began + MEETING else [self.rng.choice(ranks)]

    def kill(self, running: Start, *ranks: int) -> None:
        """Send SIGKILL to these processes of a start, or to all. The start may have finished, but not failed."""
        self.kills += 1
        for rank in ranks or range(len(running.processes)):
            running.send(signal.SIGKILL, rank)
        code, said = running.finish()
        assert code != 1, said


def draw_moment(run: Round) -> tuple[str, Callable[[], bool]]:
    """Draw a moment of a start, such as its imports, its compilation, a step, a save or an evaluation."""
    seconds, rows = run.rng.uniform(0, 15), run.rows() + run.rng.randint(1, 6)
    end = time.monotonic() + seconds
    moments = {
        f"after {seconds:.1f} s": lambda: time.monotonic() > end,
        f"at row {rows}": lambda: run.rows() >= rows,
        "in a save": run.is_saving,
    }
    name = run.rng.choice(list(moments))
    return name, moments[name]


def kill(run: Round) -> str:
    """Send SIGKILL at any moment."""
    name, moment = draw_moment(run)
    running = run.start()
    running.wait_for(moment)
    run.kill(running, *run.draw_ranks(running))
    return f"SIGKILL {name}"


def stop(run: Round) -> str:
    """Stop the run at any moment, which saves and exits with the code of an unfinished run."""
    number = run.rng.choice(STOPS)
    name, moment = draw_moment(run)
    running = run.start()
    running.wait_for(moment)
    for rank in run.draw_ranks(running):
        running.send(number, rank)
    code, said = running.finish()
    assert code in (0, UNFINISHED, -number), (code, said)
    return f"{signal.Signals(number).name} {name}"


def interrupt_twice(run: Round) -> str:
    """Press Ctrl-C twice, which does not wait for the save.

    With several processes, stop instead, as the others could crash in their collectives.
    """
    if run.scenario.processes > 1:
        return stop(run)
    name, moment = draw_moment(run)
    running = run.start()
    running.wait_for(moment)
    running.send(signal.SIGINT)
    time.sleep(run.rng.uniform(0, 1))
    running.send(signal.SIGINT)
    code, said = running.finish()
    assert code in (0, UNFINISHED, -signal.SIGINT), (code, said)
    return f"Ctrl-C twice {name}"


def pause(run: Round) -> str:
    """Suspend the processes for some seconds, as a suspended machine does, and kill them later."""
    name, moment = draw_moment(run)
    running = run.start()
    running.wait_for(moment)
    for process in running.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
    time.sleep(run.rng.uniform(0.5, 3))
    for process in running.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
    more = run.rows() + 2
    running.wait_for(lambda: run.rows() >= more)
    run.kill(running)
    return f"SIGSTOP {name}, SIGCONT, SIGKILL"


def fill_disk(run: Round) -> str:
    """Limit the size of files, as a full disk does, for one start."""
    size = int(10 ** run.rng.uniform(2, 5.5))
    code, said = run.start(largest_file=size).finish()
    assert code in (0, 1), (code, said)
    return f"files of {size} bytes at most: {'an error' if code else 'enough'}"


def damage(path: pathlib.Path, rng: random.Random) -> str:
    """Flip a bit of a file, or cut, empty or delete it, and return which."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flipped", "cut", "emptied", "deleted"])
    if kind == "flipped" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "cut" and content:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"")
    return kind


def damage_checkpoint(run: Round) -> str:
    """Damage a file of a checkpoint, so that the run uses the previous one, or fails if there is none."""
    if not run.advance():
        return "no checkpoint to damage"
    newest, *older = run.checkpoints()
    if older and run.rng.random() < 0.2:  # then the run uses the newest one
        newest, older = older[0], [newest]
    kept = run.folder / "kept"
    shutil.copytree(newest, kept)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    notes = [path for path in files if path.parent.name == "notes" and path.name == "metadata"]
    place = run.rng.choice(run.rng.choice([files, notes or files]))
    kind = damage(place, run.rng)
    if not older:
        code, said = run.start().finish()  # a start that stops at once might not read the checkpoint
        if code == 1:
            assert "none of the checkpoints" in said, said
            shutil.rmtree(newest, ignore_errors=True)
            kept.rename(newest)
            return f"{place.relative_to(newest)} {kind}: refused, and put back"
    shutil.rmtree(kept, ignore_errors=True)
    return f"{place.relative_to(newest)} {kind}"


def damage_rows(run: Round) -> str:
    """Damage rows that a checkpoint covers, which is an error until they are restored, or add garbage after them."""
    if not run.advance():
        return "no row to damage"
    path = run.run / "metrics.jsonl"
    lines, covered = path.read_bytes().splitlines(keepends=True), int(run.checkpoints()[0].name)
    kind = run.rng.choice(["garbage after", "torn line after", "lost", "cut", "flipped"])
    if "after" in kind:
        after = b"\xff{[\x00\n" if kind[0] == "g" else b'{"step": 99, "train/l'
        path.write_bytes(b"".join([*lines, after]))
        return f"rows: {kind}"
    if kind == "cut":
        lines = lines[: run.rng.randrange(covered)]
    elif kind == "flipped":
        lines = [bytearray(line) for line in lines]
        line = lines[run.rng.randrange(covered)]
        line[run.rng.randrange(len(line) - 1)] ^= 1 << run.rng.randrange(3)
    run.refuse_with(path, None if kind == "lost" else b"".join(lines), "metrics.jsonl", "--accept_lost_rows")
    return f"rows: {kind}, refused, and put back"


def damage_config(run: Round) -> str:
    """Damage config.json, which is an error until it is restored."""
    if not run.advance():
        return "no config to damage"
    path = run.run / "config.json"
    before = path.read_bytes()
    damaged = {
        "a value": before.replace(b'"clip": 0.0', b'"clip": 0.5'),
        "a list": b"[1]",
        "cut": before[: len(before) // 2],
        "binary": b"\x7fELF\x00\xff",
        "deep": b"[" * 5000,
    }
    kind = run.rng.choice(list(damaged))
    run.refuse_with(path, damaged[kind], str(run.run))
    return f"config.json: {kind}, refused, and put back"


def damage_evidence(run: Round) -> str:
    """Damage evidence.json, an error until it is moved away, and wandb_id, which is restored with a warning."""
    if not run.advance():
        return "no evidence to damage"
    identity = (run.run / "wandb_id").read_bytes()
    (run.run / "wandb_id").write_bytes(b"another\n")
    path = run.run / "evidence.json"
    path.write_bytes(path.read_bytes()[:-30])
    run.refuse("evidence.json")
    path.unlink()
    assert (run.run / "wandb_id").read_bytes() in (identity, b"another\n")
    return "evidence.json cut, refused, and moved away; wandb_id changed"


def damage_data(run: Round) -> str:
    """Damage a file of the prepared data, an error that names the folder until it is moved away."""
    own = run.folder / "data"
    if not own.exists():
        shutil.copytree(run.shared_data, own)
    run.data_dir = own
    folder = next((path.parent for path in own.rglob("dataset_info.json")), None)
    if folder is None:
        return "no data to damage"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    place = run.rng.choice(files)
    kind = damage(place, run.rng)
    code, said = run.start().finish()
    if code == 1:
        assert str(folder) in said or str(folder.parent) in said, said
        folder.rename(run.folder / f"damaged-data-{run.starts}")
        return f"{place.name} {kind}: refused, and moved away"
    return f"{place.name} {kind}: no harm"


def start_twice(run: Round) -> str:
    """Start a second time while the run trains, which is refused, and the first start continues."""
    running = run.start()
    more = run.rows() + 1
    running.wait_for(lambda: run.rows() >= more)
    if running.is_running():
        code, said = run.start().finish()
        # The first one may have ended in the meantime.
        assert code in (0, 1) and (code == 0 or "another process is training in" in said), (code, said)
    code, said = running.finish()
    assert code == 0, (code, said)
    return "started twice"


def go_elsewhere(run: Round) -> str:
    """Start with an invalid workdir, which is refused at once, and nothing is created there."""
    name = run.rng.choice(REFUSED)
    place = run.folder / name / "run"
    code, said = Start(run.scenario, place, run.data_dir).finish()
    run.starts += 1
    assert code == 1 and "--workdir" in said, (code, said)
    assert not os.path.lexists(run.folder / name[:200])
    nowhere, _ = Start(run.scenario, "/proc/chaos/run", run.data_dir).finish()
    assert nowhere == 1
    return f"a workdir {name[:10]!r}, and one in /proc: refused"


def forbid_writing(run: Round) -> str:
    """Make the run directory read-only, which is an error until it is writable."""
    if not run.advance():
        return "no directory to protect"
    # Root ignores the mode of a folder, but not a flag of the file system.
    protect, release = (
        (["chattr", "+i"], ["chattr", "-i"]) if os.geteuid() == 0 else (["chmod", "555"], ["chmod", "755"])
    )
    if subprocess.run([*protect, run.run], capture_output=True).returncode:
        return "this file system cannot protect a directory"
    try:
        run.refuse("cannot be")
    finally:
        subprocess.run([*release, run.run], check=True)
    return "read-only: refused, and released"


def plan_shorter(run: Round) -> str:
    """Finish the run with fewer steps first, to continue it later."""
    if run.rows() >= 8:
        return "too late to plan fewer steps"
    code, said = run.start("--config.train.steps=8").finish()
    assert code == 0, (code, said)
    return "planned for 8 steps at first"


FAULTS: dict[Callable[[Round], str], float] = {  # weights of the draw
    kill: 4,
    stop: 3,
    interrupt_twice: 1,
    pause: 1,
    fill_disk: 3,
    damage_checkpoint: 3,
    damage_rows: 2,
    damage_config: 1,
    damage_evidence: 1,
    damage_data: 2,
    start_twice: 1,
    go_elsewhere: 1,
    forbid_writing: 1,
    plan_shorter: 1,
}
