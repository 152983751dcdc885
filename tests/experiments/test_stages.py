"""Runs of R-CNN's later stages, each from its predecessor, with a stop and a kill."""

import json
import signal
import types

import numpy as np
import pytest

from configs import common, datasets, detectors, sppnet_shapes, variants
from errors import UserError
from experiments.run import features, sharding
from experiments.run.checkpoints import Checkpoints
from experiments.run.directory import claim
from experiments.run.inference import Interrupted
from experiments.run.preemption import Preemption
from experiments.run.trainer import Trainer
from files import claim_folder
from tests.experiments.test_detection import Scenes


class Killed(BaseException):
    """A stand-in for a kill. No code may catch it."""


def make_config(variant, **fields):
    config = sppnet_shapes.get_config(variant)
    config.model.update(fc=16)
    config.model.backbone = dict(name="vgg", layers=11, width=0.07, norm="none", momentum=0.9)  # compiles fast
    variants.debug(config)
    config.update(fields)
    return config


def make(config, workdir, data_dir):
    trainer = Trainer(config, workdir, data_dir, Preemption())
    with claim(workdir, config):
        trainer.restore()
    return trainer


def read(workdir):
    """Return the variables in the newest checkpoint."""
    checkpoints = Checkpoints(workdir, read_only=True)
    arrays, _ = checkpoints.read("last")
    checkpoints.close()
    return {name.split(".", 1)[1]: value for name, value in arrays.items() if name.startswith(("params.", "rest."))}


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stages(tmp_path_factory, data_dir):
    """Run an untrained network and two stages on it. The first stage is stopped once and killed once."""
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
    workdirs["undisturbed"] = root / "undisturbed"
    make(config, workdirs["undisturbed"], data_dir).run(None)
    return workdirs


@pytest.mark.slow
def test_a_run_of_no_steps_scores_and_saves_its_initial_weights(stages):
    (row,) = rows(stages["network"])
    assert row["step"] == 0 and "val/AP50" in row and "train/loss" not in row
    assert Checkpoints(stages["network"], read_only=True).steps() == [0]


@pytest.mark.slow
def test_each_stage_changes_only_its_own_variables(stages):
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


@pytest.mark.slow
def test_a_stopped_and_killed_stage_has_the_same_result(stages):
    disturbed, undisturbed = read(stages["svm"]), read(stages["undisturbed"])
    assert disturbed.keys() == undisturbed.keys()
    for name in disturbed:
        np.testing.assert_array_equal(disturbed[name], undisturbed[name])


@pytest.mark.slow
def test_each_stage_has_one_row_and_leaves_no_features(stages):
    for name, logged in (("svm", "objective"), ("regression", "explained")):
        (row,) = rows(stages[name])
        assert row["step"] == 0 and f"train/{logged}/circle" in row and "val/AP50" in row
        assert not (stages[name] / "features").exists()
        (session, *_) = json.loads((stages[name] / "evidence.json").read_text())["sessions"][-1:]
        assert session["last_step"] == 0


@pytest.mark.slow
def test_the_box_regression_explains_its_targets(stages):
    """On objects of the training split, random features explain a part of the targets that is never negative."""
    (row,) = rows(stages["regression"])
    shares = [value for name, value in row.items() if name.startswith("train/explained/")]
    assert len(shares) == 5 and min(shares) >= 0 and max(shares) > 0.05


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(train=dict(steps=5)), "config.train.steps=5: config.task.name='svm' is solved for, not trained; use 0"),
        (dict(model=dict(head="softmax")), "config.model.name='sppnet' does not have; set config.model.head='svm'"),
    ],
)
def test_invalid_fields_of_a_stage_raise_a_one_line_error(fields, words, tmp_path, data_dir):
    with pytest.raises(UserError, match=words):
        make(make_config("svm", **fields), tmp_path / "run", data_dir)


@pytest.mark.slow
def test_a_stage_without_its_predecessor_is_refused(tmp_path, stages, data_dir):
    with pytest.raises(UserError, match="needs trained values of box_head/margins/kernel, which are zero"):
        make(make_config("regression", init_from=str(stages["network"])), tmp_path / "run", data_dir)


def test_features_of_each_object_are_stored_once(tmp_path, monkeypatch):
    """The 21 images have two canvases and partly filled batches. Objects are stored in the order of blocks."""
    monkeypatch.setattr(features, "BLOCK", 8)
    source, stop = Scenes([(24, 36), (36, 24), (24, 36)] * 7), Preemption()
    config = common.get_config()
    detectors.use_light_ssd(config)
    datasets.use_boxes(config, (24, 36))
    config.data.update(max_boxes=4, canvases=((24, 36), (36, 24)))
    config.eval.batch_size = 4
    task = types.SimpleNamespace(
        needs=("boxes",),
        describe=lambda model, batch: ({"box": batch["boxes"], "class": batch["classes"]}, batch["valid"]),
    )
    architecture = types.SimpleNamespace(merge=lambda variables: None)
    mesh, variables = sharding.make_mesh((1, -1, 1)), {"w": np.ones(2, np.float32)}
    stored = features.store_features(config, task, architecture, variables, source, mesh, tmp_path, stop)
    assert stored.compilations == 2 and not stop.nothing_to_lose and len(list(stored)) == 3
    for number, block in enumerate(stored):
        wanted = [source.objects(index)[1] for index in range(len(source))[8 * number : 8 * number + 8]]
        boxes = np.concatenate([own["boxes"] for own in wanted])
        assert sorted(block["box"].tolist()) == sorted(np.float32(boxes).tolist())
        assert sorted(block["class"]) == sorted(np.concatenate([own["classes"] for own in wanted]))
    before = [place.stat().st_mtime_ns for place in sorted(tmp_path.glob("*.npz"))]
    (tmp_path / "000001.npz").unlink()
    again = features.store_features(config, task, architecture, variables, source, mesh, tmp_path, stop)
    after = [place.stat().st_mtime_ns for place in sorted(tmp_path.glob("*.npz"))]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    (tmp_path / "000002.npz").write_bytes((tmp_path / "000002.npz").read_bytes()[:200])
    with pytest.raises(UserError, match=r"000002\.npz is damaged .*; move it away and start again to make a new one"):
        [block["box"] for block in again]
    stop.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        next(iter(again))
    config.data.update(fit="crop", canvases=((32, 32),))
    source = Scenes([(64, 72)])
    with pytest.raises(UserError, match="in several windows"):
        features.store_features(config, task, architecture, variables, source, mesh, tmp_path / "b", Preemption())


@pytest.mark.slow
def test_features_of_other_weights_are_refused(tmp_path, stages, data_dir):
    workdir = tmp_path / "run"
    trainer = make(make_config("svm", init_from=str(stages["network"])), workdir, data_dir)
    claim_folder(workdir / "features", {"weights": "other", "data": trainer.source.fingerprint}, "")
    with pytest.raises(UserError, match="holds features of other weights or data"):
        trainer.run(None)


def test_too_little_disk_space_raises_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=2**30))
    with pytest.raises(UserError, match=r"the features of 5000 images need 40\.0 GiB more .* has 1\.0 GiB left"):
        features._check_room(tmp_path, 40 * 2**30, 5000)
