"""Edge cases of images, batches and the network."""

import io
import pathlib
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from configs.common import get_config
from errors import UserError
from input_pipeline import sources
from input_pipeline.augment import geometry
from input_pipeline.batch import IGNORE
from input_pipeline.datasets import shapes
from input_pipeline.loader import TrainLoader
from input_pipeline.truths import make_truth
from input_pipeline.views import ViewBatches

EXAMPLE = {"image": np.zeros((8, 8, 3), np.uint8), "label": np.zeros((8, 8), np.uint8)}


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_stretched_image_has_no_fill_at_its_edge(source, output):
    matrix = geometry.fit(source, output, "stretch")
    image = geometry.warp_image(np.full((*source, 3), 255, np.uint8), matrix, output, (0, 0, 0))
    label = geometry.warp_label(np.zeros(source, np.uint8), matrix, output)
    assert (image == 255).all() and (label == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_fill_and_ignore_cover_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    augment = get_config().data.augment
    augment.update(scale=(0.3, 1.5), rotation=90.0, aspect=1.5)
    matrix = geometry.draw_geometry(rng, (24, 24), augment) @ geometry.fit((30, 40), (24, 24), "letterbox")
    image = geometry.warp_image(np.full((30, 40, 3), 255, np.uint8), matrix, (24, 24), (0, 0, 0))
    label = geometry.warp_label(np.zeros((30, 40), np.uint8), matrix, (24, 24))
    assert ((image == 0).all(-1) == (label == IGNORE)).all()
    assert ((image == 255).all(-1) == (label == 0)).all()


@given(st.integers(1, 80), st.integers(1, 80))
def test_nearest_sampling_reads_the_pixel_that_contains_the_point(source, output):
    label = np.arange(source, dtype=np.uint8)[None].repeat(2, 0)
    result = geometry.warp_label(label, geometry.fit((2, source), (2, output), "stretch"), (2, output))
    np.testing.assert_array_equal(result[0], (2 * np.arange(output) + 1) * source // (2 * output))


def test_each_axis_is_averaged_by_its_own_scale():
    stripes = np.zeros((64, 640, 3), np.uint8)
    stripes[:, ::4] = 200
    image = geometry.warp_image(stripes, geometry.fit((64, 640), (64, 80), "stretch"), (64, 80), (0, 0, 0))
    assert (image == 50).all()


def test_letterbox_lies_on_whole_pixels():
    image = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    matrix = geometry.fit((90, 131), (131, 131), "letterbox")
    np.testing.assert_array_equal(geometry.warp_image(image, matrix, (131, 131), (0, 0, 0))[20:110], image)


def test_loader_supports_one_row_per_process():
    data = get_config().data
    loader = TrainLoader([EXAMPLE] * 3, make_truth(("label",), data), data, batch_size=1, seed=0)
    assert sorted(int(next(loader)["image_id"][0]) for _ in range(3)) == [0, 1, 2]
    loader.close()


def test_batch_size_that_processes_do_not_divide_raises_an_error():
    data = get_config().data
    truth = make_truth(("label",), data)
    with pytest.raises(UserError, match="divide"):
        TrainLoader([EXAMPLE] * 5, truth, data, batch_size=5, seed=0, process_count=2)
    with pytest.raises(UserError, match="divide"):
        config = get_config()
        config.eval.batch_size = 5
        ViewBatches([EXAMPLE] * 5, truth, config.data, config.eval, process_count=2)


def test_black_and_white_masks_are_not_silently_ignored(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "set/train" / kind).mkdir(parents=True)
    (tmp_path / "set/classes.txt").write_text("background\ncell\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "set/train/images/a.png")
    Image.fromarray(np.eye(4, dtype=np.uint8) * np.uint8(255)).save(tmp_path / "set/train/masks/a.png")
    data = get_config().data
    data.name, data.folder.root = "image_mask", str(tmp_path / "set")
    with pytest.raises(UserError, match="`cell 255 255 255`"):
        sources.open_source(data, "train", str(tmp_path), ("label",))


def test_empty_slice_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "EXAMPLES", {"train": 2})
    with pytest.raises(UserError, match="no example"):
        sources.open_source(get_config().data, "train[2:]", str(tmp_path), ("label",))


def test_missing_network_is_reported_immediately(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    data = get_config().data
    data.name = "oxford_iiit_pet"
    start = time.monotonic()
    with pytest.raises(UserError, match="tfds_data_dir") as caught:
        sources.open_source(data, "train", str(tmp_path / "none"), ("label",))
    assert "\n" not in str(caught.value) and time.monotonic() - start < 20
    assert not (tmp_path / "none").exists()


def test_pet_dataset_is_prepared_without_tensorflow(tmp_path, monkeypatch):
    """The archives are like the real ones. They hold a GIF named .jpg, for which tfds alone would need TensorFlow."""
    images, annotations = tmp_path / "archives/images/images", tmp_path / "archives/annotations/annotations"
    (annotations / "trimaps").mkdir(parents=True)
    images.mkdir(parents=True)
    for name, kind in (("Abyssinian_1", "JPEG"), ("Egyptian_Mau_139", "GIF")):
        Image.new("RGB", (6, 4)).save(images / f"{name}.jpg", kind)
        Image.fromarray(np.array([[1, 2, 3, 1, 2, 3]] * 4, np.uint8)).save(annotations / f"trimaps/{name}.png")
    (annotations / "trainval.txt").write_text("Abyssinian_1 1 1 1\nEgyptian_Mau_139 12 1 1\n")
    (annotations / "test.txt").write_text("Abyssinian_1 1 1 1\n")

    import tensorflow_datasets as tfds

    def unpack(_, urls):
        return {key: pathlib.Path(tmp_path / "archives" / key) for key in urls}

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", unpack)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())
    data = get_config().data
    data.name = "oxford_iiit_pet"
    source = sources.open_source(data, "train", str(tmp_path / "tfds"), ("label",))
    assert len(source) == 2
    for i in range(2):
        np.testing.assert_array_equal(source[i]["label"], [[0, 1, 2, 0, 1, 2]] * 4)
        assert source[i]["image"].shape == (4, 6, 3)
