"""Whether the difference of two groups of runs is real: a paired bootstrap over the images that both were scored on.

A draw takes as many images as there are, with repetition, the same ones for all runs, and scores each run on them. Over
several seeds a group's score is the mean of its runs', and a new seed would move it, too: the variance over the seeds is added
to that over the images, less the part that both hold.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from errors import UserError
from experiments.compare.groups import Group
from experiments.compare.records import read_records
from experiments.compare.runs import Run, is_smaller_better

SHARE = 0.95
LEAST = 10  # images: of fewer, draws differ too little to say anything of other images
APART = 1e-4  # so far a score may be from that of the records, which is computed along another path
# Shown where the records have them, after the metric that was asked for.
HEADLINES = ("mIoU", "boundary_IoU", "AP", "AP50", "mask_AP", "mask_AP50", "boundary_AP", "mAP_voc07", "mAP_voc12")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The difference of a score, `first` minus `second`, with its 95 % interval and two-sided p.

    `seeds` says whether the spread over the seeds is in them; without it they hold for these very runs alone.
    """

    metric: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    images: int
    draws: int
    seeds: bool

    @property
    def real(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def describe(self) -> str:
        """Return the verdict in a sentence."""
        numbers = f"{self.difference:+.4f}, 95 % interval {self.low:+.4f} to {self.high:+.4f}, p = {self.p:.3g}"
        if not self.real:
            return f"{self.metric}: no difference is shown between {self.first} and {self.second} ({numbers})"
        better = self.first if (self.difference > 0) != is_smaller_better(f"val/{self.metric}") else self.second
        return f"{self.metric}: {better} is better; {self.first} minus {self.second} is {numbers}"


def judge(
    first: Group, second: Group, metric: str, draws: int = 1000, seed: int = 0, records: str = "val"
) -> list[Verdict]:
    """Compare two groups by `metric`, val/NAME, and by the other main scores of their records.

    `metric` comes first; where the records do not have it, only the others are compared. Raise UserError where a run has
    no records, where they are of few images, of other images, classes or ground truth, or of another evaluation than the
    run's newest scores, and where none of the scores is in them.
    """
    own = [[read_records(run, records) for run in group.runs] for group in (first, second)]
    like = own[0][0]
    own = [[one.sort_as(like) for one in group] for group in own]
    rng = np.random.default_rng(seed)
    count = len(like.images)
    if count < LEAST:
        raise UserError(f"{like.where} has {count} images; evaluate both runs on {LEAST} or more")
    weights = rng.multinomial(count, np.full(count, 1 / count), draws)
    weights = np.concatenate([np.ones((1, count), weights.dtype), weights])
    scores = [[one.resample(weights) for one in group] for group in own]
    if records == "val":
        for group, found in zip((first, second), scores, strict=True):
            for run, one in zip(group.runs, found, strict=True):
                _check_age(run, one)
    shared = set.intersection(*(set(one) for group in scores for one in group))
    names = [name for name in dict.fromkeys([metric.removeprefix("val/"), *HEADLINES]) if name in shared]
    if not names:
        raise UserError(f"{like.where} and those of the other runs have no score in common; compare runs of one task")
    verdicts = []
    for name in names:
        found = [np.stack([one[name] for one in group]) for group in scores]
        found = _drop_undefined(found)
        if found is not None:
            estimate = estimate_difference(*found, images=count)
            several = any(len(group.runs) > 1 for group in (first, second))
            verdicts.append(Verdict(name, first.name, second.name, *estimate, count, found[0].shape[1] - 1, several))
    return verdicts


def _check_age(run: Run, scores: Mapping[str, np.ndarray]) -> None:
    """Check that records are those of the evaluation whose scores metrics.jsonl has last. Raise UserError where they are not."""
    for name, values in scores.items():
        last = None if "/" in name else run.last(f"val/{name}")  # the means will do
        if last is not None and abs(values[0] - last) > APART:
            raise UserError(
                f"{run.workdir / 'records' / 'val.jsonl'} and the last scores of metrics.jsonl are of two evaluations: {name} "
                f"is {values[0]:.4f} by the records and {last:.4f} there; resume the run until its next evaluation"
            )


def _drop_undefined(scores: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Leave out the draws in which a run's score is undefined. None where it is for all images, or for most draws."""
    defined = ~np.isnan(np.concatenate(scores)).any(0)
    if not defined[0] or defined.mean() < 0.5:
        return None
    return [own[:, defined] for own in scores]


def estimate_difference(first: np.ndarray, second: np.ndarray, images: int) -> tuple[float, float, float, float]:
    """Return the difference of two groups' mean scores, the ends of its 95 % interval, and p.

    `first` [K,1+R] and `second` [L,1+R] are scores of K and L runs: of all `images`, then of R draws of them. With one run
    in each group the interval is the draws' own (percentiles). With more it is Student's t: the variance is the sum of
    that over the seeds in each group and that over the images, the degrees of freedom are Welch and Satterthwaite's. A
    group of one run is taken to have the other group's variance over the seeds. R is 39 or more.
    """
    groups = first, second
    apart = first.mean(0) - second.mean(0)
    difference, draws = float(apart[0]), np.sort(apart[1:])
    spreads = [_measure_seeds(group) for group in groups]
    if not any(spreads):
        # The interval leaves 0 out exactly where p is at most 1 - SHARE.
        place = int((1 - SHARE) / 2 * (len(draws) + 1)) - 1
        tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
        return difference, float(draws[place]), float(draws[-1 - place]), p
    shares = [1 / len(group) for group in groups]
    if not all(spreads):  # one estimate for both groups, and so one part of the variance
        spreads, shares = [own for own in spreads if own], [sum(shares)]
    parts = [share * between for share, (between, _, _) in zip(shares, spreads, strict=True)]
    counted = sum(share * within for share, (_, within, _) in zip(shares, spreads, strict=True))
    parts.append(max(float(draws.var(ddof=1)) - counted, 0.0))
    freedom = [*(own for _, _, own in spreads), images - 1]
    variance = sum(parts)
    if variance == 0:
        return difference, difference, difference, float(difference == 0)
    freedom = variance**2 / sum(part**2 / own for part, own in zip(parts, freedom, strict=True))
    half = float(stdtrit(freedom, (1 + SHARE) / 2)) * math.sqrt(variance)
    p = 2 * float(stdtr(freedom, -abs(difference) / math.sqrt(variance)))
    return difference, difference - half, difference + half, p


def _measure_seeds(scores: np.ndarray) -> tuple[float, float, int] | None:
    """Return the variance of a group's runs, the part of it that is due to the choice of images, and its degrees of freedom.

    None for one run. The part is what the runs' differences vary by from draw to draw: the variance of the group's mean
    over the draws holds it, too.
    """
    count = len(scores)
    if count == 1:
        return None
    apart = scores[:, 1:] - scores[:, 1:].mean(0)
    return float(scores[:, 0].var(ddof=1)), float(apart.var(axis=1, ddof=1).sum() / (count - 1)), count - 1
