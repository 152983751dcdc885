import pytest

from configs import common
from experiments.run import classes
from experiments.run.classes import match_columns, read_classes
from input_pipeline.datasets.coco import CATEGORY_IDS, CLASS_NAMES

COCO = list(CATEGORY_IDS)
SEVEN = tuple("abcdefg")
NINETY = tuple(map(str, range(90)))


@pytest.mark.parametrize(
    ("held", "names", "background", "columns"),
    [
        (7, SEVEN, False, [0, 1, 2, 3, 4, 5, 6]),  # the same number of classes
        (8, SEVEN, True, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, SEVEN, False, [1, 2, 3, 4, 5, 6, 7]),  # the model has no background
        (7, SEVEN, True, None),
        (9, SEVEN, False, None),
        (91, SEVEN, False, None),
        (91, CLASS_NAMES, False, COCO),
        (91, CLASS_NAMES, True, [0, *COCO]),
        (91, CLASS_NAMES[::-1], False, COCO[::-1]),  # matched by name, not by position
        (91, (*CLASS_NAMES[:-1], "unicorn"), False, None),
        (91, (*CLASS_NAMES[:-1], "unicorn"), True, None),
        (91, (*CLASS_NAMES, "unicorn"), False, None),
        (80, CLASS_NAMES, False, list(range(80))),
        (81, CLASS_NAMES, True, list(range(81))),
        (91, NINETY, False, list(range(1, 91))),
        (91, NINETY, True, list(range(91))),
        (91, (*NINETY, "more"), False, list(range(91))),
    ],
)
def test_columns_of_a_file_are_matched_or_refused(held, names, background, columns):
    assert match_columns(held, names, background) == columns


def test_coco_numbers_its_classes_with_gaps():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == len(CATEGORY_IDS) == 80
    numbers = dict(zip(CLASS_NAMES, CATEGORY_IDS, strict=True))
    # From the category lists of COCO's own files, on both sides of each gap.
    known = {
        "person": 1,
        "fire hydrant": 11,
        "stop sign": 13,
        "backpack": 27,
        "umbrella": 28,
        "handbag": 31,
        "bottle": 44,
    }
    known |= {"wine glass": 46, "bed": 65, "dining table": 67, "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84}
    assert {name: numbers[name] for name in known} == known and numbers["toothbrush"] == 90


def test_reading_class_names_needs_no_proposals(monkeypatch):
    class Task:
        needs = ("boxes", "proposals")

    class Source:
        class_names, category_ids = ["a", "b"], [3, 5]

    asked = []
    monkeypatch.setattr(classes, "find_task", lambda name: Task)
    monkeypatch.setattr(classes, "open_source", lambda *arguments: asked.append(arguments) or Source)
    config = common.get_config()
    config.task.name = "any"
    assert read_classes(config, "place") == (("a", "b"), (3, 5))
    assert asked == [(config.data, config.data.eval_split, "place", ("boxes",))]
