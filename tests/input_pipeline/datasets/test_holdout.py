"""One split is divided into two by file name, so a file stays in its split."""

import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline.datasets.holdout import find_split, mark, name_field, select_side

NAMES = [f"cam/{number}.jpg" for number in range(1000)]


def make_data(holdout=0.2, seed=0):
    data = get_config().data
    data.update(holdout=holdout, holdout_seed=seed)
    return data


def hold_out(names, **fields):
    return {names[place] for place in select_side([mark(name) for name in names], "val", make_data(**fields))}


def test_file_keeps_its_split_if_other_files_are_added_or_removed():
    held = hold_out(NAMES)
    assert held == hold_out(NAMES[::-1])
    assert hold_out(NAMES[::3]) == held & set(NAMES[::3])
    assert hold_out([*NAMES, "new.jpg"]) >= held
    assert 150 < len(held) < 250 and held < hold_out(NAMES, holdout=0.4)


def test_both_splits_cover_all_examples_and_depend_on_the_seed():
    marks = [mark(name) for name in NAMES]
    sides = [select_side(marks, split, make_data()) for split in ("train", "validation")]
    assert sorted(sides[0] + sides[1]) == list(range(1000))
    assert hold_out(NAMES, seed=1) != hold_out(NAMES)


def test_both_unicode_forms_of_a_name_are_in_the_same_split():
    assert mark("caf\u00e9.jpg") == mark("cafe\u0301.jpg")


def test_split_without_examples_raises_an_error():
    with pytest.raises(
        UserError, match="config.data.holdout=0.01 leaves val without any of the 3 examples; .*config.data.holdout_seed"
    ):
        select_side([mark(name) for name in NAMES[:3]], "val", make_data(0.01))


@pytest.mark.parametrize(
    ("wanted", "known", "holdout", "found"),
    [
        ("train", ["train", "val"], 0.0, "train"),
        ("val", ["train", "valid"], 0.0, "valid"),
        ("validation", ["train", "val"], 0.0, "val"),
        ("valid", ["train", "val", "valid"], 0.0, "valid"),
        ("train", ["train2017", "val2017"], 0.0, "train2017"),
        ("validation", ["train2017", "val2017"], 0.0, "val2017"),
        ("train", ["result"], 0.2, "result"),
        ("val", ["train"], 0.2, "train"),
    ],
)
def test_wanted_split_is_found_or_held_out(wanted, known, holdout, found):
    assert find_split(wanted, known, make_data(holdout), "x") == found


@pytest.mark.parametrize(
    ("wanted", "known", "holdout", "words"),
    [
        ("val", ["train", "test"], 0.0, "x has no split 'val'; choose one of train, test$"),
        ("validation", ["train", "val", "valid"], 0.0, "choose one of train, val, valid$"),
        ("train", ["train2014", "train2017"], 0.0, "choose one of train2014, train2017$"),
        ("val2", ["train", "val"], 0.0, "choose one of train, val$"),
        ("train2017", ["train"], 0.2, "choose one of train, val$"),
        ("val", ["train"], 0.0, "choose one of train, or set config.data.holdout=0.2"),
        ("test", ["train"], 0.2, "choose one of train, val$"),
        (
            "train",
            ["train", "val"],
            0.2,
            "config.data.holdout=0.2 divides a single split, but x has train, val; set it to 0",
        ),
    ],
)
def test_missing_split_raises_an_error(wanted, known, holdout, words):
    with pytest.raises(UserError, match=words):
        find_split(wanted, known, make_data(holdout), "x")


def test_error_names_the_field_of_the_split():
    data = make_data(0.0)
    data.train_split, data.eval_split = "train+voc/2012:val", "val[:10]"
    assert name_field(data, "train") == "config.data.train_split"
    assert name_field(data, "val") == "config.data.train_split or eval_split"
    data.train_split = "train[10%:]"
    assert name_field(data, "val") == "config.data.eval_split"
    assert name_field(data, "test") == "config.data.train_split or eval_split"
