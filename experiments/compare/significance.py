"""The significance of the difference between two groups of runs, by a paired bootstrap over their images.

A draw takes as many images as there are, with replacement, the same ones for all runs, and scores each run on them. With several
seeds, the score of a group is the mean over its runs, which also varies with the seeds. So the variance over the seeds is added
to the variance over the images, minus the part that both contain.
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
LEAST = 10  # images: draws of fewer differ too little to generalise to other images
APART = 1e-4  # the largest difference of a score from that of the records, which is computed in another way
# Shown after the chosen metric, if the records have them.
HEADLINES = ("mIoU", "boundary_IoU", "AP", "AP50", "mask_AP", "mask_AP50", "boundary_AP", "mAP_voc07", "mAP_voc12")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The difference of a score, `first` minus `second`, with its 95 % interval and two-sided p.

    `seeds` says whether these include the spread over the seeds. Without it they hold only for these runs.
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
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def describe(self) -> str:
        """Return the verdict as a sentence."""
        numbers = f"{self.difference:+.4f}, 95 % interval {self.low:+.4f} to {self.high:+.4f}, p = {self.p:.3g}"
        if not self.real:
            return f"{self.metric}: no significant difference between {self.first} and {self.second} ({numbers})"
        better = self.first if (self.difference > 0) != is_smaller_better(f"val/{self.metric}") else self.second
        return f"{self.metric}: {better} is better; {self.first} minus {self.second} is {numbers}"


def judge(
    first: Group, second: Group, metric: str, draws: int = 1000, seed: int = 0, records: str = "val"
) -> list[Verdict]:
    """Compare two groups by `metric`, val/NAME, and by the other main scores of their records.

    `metric` comes first. If the records do not have it, only the others are compared. Raise UserError if a run has no records,
    if the records have fewer than LEAST images, if their images, classes or ground truth differ, if they belong to another
    evaluation than the newest scores of the run, or if they have none of the scores.
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
        raise UserError(
            f"{like.where} and the records of the other runs have no common score; compare runs of one task"
        )
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
    """Raise UserError unless records belong to the evaluation with the last scores of metrics.jsonl."""
    for name, values in scores.items():
        last = None if "/" in name else run.last(f"val/{name}")  # the means are enough
        if last is not None and abs(values[0] - last) > APART:
            raise UserError(
                f"{run.workdir / 'records' / 'val.jsonl'} and the last scores of metrics.jsonl come from two evaluations: "
                f"{name} is {values[0]:.4f} in the records and {last:.4f} there; resume the run until its next evaluation"
            )


def _drop_undefined(scores: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Leave out the draws in which a score is undefined. Return None if it is for all images or for most draws."""
    defined = np.all(~np.isnan(np.concatenate(scores)), axis=0)
    if not defined[0] or defined.mean() < 0.5:
        return None
    return [own[:, defined] for own in scores]


def estimate_difference(first: np.ndarray, second: np.ndarray, images: int) -> tuple[float, float, float, float]:
    """Return the difference of two groups' mean scores, the ends of its 95 % interval, and p.

    `first` [K,1+R] and `second` [L,1+R] are scores of K and L runs, on all `images` and then on R draws of them. R is 39 or
    more. With one run in each group the interval has the percentiles of the draws. With more runs it is Student's t. Its
    variance is the sum of the variances over the seeds of each group and over the images, with the degrees of freedom of Welch
    and Satterthwaite. A group of one run is assumed to have the other group's variance over the seeds.
    """
    groups = first, second
    apart = first.mean(0) - second.mean(0)
    difference, draws = float(apart[0]), np.sort(apart[1:])
    spreads = [own for own in map(_measure_seeds, groups) if own is not None]
    if not spreads:
        # The interval excludes 0 exactly if p is at most 1 - SHARE.
        place = int((1 - SHARE) / 2 * (len(draws) + 1)) - 1
        tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
        return difference, float(draws[place]), float(draws[-1 - place]), p
    shares = [1 / len(group) for group in groups]
    if len(spreads) < len(groups):  # one estimate for both groups, so one part of the variance
        shares = [sum(shares)]
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
    """Return the variance over a group's runs, the part of it that the choice of images causes, and its degrees of freedom.

    Return None for one run. The part is the variance of the runs' differences over the draws. The variance of the group's mean
    over the draws contains it, too.
    """
    count = len(scores)
    if count == 1:
        return None
    apart = scores[:, 1:] - scores[:, 1:].mean(0)
    return float(scores[:, 0].var(ddof=1)), float(apart.var(axis=1, ddof=1).sum() / (count - 1)), count - 1
