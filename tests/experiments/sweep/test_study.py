"""The draws, the pruning and the storage of a study, without runs."""

import math
import statistics

import pytest

from configs import sweeps
from errors import UserError
from experiments.sweep.launch import Phase
from experiments.sweep.study import FAILURES, FILE, Study, describe_kind

pytestmark = pytest.mark.usefixtures("in_haste")
SPACE = {"lr": sweeps.log_uniform(1e-5, 10), "x": sweeps.uniform(-5, 5)}
SMALL = {"depth": sweeps.integers(2, 4), "norm": sweeps.choice([True, 1, None, "1.0", [2, 3]])}


def distance(values) -> float:
    """Return 0 at the optimum, lr=0.01 and x=1, and 1 or more at the edges."""
    return (math.log10(values["lr"]) + 2) ** 2 / 9 + (values["x"] - 1) ** 2 / 36


def carry_out(study: Study, total: int, judge=distance) -> list:
    """Take and score trials until there are `total`. Return all in their order."""
    while taken := study.take(1, total):
        study.finish(taken[0], {1: judge(taken[0].values)})
        study.release(taken[0])
    return study.trials()


def test_a_study_beats_random_draws_on_a_known_optimum(tmp_path):
    scores = [trial.score for trial in carry_out(Study(tmp_path, "a", SPACE, smaller_is_better=True), 24)]
    draws = [[distance(run) for run in sweeps.draw(24, SPACE, seed)] for seed in range(50)]
    assert min(scores) < 0.02 < statistics.median(map(min, draws))
    late, ever = statistics.median(scores[-10:]), statistics.median(map(statistics.median, draws))
    assert late < ever / 3, "after its first ten it draws near the optimum"


def test_draws_depend_on_results_and_not_on_the_launcher(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    one = carry_out(Study(tmp_path / "a", "a", SPACE, True), 13)
    for total in (1, 2, 11, 13):  # each total has its own launcher
        other = carry_out(Study(tmp_path / "b", "a", SPACE, True), total)
    assert [trial.values for trial in other] == [trial.values for trial in one]
    another = Study(tmp_path / "b", "b", SPACE, True, seed=1).take(2, 2)
    assert not {trial.key for trial in another} & {trial.key for trial in one}
    assert all(float(f"{trial.values['lr']:.4g}") == trial.values["lr"] for trial in one), "as people write numbers"


def test_values_are_returned_unchanged_and_never_drawn_twice(tmp_path):
    study = Study(tmp_path, "a", SMALL, smaller_is_better=False)
    trials = carry_out(study, 100, judge=lambda values: values["depth"])
    assert len({trial.key for trial in trials}) == len(trials) == 15 and "the 15 trials have all values" in study.end
    assert {repr(trial.values["norm"]) for trial in trials} == {"True", "1", "None", "'1.0'", "[2, 3]"}
    assert {type(trial.values["depth"]) for trial in trials} == {int}


def test_a_trial_worse_than_the_median_is_pruned(tmp_path):
    study = Study(tmp_path, "a", SPACE, smaller_is_better=False)
    for score in range(5):
        (trial,) = study.take(1, 9)
        assert study.report(trial, {10: score}, steps=30) == "", "the first five are the reference for others"
        study.finish(trial, {10: score, 20: score + 1, 30: None})
    good, bad, late = study.take(3, 9)
    assert study.report(good, {10: 2.5, 20: 3.0}, steps=30) == ""
    assert study.report(bad, {10: None, 20: 2.9, 30: 9.0}, steps=30) == "at step 20", "judged one after another"
    assert study.report(late, {30: -1.0}, steps=30) == "", "no step is left to save"
    trials = study.trials()
    assert [trial.score for trial in trials[:5]] == [1, 2, 3, 4, 5], "the best of all steps"
    assert (trials[6].phase, trials[6].note, trials[6].score) == (Phase.PRUNED, "at step 20", None)
    assert trials[5].phase is Phase.STOPPED is trials[7].phase


def test_an_undefined_score_is_a_failure_and_failures_are_repeated(tmp_path):
    study = Study(tmp_path, "a", SPACE, smaller_is_better=True)
    first, second = study.take(2, 2)
    assert "undefined" in study.finish(first, {1: None})
    study.fail(second, "error: no disk")
    assert [trial.note for trial in study.trials()] == ["the score was undefined at every step", "error: no disk"]
    assert study.take(1, 2) == [], "failed trials count"
    study.retry()
    again = study.take(2, 2)
    assert [trial.key for trial in again] == [first.key, second.key] and again[0].id > second.id
    study.finish(again[1], {1: 0.5})
    assert [trial.score for trial in study.trials()] == [None, 0.5]


def test_a_search_with_only_failures_ends(tmp_path):
    study = Study(tmp_path, "a", SPACE, smaller_is_better=True)
    for trial in study.take(FAILURES, 20):
        study.fail(trial, "no data")
    assert study.take(1, 20) == [] and f"{FAILURES} trials have failed" in study.end


def test_a_span_may_become_narrower_or_wider(tmp_path):
    carry_out(Study(tmp_path, "a", SPACE, True), 11)
    narrow = SPACE | {"lr": sweeps.log_uniform(1e-3, 0.1)}
    trials = carry_out(Study(tmp_path, "a", narrow, True), 14)
    assert len(trials) == 14 and all(1e-3 <= trial.values["lr"] <= 0.1 for trial in trials[11:])
    assert describe_kind("lr", narrow["lr"]) == describe_kind("lr", SPACE["lr"])
    assert describe_kind("lr", sweeps.uniform(1e-3, 0.1)) != describe_kind("lr", SPACE["lr"])


def test_studies_in_one_file_are_independent(tmp_path):
    carry_out(Study(tmp_path, "a", SPACE, True), 2)
    other = Study(tmp_path, "b", SMALL, False)
    assert other.trials() == [] and len(carry_out(other, 3, judge=lambda values: 1.0)) == 3
    assert len(Study(tmp_path, "a", SPACE, True).trials()) == 2


def test_damaged_file_and_repeated_choice_raise_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match="norm has the choice a twice"):
        Study(tmp_path, "a", {"norm": sweeps.choice(["a", "b", "a"])}, True)
    (tmp_path / FILE).write_text("no database " * 1000)
    with pytest.raises(UserError, match=f"{FILE}: file is not a database") as caught:
        Study(tmp_path, "a", SPACE, True)
    assert "\n" not in str(caught.value)
