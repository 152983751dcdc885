"""The remark about the detections of a picture."""

import numpy as np
import pytest

from experiments.pictures.scores import describe_none, describe_shown, keep_confident


@pytest.mark.parametrize(
    ("scores", "least", "said"),
    [
        ([], 0.25, "no detection"),
        ([0.1, 0.13], 0.25, "best 0.13, none of 0.25 or more"),
        ([0.2499], 0.25, "best 0.2499, none of 0.25 or more"),
        ([0.1, 0.25], 0.25, "scores of 0.25 or more"),
        ([0.3], 0.5, "best 0.30, none of 0.5 or more"),
    ],
)
def test_the_remark_names_the_threshold(scores, least, said):
    scores = np.array(scores, np.float32)
    assert describe_shown(scores, least) == said
    assert describe_none(scores, least) == ("" if "scores" in said else said)
    assert len(keep_confident({"scores": scores}, least)["scores"]) == ("scores" in said)
