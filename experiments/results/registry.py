"""Results by what a task needs."""

from ml_collections import ConfigDict

from experiments.results.base import Results
from experiments.results.boxes import BoxResults
from experiments.results.labels import LabelResults
from experiments.results.masks import MaskResults

RESULTS = {
    ("label",): LabelResults,
    ("boxes",): BoxResults,
    ("boxes", "masks"): MaskResults,
    ("boxes", "proposals"): BoxResults,
}


def make_results(needs: tuple[str, ...], evaluation: ConfigDict, class_names: tuple[str, ...]) -> Results:
    """Make the results of a task with these `needs`. Raise UserError for fields of config.eval that do not work with it."""
    return RESULTS[needs](evaluation, class_names)
