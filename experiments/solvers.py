"""Linear models that are solved for, not trained by steps: R-CNN's last two stages, on stored features of regions.

SVMs are scikit-learn's LinearSVC, which is liblinear, the solver of the authors: the problem is convex, so that its solution
has no learning rate and no number of steps. Features are given as blocks, dicts of arrays whose rows are regions, that can be
read again and again; no more than one block and what a class has found is in memory.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from errors import warn

Blocks = Iterable[Mapping[str, np.ndarray]]  # not an iterator: it is read several times
CHUNK = 2000  # regions that are looked at before an SVM may be solved for again: those of an image in the paper
HARD = -1.0001  # a negative with a larger margin is hard, and is kept ...
EASY = -1.2  # ... until its margin falls below this; both of the authors' code
NEVER = -30.0  # the margin of a class that has no positive
TOLERANCE = 1e-6  # of the dual's gradient: with the library's 1e-4 a known margin was 0.992
TURNS = 100_000  # of liblinear, at most
SEED = 0  # of the order in which liblinear looks at examples


@dataclasses.dataclass(frozen=True)
class SVMSettings:
    """The figures of Girshick et al. 2014, or of the authors' code, are those of configs.detectors.use_svms."""

    cost: float  # of a unit of hinge loss, against half the squared norm of the weights
    positive_weight: float  # times `cost` for positives
    bias_scale: float  # the feature that the bias is the weight of: the larger, the less the bias costs
    feature_norm: float  # of features on average, which are scaled to it
    hard_negatives: int  # new ones after which an SVM is solved for again
    passes: int  # over all blocks


def fit_svms(blocks: Blocks, count: int, settings: SVMSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solves for a linear SVM for each of `count` classes, with hard negative mining (section 2.3 and appendix B).

    A block has `features` [N,D] float32, `positive` [N] the class that a row is a positive of, -1 for none, and `negative`
    [N,count] bool. Returns weights [D,count] and biases [count], float32, of the features as they are given, and what each
    class's objective is in the end [count].

    A class without a positive gets a margin that is never reached.
    """
    norms, positives = [], [[] for _ in range(count)]
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
        warn(f"{unsolved} SVMs are not solved after {TURNS:,} turns of liblinear; lower config.task.cost")
    weights = scale * np.stack([svm.weights for svm in svms], 1)
    return weights.astype(np.float32), np.float32([svm.bias for svm in svms]), np.array([svm.objective for svm in svms])


def fit_regressions(
    blocks: Blocks, count: int, *, ridge: float, feature_norm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solves for a ridge regression of 4 targets for each of `count` classes (appendix C, equation 5).

    A block has `features` [N,D] float32, `class` [N] and `targets` [N,4]. The authors' code makes the targets of a class
    uncorrelated first, which changes nothing: the solution is linear in them. Here the constant term costs nothing.

    Returns weights [D,4,count] and biases [4,count], float32, of the features as they are given, and the share of the
    targets' variance that they explain [count], nan for a class without examples, whose boxes stay as they are.
    """
    norms = []
    for block in blocks:
        features = block["features"]
        norms.append(np.linalg.norm(features, axis=1))
    scale, width = _scale(feature_norm, norms), features.shape[1]
    weights, biases = np.zeros((width, 4, count), np.float32), np.zeros((4, count), np.float32)
    explained = np.full(count, np.nan)
    for number in range(count):
        examples = list(_examples(blocks, number))
        if examples:
            features, targets = map(np.concatenate, zip(*examples, strict=True))
            solved = Ridge(alpha=ridge, solver="cholesky").fit(scale * features, targets)
            weights[..., number], biases[:, number] = scale * solved.coef_.T, solved.intercept_
            left = np.square(targets - features @ weights[..., number] - biases[:, number]).sum()
            explained[number] = 1 - left / max(np.square(targets - targets.mean(0)).sum(), 1e-12)
    return weights, biases, explained


class _SVM:
    """One class's SVM, its positives and the hard negatives that it has found so far."""

    def __init__(self, settings: SVMSettings, positives: np.ndarray):
        self.settings, self.positives, self.negatives = settings, positives, positives[:0]
        self.keys = np.zeros(0, np.int64)  # which rows of all blocks the negatives are
        self.added, self.solved, self.unsolved = 0, False, False
        self.bias, self.objective = NEVER, 0.0

    def mine(self, features: np.ndarray, negative: np.ndarray, first: int) -> None:
        """Keeps those rows of features [N,D] that are negatives and hard; all negatives at the start."""
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
        self.added, self.solved = 0, True
        self.weights = np.zeros(self.positives.shape[1], np.float32)
        if not len(self.positives) or not len(self.negatives):
            self.bias = 1.0 if len(self.positives) else NEVER
            return
        settings = self.settings
        examples = np.concatenate([self.positives, self.negatives])
        truth = np.repeat([1, -1], [len(self.positives), len(self.negatives)])
        machine = LinearSVC(
            loss="hinge",
            C=settings.cost,
            class_weight={1: settings.positive_weight},
            intercept_scaling=settings.bias_scale,
            tol=TOLERANCE,
            max_iter=TURNS,
            random_state=SEED,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            machine.fit(examples, truth)
        self.unsolved = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        self.weights, self.bias = machine.coef_[0].astype(np.float32), float(machine.intercept_[0])
        margins = examples @ self.weights + self.bias
        costs = settings.cost * np.where(truth > 0, settings.positive_weight, 1.0)
        norm = np.square(self.weights).sum() + np.square(self.bias / settings.bias_scale)
        self.objective = float(norm / 2 + (costs * np.maximum(1 - truth * margins, 0)).sum())
        kept = margins[len(self.positives) :] >= EASY
        self.negatives, self.keys = self.negatives[kept], self.keys[kept]


def _scale(feature_norm: float, norms: list[np.ndarray]) -> float:
    """The factor that gives features of these norms, a list of arrays, the norm `feature_norm` on average."""
    known = np.concatenate(norms)
    return feature_norm / max(float(known.mean()), 1e-12) if len(known) else 1.0


def _examples(blocks: Blocks, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for block in blocks:
        rows = block["class"] == number
        if rows.any():
            yield block["features"][rows], block["targets"][rows]
