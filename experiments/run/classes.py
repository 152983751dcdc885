"""Which classes a model and a file of weights have, and where the one's are in the other."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.tasks.registry import find_task
from input_pipeline.datasets.coco import CATEGORY_IDS, CLASS_NAMES
from input_pipeline.sources import FOUND, open_source

# Columns of detectors trained on COCO by its own numbers of the classes: 1 to 90, of which ten are not used, and 0.
NUMBERED = CATEGORY_IDS[-1] + 1


def match_columns(held: int, class_names: Sequence[str], background: bool) -> list[int] | None:
    """Returns which of a file's `held` columns each of a model's is, or None where they are of other classes.

    With a `background` it is the model's first. As many columns as the model's are the model's own. 91 are COCO's by number
    where the 80 names are COCO's, in any order. One more than the model's without a background begin with one.
    """
    first, wanted = [0] * background, len(class_names) + background
    if held == wanted:
        return list(range(held))
    if held == NUMBERED and sorted(class_names) == sorted(CLASS_NAMES):
        numbers = dict(zip(CLASS_NAMES, CATEGORY_IDS, strict=True))
        return first + [numbers[name] for name in class_names]
    return list(range(1, held)) if held == wanted + 1 and not background else None


def read_classes(config: ConfigDict, data_dir: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the names of the classes of the config's dataset, and their numbers in its files.

    COCO's are known without its data. Raises UserError where the dataset is another one and cannot be opened.
    """
    if config.data.name == "coco/2017":
        return CLASS_NAMES, CATEGORY_IDS
    needs = (need for need in find_task(config.task.name).needs if need not in FOUND)  # finding takes long
    source = open_source(config.data, config.data.eval_split, data_dir, tuple(needs))
    return tuple(source.class_names), tuple(source.category_ids)
