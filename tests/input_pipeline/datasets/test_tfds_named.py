"""Datasets that tfds has prepared are read by name, as their features say. An error lists unsuitable features."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE
from input_pipeline.decoding import encode_png
from input_pipeline.sources import open_source

SIZE = HEIGHT, WIDTH = 4, 6
LABEL = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(SIZE) % 3
BOXES = [(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.5, 0.5)]


def make(place, name, features, examples, file_format="array_record"):
    """Prepare a dataset of two splits with `examples` each, with tfds."""

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "validation")}

        def _generate_examples(self):
            yield from enumerate(examples)

    Made.name = name
    Made(data_dir=str(place), file_format=file_format).download_and_prepare()


def draw(value):
    return encode_png(np.full((*SIZE, 3), value, np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    image, text, mask = tfds.features.Image(), tfds.features.Text(), tfds.features.Image(shape=(None, None, 1))
    named = tfds.features.LabeledImage(labels=["road", "sky", "car"], shape=(None, None, 1))
    label = LABEL.copy()
    label[0, 0] = IGNORE
    png = encode_png(label)
    make(
        place,
        "streets",
        {"image_left": image, "segmentation_label": named, "image_id": text},
        [{"image_left": draw(i), "segmentation_label": png, "image_id": f"street {i}"} for i in range(3)],
    )
    make(place, "plain", {"image": image, "mask": mask}, [{"image": draw(1), "mask": png}])
    objects = {
        "bbox": tfds.features.BBoxFeature(),
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        "is_crowd": np.bool_,
    }
    listed = [{"bbox": tfds.features.BBox(*box), "kind": i, "is_crowd": i == 1} for i, box in enumerate(BOXES)]
    make(
        place,
        "animals",
        {"image": image, "image/id": np.int64, "image/filename": text, "animals": tfds.features.Sequence(objects)},
        [
            {"image": draw(7), "image/id": 70, "image/filename": "a.jpg", "animals": listed},
            {"image": draw(8), "image/id": 5, "image/filename": "b.jpg", "animals": []},
        ],
    )
    one = {"image": image, "bbox": objects["bbox"], "label": objects["kind"]}
    make(place, "birds", one, [{"image": draw(1), "bbox": tfds.features.BBox(*BOXES[0]), "label": 1}])
    make(
        place,
        "digits",
        {"image": image, "label": tfds.features.ClassLabel(num_classes=3)},
        [{"image": draw(1), "label": 2}],
    )
    return place


def open_named(place, name, split="train", *needs, **fields):
    data = get_config().data
    data.name = name
    data.folder.update(fields)
    return open_source(data, split, str(place), needs or ("label",))


def test_mask_with_class_names_is_a_label(place):
    source = open_named(place, "tfds:streets")
    assert source.class_names == ("road", "sky", "car") and len(source) == 3
    by_name = {source.name(i): source[i] for i in range(3)}
    assert by_name.keys() == {"street 0", "street 1", "street 2"}
    for name, example in by_name.items():
        assert (example["image"] == int(name[-1])).all()
        assert example["label"][0, 0] == IGNORE
        np.testing.assert_array_equal(example["label"].ravel()[1:], LABEL.ravel()[1:])
    assert source.size(0) == SIZE and "tensorflow" not in sys.modules


def test_mask_without_class_names_takes_them_from_a_file(place, tmp_path):
    with pytest.raises(UserError, match="has no class names for its mask; .* config.data.folder.classes") as caught:
        open_named(place, "tfds:plain")
    assert "\n" not in str(caught.value)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    source = open_named(place, "tfds:plain", classes=str(tmp_path / "names.txt"))
    assert source.class_names == ("a", "b", "c") and source[0]["label"].max() == IGNORE
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="has the value 2, but there are 2 classes"):
        open_named(place, "tfds:plain", classes=str(tmp_path / "names.txt"))[0]


def test_sequence_of_boxes_and_classes_gives_objects(place):
    source = open_named(place, "tfds:animals:1.2.0", "validation", "boxes")
    assert source.class_names == ("cat", "dog") and len(source) == 2
    places = {source.image_id(i): i for i in range(2)}
    assert places.keys() == {70, 5} and source.name(places[70]) == "a.jpg"
    example = source[places[70]]
    np.testing.assert_allclose(example["boxes"], np.multiply(BOXES, (*SIZE, *SIZE)), atol=1e-6)
    assert example["classes"].tolist() == [0, 1] and example["crowd"].tolist() == [False, True]
    assert source[places[5]]["boxes"].shape == (0, 4) and source.find_bad_boxes(places[5]) == ()
    both = open_named(place, "shapes", "tfds:animals:train+tfds:animals:validation[:1]", "boxes")
    assert len(both) == 3 and both.class_names == ("cat", "dog")


def test_single_box_per_image_gives_an_object(place):
    example = open_named(place, "tfds:birds", "train", "boxes")[0]
    np.testing.assert_allclose(example["boxes"], [np.multiply(BOXES[0], (*SIZE, *SIZE))], atol=1e-6)
    assert example["classes"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "need", "words"),
    [
        (
            "tfds:digits",
            "boxes",
            "no readable sequence of a BBox and a ClassLabel; its features are image: Image, label: ClassLabel",
        ),
        ("tfds:digits", "label", "no readable mask .* its features are image: Image"),
        ("tfds:animals", "label", r"animals: Sequence of \{bbox: BBoxFeature, is_crowd: Tensor, kind: ClassLabel"),
        ("tfds:animals", "masks", "'tfds:animals' has only label and boxes"),
        (
            "tfds:zebras",
            "label",
            "not prepared in .*tfds build zebras --file_format=array_record.*prepared there: animals",
        ),
        ("tfds:animals:9.0.0", "boxes", "not prepared"),
        ("tfds:../animals", "boxes", "is not a name of tfds"),
        ("tfds:voc/2007", "boxes", "is built in as 'voc/2007'"),
    ],
)
def test_unreadable_dataset_raises_a_one_line_error(place, name, need, words):
    with pytest.raises(UserError, match=words) as caught:
        open_named(place, name, "train", need)
    assert "\n" not in str(caught.value)


def test_error_lists_the_configs_to_choose_from(place, tmp_path):
    for config in ("small", "large"):
        (tmp_path / "set" / config).mkdir(parents=True)
        (tmp_path / "set" / config / "1.0.0").symlink_to(place / "birds/1.2.0")
    with pytest.raises(UserError, match="with the configs large, small; choose one, such as tfds:set/large"):
        open_named(tmp_path, "tfds:set", "train", "boxes")
    assert len(open_named(tmp_path, "tfds:set/small", "train", "boxes")) == 1
