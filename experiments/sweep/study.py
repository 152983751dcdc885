"""The study of a search: its trials, which Optuna draws and prunes, in a SQLite file that several launchers share.

Launchers meet at one lock, under which every look into the file and every change of it is made. So SQLite never has two
writers, and what a launcher decides rests on all that the others have told. A trial is carried on by the launcher that holds
its own lock, until that launcher tells what it came to, or ends: then the next one adopts the trial.

What is drawn depends on the seed, on how many trials there are and on what they came to, and on nothing that a launcher
remembers. So a search that is killed and started again draws what it would have drawn.
"""

import contextlib
import dataclasses
import fcntl
import math
import pathlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from configs.sweeps import Choice, Space, Span
from errors import UserError
from experiments.sweep.launch import Phase

FILE, LOCK = "study.db", ".study.lock"
SQLITE_SECONDS = 60  # that SQLite waits for another program, such as a dashboard
TPE_DRAWS, RANDOM_DRAWS = 20, 1000  # for values that no trial has had; then there are none
FAILURES = 5  # trials without a single one that came to something: then no more are drawn
PHASES = {TrialState.COMPLETE: Phase.DONE, TrialState.PRUNED: Phase.PRUNED, TrialState.FAIL: Phase.FAILED}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial as the study has it: the values of some fields, and what became of the run with them."""

    id: int
    values: Mapping[str, Any]
    phase: Phase  # IN_USE by another launcher; STOPPED where no launcher is at it, and in those that this one has taken
    directory: str  # the run's; empty before it is known
    note: str
    score: float | None

    @property
    def key(self) -> str:
        """What no other trial has, but for one that takes the place of a failed one."""
        return repr(self.values)


class Study:
    """The trials of one search in a folder. `end` says why no more of them are drawn, where that is so."""

    def __init__(self, workdir: pathlib.Path, name: str, space: Space, smaller_is_better: bool, seed: int = 0):
        """Open the study called `name`, new or not. Raise UserError where its file or its lock cannot be used."""
        self.path, self.space, self.seed, self.end = workdir / FILE, space, seed, ""
        self.stored = {field: _store(field, values) for field, values in space.items()}
        self.distributions = {field: _make_distribution(values) for field, values in self.stored.items()}
        self.direction = "minimize" if smaller_is_better else "maximize"
        self._own: set[int] = set()  # the trials whose locks this launcher holds
        self._lock = open(workdir / LOCK, "ab")  # noqa: SIM115 - `close` closes it
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self.alone():
            self._study = optuna.create_study(
                study_name=name,
                direction=self.direction,
                sampler=optuna.samplers.RandomSampler(),  # `_draw` has another one
                pruner=optuna.pruners.MedianPruner(),
                load_if_exists=True,
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{self.path}", engine_kwargs={"connect_args": {"timeout": SQLITE_SECONDS}}
                ),
            )

    def close(self) -> None:
        """Let go of all trials. They stay as they are."""
        self._lock.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other launchers of the folder waiting. Raise UserError for what the study's file does not take."""
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1)
        except OSError as error:
            raise UserError(
                f"{self._lock.name} cannot be locked ({error.strerror}); choose another --workdir"
            ) from error
        try:
            yield
        except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.path}: {reason}; make room or mend it, or move it away: the runs are in their directories"
            ) from error
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1)

    def trials(self) -> list[Trial]:
        """Return all trials in the order in which they were drawn; of failed ones that were tried again the new."""
        with self.alone():
            return [self._describe(frozen) for frozen in self._latest().values()]

    def retry(self) -> None:
        """Let the failed trials be tried again."""
        with self.alone():
            for frozen in self._latest().values():
                if frozen.state is TrialState.FAIL:
                    self._add(frozen.params, frozen.distributions)

    def take(self, count: int, total: int) -> list[Trial]:
        """Return `count` trials for this launcher to carry on: first those that no launcher is at, then new ones.

        There are fewer where there are `total` trials in all, and where `end` says so.
        """
        taken: list[Trial] = []
        with self.alone():
            known = self._latest()
            for frozen in known.values():
                if len(taken) < count and frozen.state is TrialState.RUNNING and self._claim(frozen._trial_id):
                    taken.append(self._describe(frozen))
            while len(taken) < count and len(known) < total:
                self.end = self._find_end(known)
                params = None if self.end else self._draw(known)
                if params is None:
                    self.end = self.end or f"the space has no values but those of the {len(known)} trials"
                    break
                self._add(params, self.distributions)
                known = self._latest()
                frozen = next(reversed(known.values()))
                self._claim(frozen._trial_id)
                taken.append(self._describe(frozen))
        return taken

    def name(self, trial: Trial, directory: str) -> None:
        """Store where the run of a trial is."""
        with self.alone():
            self._open(trial).set_user_attr("directory", directory)

    def report(self, trial: Trial, scores: Mapping[int, float | None], steps: int) -> str:
        """Store the scores of a trial on its way to step `steps`. Return at which of them it is pruned: then it is over.

        They are looked at one after another, however many come at once: the decision does not depend on the hour.
        """
        with self.alone():
            own = self._open(trial)
            known = self._find(trial).intermediate_values
            newest = max(known, default=0)
            for step, value in scores.items():
                if value is None or step < newest:
                    continue
                if step not in known:
                    own.report(value, step)
                if step < steps and own.should_prune():
                    own.set_user_attr("note", note := f"at step {step}")
                    self._study.tell(own, state=TrialState.PRUNED)
                    return note
        return ""

    def finish(self, trial: Trial, scores: Mapping[int, float | None]) -> str:
        """Report the best score of a trial that is done. Return an empty text, or why it has failed all the same."""
        defined = [value for value in scores.values() if value is not None and math.isfinite(value)]
        if not defined:
            self.fail(trial, note := "the score was undefined at every step")
            return note
        with self.alone():
            own = self._open(trial)
            known = self._find(trial).intermediate_values
            for step, value in scores.items():
                if value is not None and step not in known:
                    own.report(value, step)
            self._study.tell(own, max(defined) if self.direction == "maximize" else min(defined))
        return ""

    def fail(self, trial: Trial, note: str) -> None:
        """Report that the run of a trial has failed."""
        with self.alone():
            own = self._open(trial)
            own.set_user_attr("note", note)
            self._study.tell(own, state=TrialState.FAIL)

    def release(self, trial: Trial) -> None:
        """Let go of a trial whose end was told and whose process has ended."""
        self._own.discard(trial.id)
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + trial.id)

    def _open(self, trial: Trial) -> optuna.trial.Trial:
        # Optuna opens a trial of another process in no other way.
        return optuna.trial.Trial(self._study, trial.id)

    def _find(self, trial: Trial) -> FrozenTrial:
        return next(own for own in self._study.get_trials(deepcopy=False) if own._trial_id == trial.id)

    def _claim(self, number: int) -> bool:
        """Take the lock of a trial: a byte of the file, which the kernel frees when this process ends, however it ends."""
        if number in self._own:
            return False
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except (BlockingIOError, PermissionError):  # the system's choice
            return False
        self._own.add(number)
        return True

    def _latest(self) -> dict[str, FrozenTrial]:
        return {_key(frozen.params): frozen for frozen in self._study.get_trials(deepcopy=False)}

    def _describe(self, frozen: FrozenTrial) -> Trial:
        phase = PHASES.get(frozen.state, Phase.STOPPED)
        if phase is Phase.STOPPED and frozen._trial_id not in self._own:
            if self._claim(frozen._trial_id):
                self._own.discard(frozen._trial_id)
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + frozen._trial_id)
            else:
                phase = Phase.IN_USE
        values = {field: self._read(field, frozen.params[field]) for field in self.space}
        told = frozen.user_attrs
        score = frozen.value if phase is Phase.DONE else None
        return Trial(frozen._trial_id, values, phase, told.get("directory", ""), told.get("note", ""), score)

    def _read(self, field: str, param: Any) -> Any:
        values, stored = self.space[field], self.stored[field]
        return values.values[stored.values.index(param)] if isinstance(stored, Choice) else param

    def _holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether the values are in the space, which may have become narrower."""
        spans = {field: own for field, own in self.stored.items() if isinstance(own, Span)}
        return all(own.low <= params[field] <= own.high for field, own in spans.items())

    def _add(self, params: dict[str, Any], distributions: dict[str, BaseDistribution]) -> None:
        """Store a new trial at once and whole, so that no kill leaves a part of it."""
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))

    def _find_end(self, known: Mapping[str, FrozenTrial]) -> str:
        states = [frozen.state for frozen in known.values()]
        useful = TrialState.COMPLETE in states or TrialState.PRUNED in states
        if useful or states.count(TrialState.FAIL) < FAILURES:
            return ""
        return f"the first {FAILURES} trials have failed, and none has come to anything"

    def _draw(self, known: Mapping[str, FrozenTrial]) -> dict[str, Any] | None:
        """Value that no trial has had, from TPE or, where that insists on known ones, at random. None: there are none."""
        generator = random.Random(f"{self.seed} {len(known)}")
        scratch = optuna.create_study(
            direction=self.direction, sampler=optuna.samplers.TPESampler(seed=generator.getrandbits(32))
        )
        for frozen in known.values():  # a failed one teaches nothing
            if frozen.state is not TrialState.FAIL and self._holds(frozen.params):
                scratch.add_trial(
                    create_trial(
                        state=frozen.state,
                        value=frozen.value,
                        params=frozen.params,
                        distributions=self.distributions,
                        intermediate_values=frozen.intermediate_values,
                    )
                )
        for _ in range(TPE_DRAWS):
            drawn = scratch.ask(self.distributions).params
            params = {field: _settle(own, drawn[field]) for field, own in self.stored.items()}
            if _key(params) not in known:
                return params
        for _ in range(RANDOM_DRAWS):
            params = {field: _settle(own, own.place(generator.random())) for field, own in self.stored.items()}
            if _key(params) not in known:
                return params
        return None


def describe_kind(field: str, values: Span | Choice) -> Any:
    """Return what of a field's values may not change within a study, fit for JSON: a span may become wider or narrower."""
    stored = _store(field, values)
    return list(stored.values) if isinstance(stored, Choice) else [stored.whole, stored.log]


def _store(field: str, values: Span | Choice) -> Span | Choice:
    """Return the values as the study has them. Those of a choice are text: Optuna stores no lists, and takes True for 1."""
    if not isinstance(values, Choice):
        return values
    labels = [value if isinstance(value, str) else repr(value) for value in values.values]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"search(): {field} has the choice {twice[0]} twice; leave one out")
    return Choice(tuple(labels))


def _make_distribution(stored: Span | Choice) -> BaseDistribution:
    if isinstance(stored, Choice):
        return CategoricalDistribution(stored.values)
    if stored.whole:
        return IntDistribution(int(stored.low), int(stored.high))
    return FloatDistribution(stored.low, stored.high, log=stored.log)


def _settle(stored: Span | Choice, drawn: Any) -> Any:
    """Return a value with as many digits as people write, and of the type that it comes back with."""
    if isinstance(stored, Choice):
        return drawn
    return int(drawn) if stored.whole else float(stored.round(drawn))


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))
