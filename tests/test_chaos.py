"""Three rounds of chaos.py, which end like undisturbed runs. Run more with python -m tests.chaos."""

import pytest

from tests import chaos


@pytest.mark.slow
def test_three_rounds_end_like_undisturbed_runs(tmp_path, capsys):
    failed = chaos.main(["--rounds=3", "--seed=17", f"--folder={tmp_path}"])
    said = capsys.readouterr().out
    assert failed == 0 and "3 of 3 rounds identical" in said, said


def test_the_summary_counts_rounds_starts_and_kills():
    assert chaos.summarise(
        [
            {
                "scenario": "detection",
                "outcome": "identical",
                "starts": 3,
                "kills": 1,
                "faults": ["SIGKILL after 2.0 s"],
            },
            {"scenario": "detection", "outcome": "AssertionError", "starts": 2, "kills": 0, "faults": []},
        ],
        120.0,
    ) == (
        "detection         1 of   2 rounds identical,    5 starts\n"
        "1 of 2 rounds identical: 1 faults, 5 starts, 1 kills, 2 minutes"
    )
