"""Batches are a function of the seed and their number, for any number of processes."""

import collections
import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from configs.common import get_config
from input_pipeline.batch import IGNORE, DataError, check_batch
from input_pipeline.loader import TrainLoader


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


def test_a_weight_map_travels_with_the_crop():
    """Two objects a pixel apart: whatever the crop, the weight is high where the label says background between them."""

    class Pair(Squares):
        def __getitem__(self, i):
            instances = np.zeros(self.sizes[i], np.int32)
            instances[:, 2:6], instances[:, 8:12] = 1, 2
            return {"image": np.zeros((*self.sizes[i], 3), np.uint8), "label": (instances > 0).astype(np.uint8)} | {
                "instances": instances
            }

    source, data = Pair([(16, 16)]), make_data(fit="crop")
    data.update(image_size=(16, 16), weight_map=(10.0, 2.0))
    with pytest.raises(DataError, match="folder.instances"):
        TrainLoader(SOURCE, data, batch_size=2, seed=0)
    for batch in take(TrainLoader(source, data, batch_size=2, seed=0), 3):
        check_batch(batch)
        between = np.zeros((2, 16, 16), bool)
        between[:, :, 6:8] = True  # the gap is in the middle, so a flip leaves it there
        between[batch["to_original"][:, 0, 0] < 0] = between[0][:, ::-1]
        assert batch["weight_map"].dtype == np.float32
        assert ((batch["weight_map"] > 3) == between).all()
        assert (batch["weight_map"][batch["label"] == 1] == 1).all()


def test_a_crop_keeps_the_scale_and_reaches_every_border():
    """Also with a margin: every row and column of the image comes into the part that has labels."""
    image = np.arange(24 * 30, dtype=np.uint8).reshape(24, 30)
    seen = np.zeros(image.shape, bool)

    class Counted(Squares):
        def __getitem__(self, i):
            return {"image": np.repeat(image[..., None], 3, -1), "label": np.zeros(image.shape, np.uint8)}

    data = make_data(fit="crop", flip=0.0)
    data.update(image_size=(16, 20), margin=4, border="mirror")
    for batch in take(TrainLoader(Counted([image.shape]), data, batch_size=8, seed=0), 40):
        for label, matrix in zip(batch["label"], batch["to_original"], strict=True):
            assert np.allclose(matrix[:, :2], np.eye(2))
            rows, columns = np.mgrid[4:12, 4:16][:, label[4:12, 4:16] != IGNORE] + 0.5
            seen[(rows + matrix[1, 2]).astype(int), (columns + matrix[0, 2]).astype(int)] = True
    assert seen.any(0).all() and seen.any(1).all()


def test_an_image_smaller_than_the_crop_is_padded_and_labelled_only_where_it_is():
    for border in ("mean", "mirror"):
        data = make_data(fit="crop", flip=0.0)
        data.update(image_size=(9, 9), border=border)
        batch = take(TrainLoader(Squares([(1, 1)]), data, batch_size=1, seed=0), 1)[0]
        assert (batch["label"] != IGNORE).sum() == 1
        colours = set(np.unique(batch["image"]).tolist())
        assert colours == ({0} if border == "mirror" else {0, 128})
