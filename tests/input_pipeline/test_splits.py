"""Parts of a split, and several splits, can be one source."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.common import get_config
from errors import UserError
from input_pipeline import sources
from input_pipeline.datasets import shapes
from input_pipeline.preparation import prepare


@given(st.integers(0, 50), st.none() | st.integers(-60, 60), st.none() | st.integers(-60, 60))
def test_slices_equal_those_of_python(count, first, last):
    def show(bound):
        return "" if bound is None else str(bound)

    name, select = sources.parse_split(f"train[{show(first)}:{show(last)}]")
    assert name == "train"
    assert list(select(count)) == list(range(count))[first:last]


@given(st.integers(0, 500), st.integers(0, 100))
def test_percentages_divide_a_split_without_gap_or_overlap(count, percent):
    parts = [sources.parse_split(f"train[{bounds}]")[1](count) for bounds in (f":{percent}%", f"{percent}%:")]
    assert [*parts[0], *parts[1]] == list(range(count))


@pytest.mark.parametrize("split", ["", "train[", "train[1]", "train[a:b]", "train[1:2:3]"])
def test_malformed_split_raises_an_error(split):
    with pytest.raises(UserError, match="split"):
        sources.parse_split(split)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "EXAMPLES", {"train": 5, "validation": 3})
        prepare("shapes", shapes.SHAPES.preparation, folder, get_config().data.folder)
    return str(folder)


def open_split(place, split, need="boxes"):
    return sources.open_source(get_config().data, split, place, (need,))


@pytest.mark.parametrize("split", ["train+validation", "shapes:train+shapes:validation"])
def test_joined_splits_follow_one_another(place, split):
    both, parts = open_split(place, split), [open_split(place, name) for name in ("train", "validation")]
    assert len(both) == 8 and both.class_names == parts[0].class_names and both.category_ids == parts[0].category_ids
    for index in range(8):
        part, i = (parts[0], index) if index < 5 else (parts[1], index - 5)
        assert both.name(index) == part.name(i) and both.size(index) == part.size(i)
        assert both.image_id(index) == part.image_id(i) and both.find_bad_boxes(index) == part.find_bad_boxes(i)
        for mine, theirs in ((both[index], part[i]), (both.objects(index)[1], part.objects(i)[1])):
            assert mine.keys() == theirs.keys()
            for name, values in mine.items():
                np.testing.assert_array_equal(values, theirs[name])
    with pytest.raises(IndexError):
        both[8]


def test_joined_parts_of_splits_have_their_own_fingerprint(place):
    parts = open_split(place, "train[3:]+validation[:1]", need="label")
    assert [parts.name(i) for i in range(len(parts))] == ["train_00003", "train_00004", "validation_00000"]
    other = open_split(place, "validation[:1]+train[3:]", need="label")
    assert len({parts.fingerprint, other.fingerprint, open_split(place, "train[3:]", need="label").fingerprint}) == 3


def test_joined_splits_report_the_dropped_files_of_their_parts(place):
    class Part:
        def __init__(self, *, classes=("a", "b"), **fields):
            self.class_names, self.category_ids, self.fingerprint = classes, (1, 2), "x"
            self.dropped = self.bad_boxes = self.absent = ()
            self.clipped_boxes, self.layout, self.remarks, self.peak, self.white = 1, "", (), 0, 65535
            vars(self).update(fields)

        def __len__(self):
            return 1

    both = sources.Concatenation(
        ["x", "y"], [Part(bad_boxes=("p",), absent=("a", "b")), Part(bad_boxes=("q",), absent=("b",))]
    )
    assert both.bad_boxes == ("p", "q") and both.absent == ("b",) and both.clipped_boxes == 2
    slices = sources.Concatenation(["x[:1]", "x[1:]"], [Part(bad_boxes=("p",)), Part(bad_boxes=("p",))])
    assert slices.bad_boxes == ("p",) and slices.clipped_boxes == 1 and len(slices) == 2
    with pytest.raises(UserError, match="x and y have different classes \\('b' in the first, 'c' in the second\\)"):
        sources.Concatenation(["x", "y"], [Part(), Part(classes=("a", "c"))])


def test_unknown_part_raises_an_error(place):
    for split in ("train+test", "shapes:test", "train+", "shape:train"):
        with pytest.raises(UserError):
            open_split(place, split)


def test_error_names_the_field_of_an_unknown_split(place):
    data = get_config().data
    data.eval_split = "holdout[:2]"
    with pytest.raises(UserError, match=r"^config.data.eval_split: shapes in .* has no split 'holdout'; choose one of"):
        sources.open_source(data, data.eval_split, str(place), ("label",))
    data.train_split, data.eval_split = "train[:0]", "validation"
    with pytest.raises(UserError, match=r"^config.data.train_split: 'train\[:0\]' of shapes holds no examples"):
        sources.open_source(data, data.train_split, str(place), ("label",))
