"""Sources have splits, slices and one-line errors, and two processes can prepare a dataset at the same time."""

import dataclasses
import multiprocessing
import pathlib

import numpy as np
import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline import sources
from input_pipeline.datasets import oxford_iiit_pet, shapes
from input_pipeline.datasets import prepared as prepared_sets
from input_pipeline.datasets import voc as tfds_voc
from input_pipeline.datasets.image_mask import ImageMask
from input_pipeline.datasets.registry import DATASETS, find_dataset
from input_pipeline.decoding import encode_png
from input_pipeline.preparation import Built, BuiltFromFolder, ByTensorFlow, Downloaded, find_prepared, prepare
from tests.input_pipeline.test_masks import whole

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="needs the real data next to the repository")


def make_data(**fields):
    data = get_config().data
    data.update(fields)
    return data


def open_source(data, split, place, *needs):
    return sources.open_source(data, split, place and str(place), needs or ("label",))


def prepare_shapes(folder):
    return prepare("shapes", shapes.SHAPES.preparation, folder, get_config().data.folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "EXAMPLES", {"train": 12, "validation": 5})
        prepare_shapes(folder)
    return folder


def test_error_for_an_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(
        UserError, match="coco/2017, coco_folder, image_mask, .*shapes, .*voc_segmentation, yolo_folder"
    ):
        open_source(make_data(name="shape"), "train", tmp_path)


def test_error_for_an_unknown_split_lists_the_known_ones(prepared):
    with pytest.raises(UserError, match="train, validation"):
        open_source(make_data(name="shapes"), "test", prepared)


def test_slices_of_a_prepared_dataset_have_the_expected_examples(prepared):
    data = make_data(name="shapes")
    whole = open_source(data, "train", prepared)
    part = open_source(data, "train[3:6]", prepared)
    assert len(whole) == 12 and [part.name(i) for i in range(3)] == [whole.name(i) for i in range(3, 6)]
    np.testing.assert_array_equal(part[1]["image"], whole[4]["image"])
    assert part.size(1) == whole[4]["label"].shape
    assert whole.fingerprint != part.fingerprint
    assert whole.fingerprint == open_source(data, "train", prepared).fingerprint


def test_examples_are_decoded(prepared):
    source = open_source(make_data(name="shapes"), "validation", prepared)
    image, instances, labels = shapes.draw_example(np.random.default_rng((1, 2)))
    np.testing.assert_array_equal(source[2]["image"], image)
    np.testing.assert_array_equal(source[2]["label"], np.array([0, *(labels + 1)])[instances])
    assert source.class_names == shapes.CLASS_NAMES


def test_environment_variable_names_the_folder(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(open_source(make_data(name="shapes"), "validation", None)) == 5


def _prepare(folder, queue):
    shapes.EXAMPLES = {"train": 4, "validation": 2}
    queue.put(str(prepare_shapes(folder)))


@pytest.mark.slow
def test_two_processes_can_prepare_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_prepare, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    folders = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(folders) == 1
    assert len(open_source(make_data(name="shapes"), "train", tmp_path)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@needs_data
def test_pet_classes_are_pet_background_border():
    source = open_source(make_data(name="oxford_iiit_pet"), "train[:20]", REAL / "tfds")
    assert source.class_names == ("pet", "background", "border") and len(source) == 20
    counts = sum(np.bincount(source[i]["label"].ravel(), minlength=256) for i in range(20))
    assert counts[3:].sum() == 0
    assert counts[2] < counts[0] < counts[1], "the border is thin, and most of an image is background"
    corners = [source[i]["label"][0, 0] for i in range(20)]
    assert np.median(corners) == 1


@pytest.mark.parametrize("name", DATASETS)
def test_every_registered_dataset_is_complete(name):
    dataset = find_dataset(name)
    assert set(dataset.provides) <= sources.ASKED_BY.keys()
    if dataset is ImageMask:
        return
    how = dataset.preparation
    assert isinstance(how, Built | Downloaded | ByTensorFlow)
    assert ("label" in dataset.provides) == bool(dataset.class_names)
    assert "boxes" in dataset.provides or "masks" not in dataset.provides
    if isinstance(how, Built):
        assert str(how.builder.VERSION) == how.version
        assert how.builder.name == name
        assert hasattr(how.builder, "identify") == isinstance(how, BuiltFromFolder)


def test_absent_classes_of_a_prepared_dataset_are_not_counted(prepared):
    assert open_source(make_data(name="shapes"), "validation", prepared).absent == ()


def test_newest_version_is_used_if_any_version_fits(tmp_path):
    folder = get_config().data.folder
    for version in ("3.2.0", "4.0.0", "10.0.0"):
        (tmp_path / "oxford_iiit_pet" / version).mkdir(parents=True)
        (tmp_path / "oxford_iiit_pet" / version / "dataset_info.json").touch()
    assert (
        find_prepared("oxford_iiit_pet", oxford_iiit_pet.OXFORD_IIIT_PET.preparation, tmp_path, folder).name == "10.0.0"
    )
    (tmp_path / "shapes" / "0.9.0").mkdir(parents=True)
    (tmp_path / "shapes" / "0.9.0" / "dataset_info.json").touch()
    assert find_prepared("shapes", shapes.SHAPES.preparation, tmp_path, folder) is None


@pytest.mark.parametrize(
    ("name", "need", "words"),
    [
        ("oxford_iiit_pet", "boxes", "name='oxford_iiit_pet' has only label; .*coco_folder.*shapes"),
        ("voc_folder", "masks", "name='voc_folder' has only boxes; .*coco_folder, image_mask, shapes, yolo_folder"),
        ("shapes", "instances", "data.weight_map .*'shapes' has only label and boxes and masks; .*image_mask"),
        ("coco/2017", "masks", "name='coco/2017' has only boxes; .*coco_folder"),
        ("voc_folder", "label", "name='voc_folder' has only boxes; .*voc_segmentation"),
    ],
)
def test_ground_truth_that_a_dataset_lacks_raises_an_error(tmp_path, name, need, words):
    with pytest.raises(UserError, match=words) as caught:
        open_source(make_data(name=name), "train", tmp_path, need)
    assert "\n" not in str(caught.value)


def test_shapes_has_boxes_and_masks_of_the_figures(prepared):
    source = open_source(make_data(name="shapes"), "train", prepared, "boxes", "masks")
    boxes = open_source(make_data(name="shapes"), "train", prepared, "boxes")
    labels = open_source(make_data(name="shapes"), "train", prepared)
    assert source.class_names == shapes.FIGURES and source.category_ids == (1, 2, 3, 4, 5)
    assert source.bad_boxes == source.dropped == () and source.image_id(3) == 4 and labels.image_id(3) == 4
    assert labels.category_ids == (1, 2, 3, 4, 5, 6) and source.fingerprint == labels.fingerprint
    for i in range(len(source)):
        image, instances, figures = shapes.draw_example(np.random.default_rng((0, i)))
        example = source[i]
        expected = shapes.find_boxes(instances)
        np.testing.assert_array_equal(example["image"], image)
        np.testing.assert_array_equal(example["boxes"], expected)
        np.testing.assert_array_equal(example["classes"], figures)
        expected_masks = [instances == number for number in range(1, len(figures) + 1)]
        np.testing.assert_array_equal(whole(example["masks"], instances.shape), expected_masks)
        np.testing.assert_array_equal(example["area"], np.prod(expected[:, 2:] - expected[:, :2], axis=1))
        assert not example["crowd"].any() and not example["difficult"].any()
        dtypes = {key: str(values.dtype) for key, values in example.items() if key != "masks"}
        flags = {"crowd": "bool", "difficult": "bool"}
        assert dtypes == {"image": "uint8", "boxes": "float64", "classes": "int32", "area": "float64"} | flags
        size, objects = boxes.objects(i)
        assert size == boxes.size(i) == instances.shape and boxes.find_bad_boxes(i) == ()
        assert objects.keys() == example.keys() - {"image", "masks"} == boxes[i].keys() - {"image"}
        for key, values in objects.items():
            np.testing.assert_array_equal(values, example[key])


def test_proposals_are_added_to_the_objects_of_a_dataset(prepared, tmp_path, monkeypatch):
    """It works for any dataset. The config names the dataset, and --tfds_data_dir the place."""

    def open_proposals(source, data, split, place):
        assert source.needs == ("boxes",) and (data.name, split, place) == ("shapes", "train[:2]", prepared)
        return [source[0] | {"proposals": np.zeros((3, 4), np.float32)}]

    monkeypatch.setattr(sources, "open_proposals", open_proposals)
    (example,) = open_source(make_data(), "shapes:train[:2]", prepared, "boxes", "proposals")
    assert len(example["boxes"]) and len(example["proposals"]) == 3
    with pytest.raises(UserError, match="needs boxes"):
        open_source(make_data(name="oxford_iiit_pet"), "train", tmp_path, "boxes", "proposals")


def test_reading_objects_does_not_decode_the_image(prepared, monkeypatch):
    source = open_source(make_data(name="shapes"), "train", prepared, "boxes", "masks")
    monkeypatch.setattr(prepared_sets, "decode_image", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(shapes, "decode_mask", lambda *_: pytest.fail("decoded"))
    assert len(source.objects(0)[1]["boxes"]) and source.find_bad_boxes(0) == ()


@pytest.mark.parametrize("name", ["coco/2017", "voc/2007", "voc/2012"])
def test_error_explains_how_to_prepare_a_dataset_that_needs_tensorflow(tmp_path, name):
    command = f"tfds build {name} --file_format=array_record --data_dir={tmp_path}"
    with pytest.raises(UserError, match=command) as caught:
        open_source(make_data(name=name), "train", tmp_path, "boxes")
    assert "\n" not in str(caught.value) and "pip install tensorflow" in str(caught.value)
    other = "coco_folder" if name == "coco/2017" else "voc_folder, config.data.folder.first_pixel=1"
    assert f"without TensorFlow, read the raw download: config.data.name={other}" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Write voc/2007 with three examples, as tfds stores it. The second one has no objects."""
    import tensorflow_datasets as tfds

    edges = [[(0.1, 0.2, 0.7, 0.9), (0.5, 0.25, 0.5, 0.75), (0.0, 0.0, 1.0, 1.0)], [], [(0.25, 1 / 3, 0.75, 2 / 3)]]

    class Voc(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=("aeroplane", "bicycle"))
            objects = {
                "label": label,
                "bbox": tfds.features.BBoxFeature(),
                "pose": tfds.features.ClassLabel(names=("frontal", "left")),
                "is_truncated": np.bool_,
                "is_difficult": np.bool_,
            }
            features = {
                "image": tfds.features.Image(),
                "image/filename": tfds.features.Text(),
                "objects": tfds.features.Sequence(objects),
                "labels": tfds.features.Sequence(label),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, boxes in enumerate(edges):
                listed = [
                    {
                        "bbox": tfds.features.BBox(*box),
                        "label": 1,
                        "pose": 0,
                        "is_truncated": False,
                        "is_difficult": k == 2,
                    }
                    for k, box in enumerate(boxes)
                ]
                image = encode_png(np.zeros((5, 7, 3), np.uint8))
                yield i, {"image": image, "image/filename": f"{i}.jpg", "objects": listed, "labels": []}

    place = tmp_path_factory.mktemp("voc")
    config = tfds.core.BuilderConfig(name="2007", version="5.0.0")
    Voc(data_dir=str(place), file_format="array_record", config=config).download_and_prepare()
    return str(place), edges


def by_name(place):
    source = open_source(make_data(name="voc/2007"), "train", place, "boxes")
    return {source.name(i): (source, i) for i in range(len(source))}


def test_tfds_datasets_give_boxes_in_pixels_and_flags(voc):
    place, edges = voc
    named = by_name(place)
    for name, (source, i) in named.items():
        example = source[i]
        # VOC counts pixels from 1, and the last pixel belongs to the box.
        good = np.reshape(edges[int(name[0])], (-1, 4)) * (5, 7, 5, 7) - (1, 1, 0, 0)
        good = good[good[:, 0] < good[:, 2]].clip(0)
        np.testing.assert_allclose(example["boxes"], good, atol=1e-6)
        assert example["boxes"].dtype == np.float64 and example["boxes"].shape == (len(good), 4)
        assert source.class_names == ("aeroplane", "bicycle") and set(example["classes"]) <= {1}
    source, i = named["0.jpg"]
    assert source[i]["difficult"].tolist() == [False, False, True] and not source[i]["crowd"].any()
    np.testing.assert_allclose(source[i]["area"], [(3.5 - 0) * (6.3 - 0.4), 1 * 4.5, 35], rtol=1e-6)
    assert source.objects(i)[0] == (5, 7)


def test_bad_box_of_a_tfds_dataset_is_dropped_and_named(voc, monkeypatch):
    def read_objects(record, size):  # the edges have COCO's format
        return {"boxes": prepared_sets.scale_boxes(record, size), "classes": record["objects"]["label"]}

    monkeypatch.setattr(tfds_voc, "VOC", dataclasses.replace(tfds_voc.VOC, read_objects=read_objects))
    named = by_name(voc[0])
    source, i = named["0.jpg"]
    assert source.find_bad_boxes(i) == ("0.jpg: object 2 of class bicycle: zero area",)
    assert source.bad_boxes == () and len(source.objects(i)[1]["boxes"]) == 2
    source, i = named["1.jpg"]
    assert source.find_bad_boxes(i) == ()


class Numbers:
    """Images with their index as label. A dataset needs nothing else."""

    provides = ("label",)

    @staticmethod
    def open(data, split, place, needs):
        _, select = sources.parse_split(split)
        return [{"image": np.zeros((2, 2, 3), np.uint8), "label": np.full((2, 2), i, np.uint8)} for i in select(9)]


def test_new_dataset_needs_one_registry_line_and_its_file(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "numbers", f"{__name__}:Numbers")
    opened = open_source(make_data(name="numbers"), "train[3:]", tmp_path)
    assert [int(example["label"][0, 0]) for example in opened] == list(range(3, 9))
    with pytest.raises(
        UserError, match="config.task.name needs boxes, but config.data.name='numbers' has only label; "
    ):
        open_source(make_data(name="numbers"), "train", tmp_path, "boxes")


def test_error_for_a_misspelt_dataset_has_a_hint():
    with pytest.raises(UserError, match="config.data.name='shape' is unknown; did you mean 'shapes'?"):
        find_dataset("shape")
