"""The values of a mask file as classes: grey or palette indices, colours, or grey on either side of a threshold."""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import IGNORE, Size
from input_pipeline.datasets.id_maps import is_jpeg, read_grey
from input_pipeline.datasets.mask_folder import Colours
from input_pipeline.decoding import decode_colours, decode_grey, read_image, read_palette

NEAR = 32  # grey values from black or white, or of each channel from a colour, that noise and soft edges leave
MOST = 0.5  # of the pixels
BRIGHT = 128  # the threshold of black and white
DARK, INVERTED, NOWHERE = JUDGEMENTS = ("dark", "inverted", "nowhere")
SPREAD = 3  # values between black and white: more than a class that was forgotten


class Beyond(UserError):
    """A mask has values that are no class. `counts` [256] are its pixels of each value, larger ones with the last."""

    def __init__(self, message: str, short: str, values: np.ndarray):
        super().__init__(message)
        self.short, self.counts = short, np.bincount(np.clip(values, 0, 255).ravel(), minlength=256)


class MaskValues:
    """Reads mask files as the fields `folder` of config.data say. Raises UserError where those do not go with the classes."""

    def __init__(self, folder: ConfigDict, class_names: tuple[str, ...], colours: Colours | None):
        self.class_names, self._colours = class_names, colours
        self._ignore, self._threshold = folder.ignore_value, folder.threshold
        if self._threshold and (colours or len(class_names) != 2):
            named = "their colours" if colours else f"{len(class_names)} classes"
            raise UserError(
                f"config.data.folder.threshold={self._threshold} makes two classes of grey values, and {folder.classes} names "
                f"{named}; write two names without colours, or set it to 0"
            )

    def read(self, path: pathlib.Path, upright: bool) -> np.ndarray:
        """A mask file -> classes [H,W] uint8, 255 where there is none. Raises UserError for a value that is not a class."""
        if self._threshold:
            grey = decode_grey(read_image(path), str(path), upright=upright)
            return (grey >= self._threshold).astype(np.uint8)
        if self._colours:
            return self._from_colours(decode_colours(read_image(path), str(path), upright=upright), path)
        values = read_grey(path, "write `name red green blue` lines into the classes file", upright)
        if is_jpeg(path):
            short = f"{path} is a JPEG, which changes values"
            raise Beyond(f"{short}; write the mask as PNG, from its source", short, values)
        nowhere = (values == self._ignore) | (values == IGNORE)
        beyond = ~nowhere & ((values < 0) | (values >= len(self.class_names)))
        if beyond.any():
            value, count = int(values[beyond][0]), len(self.class_names)
            short = f"{path} holds the value {value}"
            message = f"{short}, but there are {count} classes (0 to {count - 1}); {self._suggest(value, values)}"
            raise Beyond(message, short, values)
        return np.where(nowhere, IGNORE, values).astype(np.uint8)

    def _suggest(self, value: int, values: np.ndarray) -> str:
        """What to do about a value of a mask that is no class."""
        remedies = []
        if len(self.class_names) == 2 and (values == 0).any() and not (values == 1).any():
            middle = min(BRIGHT, (int(values.max()) + 1) // 2)
            remedies.append(f"set config.data.folder.threshold={middle} if the mask is black and white")
        if 0 <= value <= IGNORE:
            remedies.append("set config.data.folder.ignore_value if it means no class")
        return ", ".join([*remedies, "or add the class" if remedies else "add the class"])

    def judge(self, path: pathlib.Path, seen: set[int]) -> str:
        """What may be misunderstood in one mask, of which `seen` are the classes: DARK, INVERTED, NOWHERE, or nothing."""
        if self._threshold and seen == {0}:
            greys = self._list_greys(path)
            return DARK if greys[-1] and len(greys) == 2 else ""
        if self._threshold or self._colours:
            return ""
        if seen in ({0, IGNORE}, {IGNORE}):
            return NOWHERE
        palette = read_palette(read_image(path), str(path)) if len(self.class_names) == 2 else []
        return INVERTED if 1 in seen and palette[:2] == [(255, 255, 255), (0, 0, 0)] else ""

    def describe(self, judgement: str) -> str:
        """What a judgement says of files, after "3 files are"."""
        first, second = self.class_names[:2]
        above = f"; --config.data.folder.threshold=1 makes all above 0 {second}"
        remedy = above if len(self.class_names) == 2 else ""
        return {
            DARK: f"all {first}, for neither of their two values reaches config.data.folder.threshold={self._threshold}",
            INVERTED: f"palettes in which 0 ({first}) is white and 1 ({second}) black, and read by these numbers; "
            f"--config.data.folder.threshold={BRIGHT} reads white as {second} and black as {first}",
            NOWHERE: f"masks of 0 and {IGNORE} alone, and {IGNORE} means no class, not {second}{remedy}",
        }[judgement]

    def find_darkness(self, paths: Iterable[pathlib.Path]) -> list[str]:
        """A list of one line where masks hold something, and none of them reaches the threshold; all were read as class 0."""
        peak = max((int(self._list_greys(path)[-1]) for path in paths), default=0)
        if not self._threshold or not peak:
            return []
        return [
            f"no mask reaches config.data.folder.threshold={self._threshold}: their largest value is {peak}; set it to at most "
            f"{peak}, or to 0 where 0 and 1 are the classes"
        ]

    def _list_greys(self, path: pathlib.Path) -> np.ndarray:
        return np.unique(decode_grey(read_image(path), str(path)))

    def find_misunderstanding(self, seen: set[int]) -> list[str]:
        """What is wrong with masks in which only the values `seen` occur, as a list of one line or none."""
        if seen == {IGNORE}:
            return [f"all hold only the value {self._ignore}, which means no class (config.data.folder.ignore_value)"]
        if seen == {0, IGNORE} and not self._colours:
            return [
                f"all hold only 0 and {IGNORE}, and {IGNORE} means no class: black and white masks need "
                "--config.data.folder.threshold=128, or colours in the classes file, "
                f"`{self.class_names[0]} 0 0 0` and `{self.class_names[1]} 255 255 255`"
            ]
        return []

    def _from_colours(self, colours: np.ndarray, path: pathlib.Path) -> np.ndarray:
        packed = colours.astype(np.int32) @ (1 << 16, 1 << 8, 1)
        known = np.array(self._colours, np.int32) @ (1 << 16, 1 << 8, 1)
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
        label = order[place].astype(np.uint8)
        white = packed == 0xFFFFFF
        found = known[label] == packed
        if not (found | white).all():
            row, column = np.argwhere(~(found | white))[0]
            raise UserError(self._describe_colour(tuple(map(int, colours[row, column])), path))
        return np.where(found, label, IGNORE).astype(np.uint8)

    def _describe_colour(self, colour: tuple[int, int, int], path: pathlib.Path) -> str:
        distances = np.abs(np.subtract(self._colours, colour)).max(1)
        nearest = int(distances.argmin())
        text = f"{path} holds the colour {colour}, which no line of the classes file names"
        if distances[nearest] > NEAR:
            return f"{text}; add it there, or paint white what belongs to no class"
        near = f"near {self._colours[nearest]} of {self.class_names[nearest]!r}"
        return f"{text}, {near}: JPEG noise or soft edges look so; write the masks without loss, or add it there"


def is_black_and_white(wrong: Sequence[Beyond]) -> bool:
    """Whether masks with wrong values are black and white, but for noise and soft edges.

    Most pixels are near one end then, and the others lie anywhere between; a forgotten class has one value, and numbers of
    classes or objects are small.
    """
    counts = sum(error.counts for error in wrong)
    ends = counts[: NEAR + 1].sum() + counts[255 - NEAR :].sum()
    return bool(ends >= MOST * counts.sum() and np.count_nonzero(counts[2:255]) >= SPREAD and counts[128:255].any())


def is_enlargement(mask: Size, image: Size) -> bool:
    """Whether an image of one size has the proportions of a mask of another one, to within a pixel of the smaller."""
    low, high = zip(*(_list_scales(one, other) for one, other in zip(mask, image, strict=True)), strict=True)
    return max(low) < min(high)


def _list_scales(mask: int, image: int) -> tuple[float, float]:
    """The factors by which one side may have been scaled to the other, between these."""
    if image >= mask:
        return image / (mask + 1), image / (mask - 1) if mask > 1 else float("inf")
    return (image - 1) / mask, (image + 1) / mask


def resize(values: np.ndarray, size: Size) -> np.ndarray:
    """Values [H,W] at another size, each pixel that of the nearest."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * held / wanted).astype(int) for wanted, held in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
