"""Solvers for R-CNN's last two stages, which are linear models on stored features of regions.

SVMs are scikit-learn's LinearSVC, which uses the authors' solver liblinear. The problem is convex, so its solution does not
depend on a learning rate or a number of steps. Features come in blocks, dicts of arrays whose rows are regions, and are read
several times. Only one block and the examples kept for each class are in memory. Functions import
scikit-learn when they are called, because its import takes seconds.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from errors import warn

Blocks = Iterable[Mapping[str, np.ndarray]]  # not an iterator, because it is read several times
CHUNK = 2000  # regions mined before an SVM may be solved for again; an image has as many in the paper
HARD = -1.0001  # negatives with a larger margin are hard and are kept ...
EASY = -1.2  # ... until their margin is smaller than this; both values are from the authors' code
NEVER = -30.0  # the margin of a class without positives
TOLERANCE = 1e-6  # of the dual's gradient: with the library's 1e-4 a known margin of 1 was 0.992
TURNS = 100_000  # iterations of liblinear, at most
SEED = 0  # of the order in which liblinear visits examples


@dataclasses.dataclass(frozen=True)
class SVMSettings:
    """Settings of the SVMs. configs.detectors.use_svms has the values of Girshick et al. 2014 or of the authors' code."""

    cost: float  # of a unit of hinge loss, relative to half the squared norm of the weights
    positive_weight: float  # multiplies `cost` for positives
    bias_scale: float  # the constant feature whose weight is the bias; the larger, the less the bias costs
    feature_norm: float  # the average norm that features are scaled to
    hard_negatives: int  # an SVM is solved for again after this many new ones
    passes: int  # over all blocks


def fit_svms(blocks: Blocks, count: int, settings: SVMSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve for a linear SVM for each of `count` classes, with hard negative mining (section 2.3 and appendix B).

    A block has `features` [N,D] float32, `positive` [N], the class that a row is a positive of or -1, and `negative` [N,count]
    bool. Returns weights [D,count] and biases [count], float32, for the features as given, and the final objective of each
    class [count]. A class without positives gets a margin that is never reached.
    """
    norms: list[np.ndarray] = []
    positives: list[list[np.ndarray]] = [[] for _ in range(count)]
    for block in blocks:
        features, owner = block["features"], block["positive"]
        norms.append(np.linalg.norm(features, axis=1))
        for number in range(count):
            positives[number].append(features[owner == number])
    scale = _scale(settings.feature_norm, norms)
    svms = [_SVM(settings, scale * np.concatenate(own)) for own in positives]
    for _ in range(settings.passes):
        first = 0
        for block in blocks:
            features, negative = block["features"], block["negative"]
            for start in range(0, len(features), CHUNK):
                rows = slice(start, start + CHUNK)
                chunk = scale * features[rows]
                for number, svm in enumerate(svms):
                    svm.mine(chunk, negative[rows, number], first + start)
            first += len(features)
    for svm in svms:
        svm.finish()
    unsolved = sum(svm.unsolved for svm in svms)
    if unsolved:
        warn(f"{unsolved} SVMs are not solved after {TURNS:,} iterations of liblinear; lower config.task.cost")
    weights = scale * np.stack([svm.weights for svm in svms], 1)
    biases = np.array([svm.bias for svm in svms], np.float32)
    return weights.astype(np.float32), biases, np.array([svm.objective for svm in svms])


def fit_regressions(
    blocks: Blocks, count: int, *, ridge: float, feature_norm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve for a ridge regression of 4 targets for each of `count` classes (appendix C, equation 5).

    There is at least one block. A block has `features` [N,D] float32, `class` [N] and `targets` [N,4]. The authors' code first
    makes the targets of a class uncorrelated, which does not change the solution, because it is linear in the targets. Here the
    constant term is not penalised.

    Returns weights [D,4,count] and biases [4,count], float32, for the features as given, and the share [count] of the targets'
    variance that they explain. The share is nan for a class without examples, whose boxes are not changed.
    """
    from sklearn.linear_model import Ridge

    norms, width = [], 0
    for block in blocks:
        norms.append(np.linalg.norm(block["features"], axis=1))
        width = block["features"].shape[1]
    scale = _scale(feature_norm, norms)
    weights, biases = np.zeros((width, 4, count), np.float32), np.zeros((4, count), np.float32)
    explained = np.full(count, np.nan)
    for number in range(count):
        examples = list(_examples(blocks, number))
        if examples:
            features, targets = map(np.concatenate, zip(*examples, strict=True))
            solved: Any = Ridge(alpha=ridge, solver="cholesky")  # because scikit-learn has no types
            solved.fit(scale * features, targets)
            weights[..., number], biases[:, number] = scale * solved.coef_.T, solved.intercept_
            left = np.square(targets - features @ weights[..., number] - biases[:, number]).sum()
            explained[number] = 1 - left / max(np.square(targets - targets.mean(0)).sum(), 1e-12)
    return weights, biases, explained


class _SVM:
    """The SVM of one class, with its positives and the hard negatives found so far."""

    def __init__(self, settings: SVMSettings, positives: np.ndarray):
        self.settings, self.positives = settings, positives
        self.negatives: np.ndarray = positives[:0]
        self.keys: np.ndarray = np.zeros(0, np.int64)  # row numbers of the negatives, counted over all blocks
        self.weights: np.ndarray = np.zeros(positives.shape[1], np.float32)
        self.added: int = 0
        self.solved: bool = False
        self.unsolved: bool = False
        self.bias: float = NEVER
        self.objective: float = 0.0

    def mine(self, features: np.ndarray, negative: np.ndarray, first: int) -> None:
        """Keep the rows of features [N,D] that are hard negatives, or all negatives [N] before the first solution."""
        if self.solved:
            negative = negative & (features @ self.weights + self.bias > HARD)
        rows = np.flatnonzero(negative)
        rows = rows[~np.isin(first + rows, self.keys)]
        self.negatives = np.concatenate([self.negatives, features[rows]])
        self.keys = np.concatenate([self.keys, first + rows])
        self.added += len(rows)
        if self.added > self.settings.hard_negatives or (self.added and not self.solved):
            self._solve()

    def finish(self) -> None:
        if self.added or not self.solved:
            self._solve()

    def _solve(self) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        self.added, self.solved = 0, True
        self.weights = np.zeros(self.positives.shape[1], np.float32)
        if not len(self.positives) or not len(self.negatives):
            self.bias = 1.0 if len(self.positives) else NEVER
            return
        settings = self.settings
        examples = np.concatenate([self.positives, self.negatives])
        truth = np.repeat([1, -1], [len(self.positives), len(self.negatives)])
        machine: Any = LinearSVC(
            loss="hinge",
            C=settings.cost,
            class_weight={1: settings.positive_weight},
            intercept_scaling=settings.bias_scale,  # pyright: ignore[reportArgumentType]  # a float; the default is 1
            tol=TOLERANCE,
            max_iter=TURNS,
            random_state=SEED,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            machine.fit(examples, truth)
        self.unsolved = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        self.weights, self.bias = machine.coef_[0].astype(np.float32), float(np.ravel(machine.intercept_)[0])
        margins = examples @ self.weights + self.bias
        costs = settings.cost * np.where(truth > 0, settings.positive_weight, 1.0)
        norm = np.square(self.weights).sum() + np.square(self.bias / settings.bias_scale)
        self.objective = float(norm / 2 + (costs * np.maximum(1 - truth * margins, 0)).sum())
        kept = margins[len(self.positives) :] >= EASY
        self.negatives, self.keys = self.negatives[kept], self.keys[kept]


def _scale(feature_norm: float, norms: list[np.ndarray]) -> float:
    """Return the factor that scales features with these norms to an average norm of `feature_norm`."""
    known = np.concatenate(norms)
    return feature_norm / max(float(known.mean()), 1e-12) if len(known) else 1.0


def _examples(blocks: Blocks, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for block in blocks:
        rows = block["class"] == number
        if rows.any():
            yield block["features"][rows], block["targets"][rows]
