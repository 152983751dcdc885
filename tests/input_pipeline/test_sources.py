"""Sources: splits and slices, clear errors, the Pet set's classes, and preparing by two processes at once."""

import multiprocessing
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.common import get_config
from input_pipeline import sources
from input_pipeline.batch import DataError
from input_pipeline.datasets import shapes

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data beside the repository")


def make_data(**fields):
    data = get_config().data
    data.update(fields)
    return data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "EXAMPLES", {"train": 12, "validation": 5})
        sources.prepare("shapes", folder)
    return folder


@given(st.integers(0, 50), st.none() | st.integers(-60, 60), st.none() | st.integers(-60, 60))
def test_slices_are_those_of_python(count, first, last):
    def show(bound):
        return "" if bound is None else str(bound)

    name, select = sources.parse_split(f"train[{show(first)}:{show(last)}]")
    assert name == "train"
    assert list(select(count)) == list(range(count))[first:last]


@given(st.integers(0, 500), st.integers(0, 100))
def test_percentages_part_a_split_without_gap_or_overlap(count, percent):
    parts = [sources.parse_split(f"train[{bounds}]")[1](count) for bounds in (f":{percent}%", f"{percent}%:")]
    assert [*parts[0], *parts[1]] == list(range(count))


@pytest.mark.parametrize("split", ["", "train[", "train[1]", "train[a:b]", "train[1:2:3]"])
def test_a_malformed_split_is_refused(split):
    with pytest.raises(DataError, match="split"):
        sources.parse_split(split)


def test_an_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="image_mask, oxford_iiit_pet, shapes, voc_segmentation"):
        sources.open_source(make_data(name="shape"), "train", str(tmp_path))


def test_an_unknown_split_lists_the_known_ones(prepared):
    with pytest.raises(DataError, match="train, validation"):
        sources.open_source(make_data(name="shapes"), "test", str(prepared))


def test_slices_of_a_prepared_set(prepared):
    data = make_data(name="shapes")
    whole = sources.open_source(data, "train", str(prepared))
    part = sources.open_source(data, "train[3:6]", str(prepared))
    assert len(whole) == 12 and [part.name(i) for i in range(3)] == [whole.name(i) for i in range(3, 6)]
    np.testing.assert_array_equal(part[1]["image"], whole[4]["image"])
    assert part.size(1) == whole[4]["label"].shape
    assert whole.fingerprint != part.fingerprint
    assert whole.fingerprint == sources.open_source(data, "train", str(prepared)).fingerprint


def test_examples_are_decoded(prepared):
    source = sources.open_source(make_data(name="shapes"), "validation", str(prepared))
    image, instances, labels = shapes.draw_example(np.random.default_rng((1, 2)))
    np.testing.assert_array_equal(source[2]["image"], image)
    np.testing.assert_array_equal(source[2]["label"], np.array([0, *(labels + 1)])[instances])
    assert source.class_names == shapes.CLASS_NAMES


def test_the_environment_names_the_folder(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(sources.open_source(make_data(name="shapes"), "validation", None)) == 5


def _prepare(folder, queue):
    shapes.EXAMPLES = {"train": 4, "validation": 2}
    queue.put(str(sources.prepare("shapes", folder)))


def test_two_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_prepare, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    folders = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(folders) == 1
    assert len(sources.open_source(make_data(name="shapes"), "train", str(tmp_path))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@needs_data
def test_pet_classes_are_pet_background_border():
    source = sources.open_source(make_data(name="oxford_iiit_pet"), "train[:20]", str(REAL / "tfds"))
    assert source.class_names == ("pet", "background", "border") and len(source) == 20
    counts = sum(np.bincount(source[i]["label"].ravel(), minlength=256) for i in range(20))
    assert counts[3:].sum() == 0
    assert counts[2] < counts[0] < counts[1], "the border is thin, and most of a picture is background"
    corners = [source[i]["label"][0, 0] for i in range(20)]
    assert np.median(corners) == 1


def test_every_adapter_is_whole():
    for name, adapter in sources.ADAPTERS.items():
        assert bool(adapter.builder) != bool(adapter.url), f"{name} is made by us or comes from somewhere"
        if adapter.builder:
            assert str(adapter.load_builder().VERSION) == adapter.version
            assert adapter.load_builder().name == name
            assert hasattr(adapter.load_builder(), "identify") == adapter.over_folder


def test_nobody_counted_the_classes_of_a_prepared_set(prepared):
    assert sources.open_source(make_data(name="shapes"), "validation", str(prepared)).absent == ()


def test_the_newest_version_is_taken_where_any_will_do(tmp_path):
    for version in ("3.2.0", "4.0.0", "10.0.0"):
        (tmp_path / "oxford_iiit_pet" / version).mkdir(parents=True)
        (tmp_path / "oxford_iiit_pet" / version / "dataset_info.json").touch()
    assert sources.find_prepared("oxford_iiit_pet", tmp_path).name == "10.0.0"
    (tmp_path / "shapes" / "0.9.0").mkdir(parents=True)
    (tmp_path / "shapes" / "0.9.0" / "dataset_info.json").touch()
    assert sources.find_prepared("shapes", tmp_path) is None
