"""R-CNN's later stages as runs, each from the one before: what they change, and that they survive a stop and a kill."""

import json
import signal
import types

import numpy as np
import pytest

from configs import sppnet_shapes, variants
from errors import UserError
from experiments.run import features
from experiments.run.checkpoints import Checkpoints
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def make_config(variant, **fields):
    config = sppnet_shapes.get_config(variant)
    config.model.update(fc=16)
    config.model.backbone = dict(name="vgg", layers=11, width=0.07, norm="none", momentum=0.9)  # compiles fast
    variants.debug(config)
    config.update(fields)
    return config


def make(config, workdir, data_dir):
    trainer = Trainer(config, workdir, data_dir, Preemption())
    workdir.mkdir(exist_ok=True)
    trainer.restore()
    return trainer


def read(workdir):
    """The variables of the newest checkpoint."""
    checkpoints = Checkpoints(workdir, read_only=True)
    arrays, _ = checkpoints.read("last")
    checkpoints.close()
    return {name.split(".", 1)[1]: value for name, value in arrays.items() if name.startswith(("params.", "rest."))}


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stages(tmp_path_factory, data_dir):
    """The runs of a network, which is not trained, and of the two stages on it; the second is stopped and killed first."""
    root = tmp_path_factory.mktemp("stages")
    workdirs = {name: root / name for name in ("network", "svm", "regression")}
    make(make_config("", train=dict(steps=0), optim=dict(warmup_steps=0)), workdirs["network"], data_dir).run(None)

    config = make_config("svm", init_from=str(workdirs["network"]))
    trainer = make(config, workdirs["svm"], data_dir)
    written = features.StoredFeatures.write

    def stop_after_one(stored, indices, arrays):
        trainer.stop.signal = signal.SIGTERM
        return written(stored, indices, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.StoredFeatures, "write", stop_after_one)
        trainer.run(None)
    stored = sorted(place.name for place in (workdirs["svm"] / "features").glob("*.npz"))
    assert stored == ["000000.npz"] and not rows(workdirs["svm"])
    trainer = make(config, workdirs["svm"], data_dir)

    def kill(*_, **__):
        raise Killed

    trainer.checkpoints.save = kill
    with pytest.raises(Killed):
        trainer.run(None)
    computed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.StoredFeatures, "write", lambda stored, indices, arrays: computed.append(indices))
        make(config, workdirs["svm"], data_dir).run(None)
    assert not computed, "all features were stored"

    make(make_config("regression", init_from=str(workdirs["svm"])), workdirs["regression"], data_dir).run(None)
    return workdirs


def test_a_run_of_no_steps_scores_and_saves_what_it_starts_with(stages):
    (row,) = rows(stages["network"])
    assert row["step"] == 0 and "val/AP50" in row and "train/loss" not in row
    assert Checkpoints(stages["network"], read_only=True).steps() == [0]


def test_each_stage_solves_for_its_own_variables_alone(stages):
    network, svm, regression = (read(stages[name]) for name in ("network", "svm", "regression"))
    for name in svm:
        if name.startswith("box_head/margins/"):
            assert np.isfinite(svm[name]).all() and np.abs(svm[name]).max() > 0
        elif name.startswith("box_head/offsets/"):
            assert not svm[name].any() and np.abs(regression[name]).max() > 0
        else:
            np.testing.assert_array_equal(svm[name], network[name])
        if not name.startswith("box_head/offsets/"):
            np.testing.assert_array_equal(svm[name], regression[name])


def test_each_stage_has_one_row_and_leaves_no_features(stages):
    for name, logged in (("svm", "objective"), ("regression", "explained")):
        (row,) = rows(stages[name])
        assert row["step"] == 0 and f"train/{logged}/circle" in row and "val/AP50" in row
        assert not (stages[name] / "features").exists()
        (session, *_) = json.loads((stages[name] / "evidence.json").read_text())["sessions"][-1:]
        assert session["last_step"] == 0


def test_boxes_of_the_regression_explain_their_targets(stages):
    """On objects of the training split: random features tell something, and never less than nothing."""
    (row,) = rows(stages["regression"])
    shares = [value for name, value in row.items() if name.startswith("train/explained/")]
    assert len(shares) == 5 and min(shares) >= 0 and max(shares) > 0.05


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(train=dict(steps=5)), "config.train.steps=5: config.task.name='svm' is solved for, not trained; write 0"),
        (dict(model=dict(head="softmax")), "which config.model.name='sppnet' has with config.model.head='svm' alone"),
    ],
)
def test_fields_that_do_not_go_with_a_stage_are_one_line(fields, words, tmp_path, data_dir):
    with pytest.raises(UserError, match=words):
        make(make_config("svm", **fields), tmp_path / "run", data_dir)


def test_features_of_other_weights_are_refused(tmp_path, stages, data_dir):
    workdir = tmp_path / "run"
    trainer = make(make_config("svm", init_from=str(stages["network"])), workdir, data_dir)
    features._claim(workdir / "features", {"weights": "other", "data": trainer.source.fingerprint})
    with pytest.raises(UserError, match="holds features of other weights or data"):
        trainer.run(None)


def test_a_disk_without_room_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2**30))
    with pytest.raises(UserError, match=r"the features of 5000 images need 40\.0 GiB more .* has 1\.0 GiB left"):
        features._check_room(tmp_path, 40 * 2**30, 5000)
