"""Batches are a function of the seed and their number, for any number of processes; evaluation sees all once."""

import collections
import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from input_pipeline.batch import IGNORE, check_batch
from input_pipeline.loader import TrainLoader, eval_batches, fit_image


class Squares:
    """A made source whose pictures tell their own index."""

    class_names = ("background", "square")
    fingerprint, dropped = "", ()

    def __init__(self, sizes):
        self.sizes = list(sizes)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        label = np.zeros(self.sizes[i], np.uint8)
        label[2:5, 1:6] = 1
        return {"image": np.full((*self.sizes[i], 3), i, np.uint8), "label": label}

    def name(self, i):
        return f"square_{i}"

    def size(self, i):
        return self.sizes[i]


def make_data(canvases=((8, 8),), fit="stretch", **augment):
    data = get_config().data
    data.update(image_size=(8, 8), canvases=canvases, fit=fit, prefetch=2)
    data.augment.update(augment)
    return data


def take(loader, count):
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


COLOURS = dict(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
STRONG = dict(scale=(0.7, 1.4), rotation=20.0, elastic=(1.0, 3.0), **COLOURS)
SOURCE = Squares([(10, 12)] * 7)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize("process_count", [2, 4])
def test_process_count_does_not_change_the_global_batches(process_count):
    data = make_data(**STRONG)
    whole = take(TrainLoader(SOURCE, data, batch_size=8, seed=3), 5)
    parts = [
        take(TrainLoader(SOURCE, data, batch_size=8, seed=3, process_index=i, process_count=process_count), 5)
        for i in range(process_count)
    ]
    for n, batch in enumerate(whole):
        check_batch(batch)
        assert_equal(batch, {key: np.concatenate([part[n][key] for part in parts]) for key in batch})


def test_the_state_is_the_number_of_the_next_batch():
    data = make_data(**STRONG)
    loader = TrainLoader(SOURCE, data, batch_size=3, seed=1)
    batches = []
    for n in range(6):
        assert loader.get_state() == n
        batches.append(next(loader))
    loader.set_state(2)
    assert loader.get_state() == 2
    for n in (2, 3, 4):
        assert_equal(next(loader), batches[n])
    loader.close()
    resumed = TrainLoader(SOURCE, data, batch_size=3, seed=1)
    resumed.set_state(5)
    assert_equal(next(resumed), batches[5])
    assert resumed.get_state() == 6
    resumed.close()


def test_threads_and_prefetch_do_not_change_the_batches():
    data = make_data(**STRONG)
    first = take(TrainLoader(SOURCE, data, batch_size=3, seed=1), 4)
    data.update(num_threads=1, prefetch=1)
    for one, other in zip(first, take(TrainLoader(SOURCE, data, batch_size=3, seed=1), 4), strict=True):
        assert_equal(one, other)


def test_each_epoch_is_a_new_order_of_all_examples():
    batches = take(TrainLoader(SOURCE, make_data(), batch_size=7, seed=0), 3)
    epochs = [batch["image_id"] for batch in batches]
    assert all(set(epoch) == set(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_augmentation_is_new_each_epoch_and_depends_on_the_seed():
    source, data = Squares([(10, 12)]), make_data(**STRONG)
    first, second = take(TrainLoader(source, data, batch_size=2, seed=0), 2)
    other = take(TrainLoader(source, data, batch_size=2, seed=1), 1)[0]
    assert (first["to_original"] != second["to_original"]).any()
    assert (first["to_original"] != other["to_original"]).any()


def test_fewer_examples_than_a_batch_are_repeated():
    batch = take(TrainLoader(Squares([(10, 12)] * 2), make_data(), batch_size=6, seed=0), 1)[0]
    assert collections.Counter(batch["image_id"].tolist()) == {0: 3, 1: 3}


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 11),
    rows=st.integers(1, 3),
    process_count=st.sampled_from([1, 2, 4]),
    canvases=st.sampled_from([((8, 8),), ((8, 8), (6, 12), (12, 6))]),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_evaluation_sees_every_image_once(count, rows, process_count, canvases, fit):
    source = Squares([(10, 10), (6, 13), (14, 7)][i % 3] for i in range(count))
    data, size = make_data(canvases=canvases, fit=fit), rows * process_count
    shards = [
        list(eval_batches(source, data, batch_size=size, process_index=i, process_count=process_count))
        for i in range(process_count)
    ]
    shapes = [[batch["image"].shape for batch in shard] for shard in shards]
    assert all(shape == shapes[0] for shape in shapes), "every process runs the same steps"
    seen = []
    for batch in itertools.chain(*shards):
        check_batch(batch)
        assert len(batch["image"]) == rows and batch["image"].shape[1:3] in canvases
        assert (batch["label"][~batch["example_mask"]] == IGNORE).all()
        for i in np.flatnonzero(batch["example_mask"]):
            seen.append(int(batch["image_id"][i]))
            assert tuple(batch["original_size"][i]) == source.size(seen[-1])
            pixels = batch["image"][i][batch["label"][i] != IGNORE]
            assert seen[-1] in pixels
    assert sorted(seen) == list(range(count))


def test_evaluation_never_augments():
    plain = list(eval_batches(SOURCE, make_data(flip=0.0), batch_size=4))
    for one, other in zip(plain, eval_batches(SOURCE, make_data(flip=1.0, **STRONG), batch_size=4), strict=True):
        assert_equal(one, other)


def test_evaluation_does_not_need_the_augment_fields():
    data = make_data()
    del data.augment
    assert sum(batch["example_mask"].sum() for batch in eval_batches(SOURCE, data, batch_size=4)) == 7


def test_an_abandoned_evaluation_ends():
    batches = eval_batches(SOURCE, make_data(), batch_size=1)
    next(iter(batches))
    batches.close()


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_to_original_leads_back(fit):
    """A point of the canvas and the point it maps to show the same colour."""
    y, x = np.mgrid[:40, :60]
    image = np.stack([4 * x, 6 * y, 0 * x], -1).astype(np.uint8)
    canvas, to_original, size = fit_image(image, make_data(canvases=((20, 20),), fit=fit))
    assert tuple(size) == (40, 60) and to_original.dtype == np.float32
    rows, columns = np.mgrid[:20, :20]
    points = np.stack([columns + 0.5, rows + 0.5, np.ones((20, 20))], -1) @ to_original.T
    inside = ((points > 2) & (points < (58, 38))).all(-1)
    assert inside.sum() > 100
    expected = (points[inside] - 0.5) * (4, 6)
    assert np.abs(canvas[inside][:, :2] - expected).max() < 4


def test_predict_sees_what_evaluation_sees():
    for i, batch in enumerate(eval_batches(SOURCE, make_data(fit="letterbox"), batch_size=1)):
        image, to_original, size = fit_image(SOURCE[i]["image"], make_data(fit="letterbox"))
        np.testing.assert_array_equal(image, batch["image"][0])
        np.testing.assert_array_equal(to_original, batch["to_original"][0])
        assert tuple(size) == tuple(batch["original_size"][0])


def test_an_open_loader_does_not_keep_the_interpreter_alive():
    program = """
        import numpy as np
        from configs.common import get_config
        from input_pipeline.loader import TrainLoader

        example = {"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8)}
        next(TrainLoader([example] * 4, get_config().data, batch_size=2, seed=0))
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr
