import numpy as np
import pytest

from errors import UserError
from input_pipeline.relabelling import relabel


class Held:
    """One example, with the classes of a split."""

    def __init__(self, class_names, category_ids):
        self.class_names, self.category_ids, self.absent, self.fingerprint = class_names, category_ids, (), "f"

    def __len__(self):
        return 1

    def __getitem__(self, index):
        label = np.array([[*range(len(self.class_names)), 255]], np.uint8)
        return {"label": label, "image": "pixels"} | self.objects(index)[1]

    def objects(self, index):
        return (3, 4), {"classes": np.arange(len(self.class_names), dtype=np.int32), "boxes": "boxes"}


def test_split_that_lacks_a_class_gets_the_classes_of_the_model():
    source = relabel(Held(("dog", "cat"), (9, 2)), ("cat", "cow", "dog"), "val")
    assert source.class_names == ("cat", "cow", "dog") and source.absent == ("cow",)
    assert source.category_ids == (2, 10, 9) and source.fingerprint == "f" and len(source) == 1
    example = source[0]
    assert example["label"].tolist() == [[2, 0, 255]] and example["label"].dtype == np.uint8
    assert example["classes"].tolist() == source.objects(0)[1]["classes"].tolist() == [2, 0]
    assert example["image"] == "pixels" and source.objects(0)[0] == (3, 4)


def test_split_without_classes_has_no_objects():
    source = relabel(Held((), ()), ("cat",), "val")
    assert source.absent == ("cat",) and source.category_ids == (1,) and source[0]["label"].tolist() == [[255]]


def test_equal_classes_do_not_change():
    held = Held(("dog", "cat"), (9, 2))
    assert relabel(held, ["dog", "cat"], "val") is held


def test_class_that_the_model_was_not_trained_on_raises_an_error():
    with pytest.raises(
        UserError, match="val has classes that the model was not trained on: 'cow'; the model's classes are 'cat'"
    ):
        relabel(Held(("cat", "cow"), (1, 2)), ("cat",), "val")
