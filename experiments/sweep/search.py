"""The search `--search=optuna`, which draws the values of each run from the results of the earlier ones.

A trial is a run in its own directory, as in a sweep. The study stores the drawn values and the reported results; a directory
stores the progress of its run. A launcher stores nothing else, so any number of launchers can work on one search.
"""

import hashlib
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from configs.sweeps import Choice, Space
from errors import UserError
from experiments.run.metrics_file import plain
from experiments.sweep.commands import shorten
from experiments.sweep.definition import Run, load_space
from experiments.sweep.devices import make_slots
from experiments.sweep.launch import MAIN, Phase, Progress, Search
from experiments.sweep.local import Local, hold
from experiments.sweep.naming import label
from experiments.sweep.plan import Job, identify, make_jobs
from experiments.sweep.state import UNFINISHED
from experiments.sweep.study import Study, Trial, describe_kind
from experiments.sweep.summary import summarise, write_summary
from experiments.sweep.table import View, open_view

LOOK_SECONDS = 1.0  # between two checks of what other launchers have reported
DIGITS = 6  # of the hash in a study's name
TOLD = (Phase.DONE, Phase.PRUNED, Phase.FAILED)


def launch(search: Search) -> int:
    """Run a search until its trials are done, by this launcher or by others.

    Return 0 if all runs are done, 1 if a run failed, 75 if a signal stopped the search and the same command continues it. Raise
    UserError, before any run starts, if a config refuses a value of the space or a sweep works in the folder.
    """
    space = load_space(search.config, search.overrides)
    first = check_space(search, space)
    name, smaller = name_study(search, space, first), first.smaller_is_better
    with hold(search.workdir, shared=True), closing(Study(search.workdir, name, space, smaller, search.seed)) as study:
        study.retry()
        trials = Trials(search, study, first)
        print(f"study {name}: {len(trials.runs)} of {search.trials} trials have been drawn", flush=True)
        with open_view(trials.runs) as view:
            searcher = Searcher(search, trials, view)
            stopped = searcher.run()
        trials.look()
        with study.alone():
            write_summary(search.workdir, trials.runs)
    print(summarise(trials.runs), flush=True)
    if study.end:
        print(f"no more trials: {study.end}", flush=True)
    _print_best(search, trials)
    if stopped and trials.goes_on():
        print("stopped: start the same command again to go on", flush=True)
        return UNFINISHED
    return 1 if any(run.phase is Phase.FAILED for run in trials.runs) else 0


def check_space(search: Search, space: Space) -> Job:
    """Return a run of the space. Raise UserError, with the field's name, if the config refuses an end of its values."""
    values = {field: own.values if isinstance(own, Choice) else (own.low, own.high) for field, own in space.items()}
    first = {field: own[0] for field, own in values.items()}
    probes = [first] + [first | {field: value} for field, own in values.items() for value in own[1:] if value != own[0]]
    runs = [_make_run(search, probe) for probe in probes]
    return make_jobs(runs, search.overrides, search.workdir, search.data_dir, search.resolve, list(space))[0]


def name_study(search: Search, space: Space, first: Job) -> str:
    """Return the name of the study, a new one if fields, choices or values of the base config change.

    A span may change. The trials then stay, and new ones are drawn from the new span.
    """
    fixed = identify(first.config | dict.fromkeys(space, ""), search.workdir)
    kinds = {field: describe_kind(field, own) for field, own in space.items()}
    digits = hashlib.sha256(json.dumps([fixed, kinds], sort_keys=True).encode()).hexdigest()
    return f"{pathlib.Path(search.config.partition(':')[0]).stem}-{digits[:DIGITS]}"


class Tried(Progress):
    """The run of a trial."""

    def __init__(self, job: Job, trial: Trial, own: bool):
        """Read the state of the run. `own` says whether this launcher trains it."""
        super().__init__(job)
        self.trial, self.own, self.pruned, self.seen = trial, own, "", 0


class Trials:
    """The runs of a study in the order in which they were drawn, those of other launchers included."""

    def __init__(self, search: Search, study: Study, first: Job):
        self.search, self.study, self.first = search, study, first
        self.runs: list[Tried] = []
        self._places: dict[str, int] = {}  # in `runs`, by a trial's key
        self._drawn = 0
        self.look()

    def put(self, run: Tried) -> None:
        """Add a run, or replace an earlier one with the same values."""
        place = self._places.setdefault(run.trial.key, len(self.runs))
        self.runs[place : place + 1] = [run]

    def look(self) -> None:
        """Read the progress of the runs of other launchers."""
        trials = self.study.trials()
        self._drawn = len(trials)
        for trial in trials:
            place = self._places.get(trial.key)
            run = None if place is None else self.runs[place]
            if (run is not None and run.own) or not (trial.directory or trial.phase in TOLD):
                continue
            if run is None:
                run = Tried(self._make_job(trial), trial, own=False)
                self.put(run)
            run.trial = trial
            if run.phase is not trial.phase or trial.phase not in TOLD:
                run.phase, run.note = trial.phase, trial.note
                run.refresh()

    def goes_on(self) -> bool:
        """Return whether a trial is left to draw or to finish, according to the last `look`."""
        enough = self._drawn >= self.search.trials or self.study.end
        return not enough or len(self.runs) < self._drawn or any(run.phase not in TOLD for run in self.runs)

    def take(self, count: int) -> list[Tried]:
        """Return up to `count` runs for this launcher. A trial whose values the config refuses is stored as failed."""
        return self._plan(self.study.take(count, self.search.trials)) if count > 0 else []

    def _plan(self, trials: Sequence[Trial]) -> list[Tried]:
        if not trials:
            return []
        search, runs = self.search, [_make_run(self.search, trial.values) for trial in trials]
        fields = list(trials[0].values)
        try:
            jobs = make_jobs(runs, search.overrides, search.workdir, search.data_dir, search.resolve, fields)
        except UserError as error:
            if len(trials) > 1:  # one of them is wrong
                return [run for trial in trials for run in self._plan([trial])]
            self.study.fail(trials[0], str(error))
            self.study.release(trials[0])
            return []
        planned = [Tried(job, trial, own=True) for trial, job in zip(trials, jobs, strict=True)]
        for run in planned:
            self.study.name(run.trial, run.job.workdir.name)
            self.put(run)
        return planned

    def _make_job(self, trial: Trial) -> Job:
        """Return a job for display only, because its config was not checked."""
        run = _make_run(self.search, trial.values)
        name = label([run])[0]
        place = self.search.workdir / (trial.directory or name)
        return Job(name, place, (f"--config={run.config}",), None, run.fields, {**self.first.config, **run.fields})


class Searcher(Local[Tried]):
    """The trials that this launcher trains."""

    def __init__(self, search: Search, trials: Trials, view: View):
        super().__init__(trials.runs, make_slots(search.at_a_time), search.program, view)
        self.trials, self.study = trials, trials.study
        self._next_look = 0.0

    def _start(self, pipe: int) -> None:
        if time.monotonic() >= self._next_look:
            busy = sum(run.own and run.phase not in TOLD for run in self.trials.runs)
            for run in self.trials.take(len(self.slots) - busy):
                if run.phase is Phase.DONE:
                    self._change(run, Phase.DONE)
                elif self._is_pruned(run):
                    self._change(run, Phase.PRUNED)
            self.trials.look()
            self._next_look = time.monotonic() + LOOK_SECONDS
        super()._start(pipe)

    def _goes_on(self) -> bool:
        return self.trials.goes_on()

    def _is_ready(self, run: Tried) -> bool:
        return run.own

    def _attend(self, slot: int) -> None:
        attempt = self.attempts[slot]
        super()._attend(slot)
        if slot in self.attempts and not attempt.told and self._is_pruned(attempt.run):
            attempt.told = True
            attempt.process.terminate()  # it saves, so that another search can resume it

    def _is_pruned(self, run: Tried) -> bool:
        """Report new scores to the study. Return whether they end the trial."""
        scores = run.state.scores
        if len(scores) > run.seen:
            run.seen = len(scores)
            run.pruned = self.study.report(run.trial, scores, run.state.steps)
        return bool(run.pruned)

    def _change(self, run: Tried, phase: Phase, note: str = "") -> None:
        if run.pruned:  # already reported, however its process has ended
            phase, note = Phase.PRUNED, run.pruned
        elif phase is Phase.DONE:
            note = self.study.finish(run.trial, run.state.scores)
            phase = Phase.FAILED if note else phase
        elif phase is Phase.FAILED:
            self.study.fail(run.trial, note)
        super()._change(run, phase, note)
        if phase in TOLD:
            self.study.release(run.trial)
            run.own, self._next_look = False, 0.0


def _make_run(search: Search, values: Mapping[str, Any]) -> Run:
    return Run(search.config, {field: plain(value) for field, value in values.items()})


def _print_best(search: Search, trials: Trials) -> None:
    """Print the best trial and the command that evaluates it, if a trial is done."""
    done = [(score, run) for run in trials.runs if (score := run.trial.score) is not None]
    if not done:
        return
    choose = min if trials.first.smaller_is_better else max
    score, best = choose(done, key=lambda pair: pair[0])
    words = [shorten(sys.executable), shorten(MAIN), "--mode=evaluate"]
    words += [f"--workdir={shorten(best.job.workdir)}"]
    words += [f"--tfds_data_dir={search.data_dir}"] if search.data_dir else []
    print(f"best: {best.job.label}: {best.state.metric} {score:.4f}\n{shlex.join(words)}", flush=True)
