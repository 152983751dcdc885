"""The classes of a model and of a weight file, and how the columns of one map to the other."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.tasks.registry import find_task
from input_pipeline.datasets.coco import CATEGORY_IDS, CLASS_NAMES
from input_pipeline.sources import FOUND, open_source

# Columns of a detector trained with COCO's own category ids: 0 (background) and 1 to 90, ten of them unused.
NUMBERED = CATEGORY_IDS[-1] + 1


def match_columns(held: int, class_names: Sequence[str], background: bool) -> list[int] | None:
    """Return the file's column for each column of the model, or None if the file has other classes.

    `held` is the number of columns in the file. With `background`, the model's first column is the background. If both have
    the same number of columns, they match one to one. 91 columns follow COCO's category ids if the model's 80 names are
    COCO's, in any order. If the model has no background and the file has one more column, the file's first is background.
    """
    first, wanted = [0] * background, len(class_names) + background
    if held == wanted:
        return list(range(held))
    if held == NUMBERED and sorted(class_names) == sorted(CLASS_NAMES):
        numbers = dict(zip(CLASS_NAMES, CATEGORY_IDS, strict=True))
        return first + [numbers[name] for name in class_names]
    return list(range(1, held)) if held == wanted + 1 and not background else None


def read_classes(config: ConfigDict, data_dir: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the class names of the config's dataset, and the category ids in its annotation files.

    Those of COCO need no data. Raises UserError if another dataset cannot be opened.
    """
    if config.data.name == "coco/2017":
        return CLASS_NAMES, CATEGORY_IDS
    needs = (need for need in find_task(config.task.name).needs if need not in FOUND)  # finding proposals takes long
    source = open_source(config.data, config.data.eval_split, data_dir, tuple(needs))
    return tuple(source.class_names), tuple(source.category_ids)
