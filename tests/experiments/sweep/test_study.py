"""What is drawn, and what survives in the file: a study without runs."""

import random
import statistics

import pytest

from configs import sweeps
from errors import UserError
from experiments.sweep.launch import Phase
from experiments.sweep.study import FAILURES, FILE, Study

SPACE = {"lr": sweeps.log_uniform(1e-5, 10), "x": sweeps.uniform(-5, 5)}


def distance(values) -> float:
    """Return 0 at the optimum, lr=0.01 and x=1, and less than 0.1 near it."""
    return (random_free_log(values["lr"]) + 2) ** 2 / 9 + (values["x"] - 1) ** 2 / 36


def random_free_log(value: float) -> float:
    import math

    return math.log10(value)


def carry_out(study: Study, total: int) -> list:
    """Give each trial of the study its score."""
    while taken := study.take(1, total):
        (trial,) = taken
        study.finish(trial, {1: distance(trial.values)})
        study.release(trial)
    return study.trials()


def test_it_finds_a_known_optimum_as_random_draws_do_not(tmp_path):
    import time
    t=time.time()
    trials = carry_out(Study(tmp_path, "a", SPACE, smaller_is_better=True), 35)
    print(time.time()-t)
    found = min(trial.score for trial in trials)
    at_random = [min(map(distance, sweeps.draw(35, SPACE, seed))) for seed in range(50)]
    print(found, statistics.median(at_random), sorted(at_random)[:5])
