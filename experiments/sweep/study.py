"""The study of a search, a SQLite file with the trials that Optuna draws and prunes, shared by several launchers.

Launchers read and write the file under one lock. So SQLite never has two writers, and each decision uses all results that
other launchers have reported. A trial has a lock of its own. The launcher that holds it trains the run until it reports the
result. If that launcher ends before, the next one takes the trial over.

The drawn values depend only on the seed, the number of trials and their results, not on the memory of a launcher. So a search
that is killed and started again draws the same values.
"""

import contextlib
import dataclasses
import fcntl
import math
import pathlib
import random
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import optuna
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from configs.sweeps import Choice, Space, Span
from errors import UserError
from experiments.sweep.launch import Phase

FILE, LOCK = "study.db", ".study.lock"
SQLITE_SECONDS = 60  # for which SQLite waits for another program, such as a dashboard
TPE_DRAWS, RANDOM_DRAWS = 20, 1000  # attempts to draw new values before the space counts as exhausted
FAILURES = 5  # failed trials, without a successful one, after which the search ends
PHASES = {TrialState.COMPLETE: Phase.DONE, TrialState.PRUNED: Phase.PRUNED, TrialState.FAIL: Phase.FAILED}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial of the study, with the values of its fields and the result of its run."""

    id: int
    values: Mapping[str, Any]
    phase: Phase  # IN_USE: another launcher trains it; STOPPED: none does, or this one has just taken it
    directory: str  # of the run; empty before it is known
    note: str
    score: float | None

    @property
    def key(self) -> str:
        """The values as text, unique except for a trial that replaces a failed one."""
        return repr(self.values)


class Study:
    """The trials of one search in a folder. `end` is the reason why no more are drawn, or empty."""

    def __init__(self, workdir: pathlib.Path, name: str, space: Space, smaller_is_better: bool, seed: int = 0):
        """Open or create the study `name`. Raise UserError if its file or its lock cannot be used."""
        self.path, self.space, self.seed, self.end = workdir / FILE, space, seed, ""
        self.stored = {field: _store(field, values) for field, values in space.items()}
        self.distributions = {field: _make_distribution(values) for field, values in self.stored.items()}
        self.direction: Literal["minimize", "maximize"] = "minimize" if smaller_is_better else "maximize"
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
        """Release the locks of all trials. The trials stay unchanged."""
        self._lock.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the study for this launcher. Raise UserError if the file of the study cannot be read or written."""
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
                f"{self.path}: {reason}; free disk space, repair the file or move it away; the runs stay in their directories"
            ) from error
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1)

    def trials(self) -> list[Trial]:
        """Return all trials in the order in which they were drawn, without failed ones that were repeated."""
        with self.alone():
            return [self._describe(frozen) for frozen in self._latest().values()]

    def retry(self) -> None:
        """Add the failed trials again, so that they are repeated."""
        with self.alone():
            for frozen in self._latest().values():
                if frozen.state is TrialState.FAIL:
                    self._add(frozen.params, frozen.distributions)

    def take(self, count: int, total: int) -> list[Trial]:
        """Return `count` trials for this launcher, first those without a launcher, then new ones.

        There are fewer if the study reaches `total` trials, or if it sets `end`.
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
                    self.end = self.end or f"the {len(known)} trials have all values of the space"
                    break
                self._add(params, self.distributions)
                known = self._latest()
                frozen = next(reversed(known.values()))
                self._claim(frozen._trial_id)
                taken.append(self._describe(frozen))
        return taken

    def name(self, trial: Trial, directory: str) -> None:
        """Store the directory of a trial's run."""
        with self.alone():
            self._open(trial).set_user_attr("directory", directory)

    def report(self, trial: Trial, scores: Mapping[int, float | None], steps: int) -> str:
        """Store the scores of a trial of `steps` steps. Return the step at which it is pruned, as text, or an empty text.

        Scores are judged in their order, even if several arrive at once, so the decision does not depend on timing.
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
        """Store the best score of a trial that is done. Return an empty text, or the reason why it counts as failed."""
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
        """Store that the run of a trial has failed."""
        with self.alone():
            own = self._open(trial)
            own.set_user_attr("note", note)
            self._study.tell(own, state=TrialState.FAIL)

    def release(self, trial: Trial) -> None:
        """Release the lock of a trial whose result is stored and whose process has ended."""
        self._own.discard(trial.id)
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + trial.id)

    def _open(self, trial: Trial) -> optuna.trial.Trial:
        # The only way in which Optuna opens a trial of another process.
        return optuna.trial.Trial(self._study, trial.id)

    def _find(self, trial: Trial) -> FrozenTrial:
        return next(own for own in self._study.get_trials(deepcopy=False) if own._trial_id == trial.id)

    def _claim(self, number: int) -> bool:
        """Take the lock of a trial, one byte of the file, which the kernel releases when this process ends.

        Return False if this launcher or another one holds it.
        """
        if number in self._own:
            return False
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except (BlockingIOError, PermissionError):  # it depends on the operating system
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
        if isinstance(values, Choice) and isinstance(stored, Choice):
            return values.values[stored.values.index(param)]
        return param

    def _holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether the values are inside the spans, which may have become narrower."""
        spans = {field: own for field, own in self.stored.items() if isinstance(own, Span)}
        return all(own.low <= params[field] <= own.high for field, own in spans.items())

    def _add(self, params: dict[str, Any], distributions: dict[str, BaseDistribution]) -> None:
        """Store a whole new trial in one transaction, so that a kill leaves no part of it."""
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))

    def _find_end(self, known: Mapping[str, FrozenTrial]) -> str:
        states = [frozen.state for frozen in known.values()]
        useful = TrialState.COMPLETE in states or TrialState.PRUNED in states
        if useful or states.count(TrialState.FAIL) < FAILURES:
            return ""
        return f"{FAILURES} trials have failed and none has succeeded"

    def _draw(self, known: Mapping[str, FrozenTrial]) -> dict[str, Any] | None:
        """Draw values that no trial has, from TPE, or at random if TPE repeats itself. Return None if none are left."""
        generator = random.Random(f"{self.seed} {len(known)}")
        scratch = optuna.create_study(
            direction=self.direction, sampler=optuna.samplers.TPESampler(seed=generator.getrandbits(32))
        )
        for frozen in known.values():  # without the failed ones, which have no score
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
    """Return the part of a field's values that may not change within a study, fit for JSON. The ends of a span may."""
    stored = _store(field, values)
    return list(stored.values) if isinstance(stored, Choice) else [stored.whole, stored.log]


def _store(field: str, values: Span | Choice) -> Span | Choice:
    """Return the values as the study stores them.

    Those of a choice become text, because Optuna cannot store lists and confuses True with 1.
    """
    if not isinstance(values, Choice):
        return values
    labels = [value if isinstance(value, str) else repr(value) for value in values.values]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"search(): {field} has the choice {twice[0]} twice; remove one")
    return Choice(tuple(labels))


def _make_distribution(stored: Span | Choice) -> BaseDistribution:
    if isinstance(stored, Choice):
        return CategoricalDistribution(stored.values)
    if stored.whole:
        return IntDistribution(int(stored.low), int(stored.high))
    return FloatDistribution(stored.low, stored.high, log=stored.log)


def _settle(stored: Span | Choice, drawn: Any) -> Any:
    """Return a value with few digits, of the type that the study returns."""
    if isinstance(stored, Choice):
        return drawn
    return int(drawn) if stored.whole else float(stored.round(drawn))


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))
