"""The error for a loss that is not finite names its likely cause."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from errors import UserError
from experiments.run.nonfinite import NonFinite
from experiments.run.weights_file import pack_weights, read_weights


def find_cause(steps: list[tuple[int, float, float]], images: int = 2, **fields: object) -> str:
    config = ConfigDict(
        {
            "data": {"mean": (127.5,) * 3, "std": (127.5,) * 3},
            "optim": {"lr": 0.01, "clip": 0.0},
            "pretrained": "",
            "init_from": "",
        }
    )
    config.update_from_flattened_dict(fields)
    watch = NonFinite(lambda index: f"image{index}", config, "seed=1: ")
    with pytest.raises(UserError) as caught:
        for step, loss, norm in steps:
            watch.push(step, {"loss": np.float32(loss), "grad_norm": np.float32(norm)}, np.arange(images))
        watch.drain()
    assert str(caught.value).startswith("seed=1: the ")
    return str(caught.value)


def test_at_step_1_the_settings_or_weights_are_named_and_no_image():
    """Images with integer pixels from 0 to 255, which are finite."""
    for fields in ({"data.std": (1e-9, 1.0, 1.0)}, {"data.mean": (1e20, 0.0, 0.0)}, {"data.mean": (0.0, -1e20, 0.0)}):
        cause = find_cause([(1, math.nan, 1.0)], **fields)
        assert "the loss of step 1 is nan; config.data.mean=" in cause and "set both near those of the images" in cause
        assert "image0" not in cause
    cause = find_cause([(1, 1.0, math.inf)], pretrained="x.safetensors")
    assert (
        "the gradient norm of step 1 is inf" in cause
        and "check config.pretrained=x.safetensors and the factors" in cause
    )
    assert "image0" not in cause and "config.data.mean" not in cause


def test_after_growth_the_learning_rate_is_named_and_no_image():
    cause = find_cause([(1, 2.0, 1.0), (2, 3e4, 5.0), (3, math.nan, math.nan)])
    assert "the loss of step 3 is nan; it was growing (one step before: the loss 3e+04, the gradient norm 5)" in cause
    assert "a lower config.optim.lr=0.01, or with config.optim.clip" in cause and "image0" not in cause


def test_without_growth_the_images_are_named_and_counted():
    cause = find_cause([(7, 2.0, 1.0), (8, math.nan, 1.0)], images=50, **{"optim.clip": 1.0})
    assert "one step before: the loss 2, the gradient norm 1; " in cause and "or with config.optim.clip" not in cause
    assert "0 (image0), 1 (image1)" in cause and "(and 42 more)" in cause
    assert "0 (image0)" in find_cause([(8, math.nan, 1.0)])  # the first step of a resumed run


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack_weights({"good": np.ones(3, np.float32), "bad": np.array([1, np.nan], np.float32)}))
    with pytest.raises(
        UserError, match="config.pretrained=.*x.safetensors holds values that are not finite, in bad; give"
    ):
        read_weights(path, "config.pretrained")
