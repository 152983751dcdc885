"""Classes from the values of a mask file, which are grey or palette indices, colours, or grey with a threshold."""

import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import IGNORE, Size
from input_pipeline.datasets.id_maps import is_jpeg, read_grey
from input_pipeline.datasets.mask_folder import Colours
from input_pipeline.decoding import decode_colours, decode_grey, read_image, read_palette

NEAR = 32  # largest difference that noise and soft edges make, to black, white or each channel of a colour
MOST = 0.5  # share of the pixels
BRIGHT = 128  # the threshold between black and white
DARK, INVERTED, NOWHERE = JUDGEMENTS = ("dark", "inverted", "nowhere")
SPREAD = 3  # different values between black and white: more than one forgotten class explains


class Beyond(UserError):
    """A mask has values that are not classes. `counts` [256] are its pixels of each value, larger ones in the last."""

    def __init__(self, message: str, short: str, values: np.ndarray):
        super().__init__(message)
        self.short, self.counts = short, np.bincount(np.clip(values, 0, 255).ravel(), minlength=256)


class MaskValues:
    """Reads mask files by the fields `folder` of config.data. Raises UserError where these do not fit the classes."""

    def __init__(self, folder: ConfigDict, class_names: tuple[str, ...], colours: Colours | None):
        self.class_names, self._colours = class_names, colours
        self._ignore, self._threshold = folder.ignore_value, folder.threshold
        if self._threshold and (colours or len(class_names) != 2):
            named = "their colours" if colours else f"{len(class_names)} classes"
            raise UserError(
                f"config.data.folder.threshold={self._threshold} makes two classes of grey values, but {folder.classes} lists "
                f"{named}; list two names without colours, or set it to 0"
            )

    def read(self, path: pathlib.Path, upright: bool) -> np.ndarray:
        """Read a mask file as classes [H,W] uint8, 255 where there is none. Raise UserError for a value without class."""
        if self._threshold:
            grey = decode_grey(read_image(path), str(path), upright=upright)
            return (grey >= self._threshold).astype(np.uint8)
        if self._colours:
            shown = decode_colours(read_image(path), str(path), upright=upright)
            return self._from_colours(shown, self._colours, path)
        values = read_grey(path, "write `name red green blue` lines into the classes file", upright)
        if is_jpeg(path):
            short = f"{path} is a JPEG, which changes values"
            raise Beyond(f"{short}; export the mask from its source as PNG", short, values)
        nowhere = (values == self._ignore) | (values == IGNORE)
        beyond = ~nowhere & ((values < 0) | (values >= len(self.class_names)))
        if beyond.any():
            value, count = int(values[beyond][0]), len(self.class_names)
            short = f"{path} has the value {value}"
            message = f"{short}, but there are {count} classes (0 to {count - 1}); {self._suggest(value, values)}"
            raise Beyond(message, short, values)
        return np.where(nowhere, IGNORE, values).astype(np.uint8)

    def _suggest(self, value: int, values: np.ndarray) -> str:
        """Return the remedy for a mask's value that is not a class."""
        remedies = []
        if len(self.class_names) == 2 and (values == 0).any() and not (values == 1).any():
            middle = min(BRIGHT, (int(values.max()) + 1) // 2)
            remedies.append(f"set config.data.folder.threshold={middle} if the mask is black and white")
        if 0 <= value <= IGNORE:
            remedies.append(f"set config.data.folder.ignore_value={value} if it means no class")
        return ", ".join([*remedies, "or add the class" if remedies else "add the class"])

    def judge(self, path: pathlib.Path, seen: set[int]) -> str:
        """Return the likely mistake about one mask with the classes `seen`, DARK, INVERTED, NOWHERE or ""."""
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
        """Return the text of a judgement, which follows "3 files are"."""
        first, second = self.class_names[:2]
        above = f"; --config.data.folder.threshold=1 reads all values above 0 as {second}"
        remedy = above if len(self.class_names) == 2 else ""
        return {
            DARK: f"all {first} (every value is below config.data.folder.threshold={self._threshold})",
            INVERTED: f"palette images with 0 ({first}) in white and 1 ({second}) in black, and read by index; "
            f"--config.data.folder.threshold={BRIGHT} reads white as {second} and black as {first}",
            NOWHERE: f"masks with only 0 and {IGNORE}, and {IGNORE} means no class, not {second}{remedy}",
        }[judgement]

    def find_darkness(self, paths: Iterable[pathlib.Path]) -> list[str]:
        """Return a list of one line where all masks are below the threshold though some are not empty, or an empty list."""
        peak = max((int(self._list_greys(path)[-1]) for path in paths), default=0)
        if not self._threshold or not peak:
            return []
        return [
            f"no mask reaches config.data.folder.threshold={self._threshold}: the largest value is {peak}; set it to at most "
            f"{peak}, or to 0 if the values are class indices"
        ]

    def _list_greys(self, path: pathlib.Path) -> np.ndarray:
        return np.unique(decode_grey(read_image(path), str(path)))

    def find_misunderstanding(self, seen: set[int]) -> list[str]:
        """Return a list of one line about masks that hold only the values `seen`, or an empty list."""
        if seen == {IGNORE}:
            return [f"all hold only the value {self._ignore}, which means no class (config.data.folder.ignore_value)"]
        if seen == {0, IGNORE} and not self._colours:
            return [
                f"all hold only 0 and {IGNORE}, and {IGNORE} means no class; for black and white masks set "
                "--config.data.folder.threshold=128, or list colours in the classes file, "
                f"`{self.class_names[0]} 0 0 0` and `{self.class_names[1]} 255 255 255`"
            ]
        return []

    def _from_colours(self, shown: np.ndarray, colours: Colours, path: pathlib.Path) -> np.ndarray:
        packed = shown.astype(np.int32) @ (1 << 16, 1 << 8, 1)
        known = np.array(colours, np.int32) @ (1 << 16, 1 << 8, 1)
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
        label = order[place].astype(np.uint8)
        white = packed == 0xFFFFFF
        found = known[label] == packed
        if not (found | white).all():
            row, column = np.argwhere(~(found | white))[0]
            raise UserError(self._describe_colour(shown[row, column].tolist(), colours, path))
        return np.where(found, label, IGNORE).astype(np.uint8)

    def _describe_colour(self, colour: list[int], colours: Colours, path: pathlib.Path) -> str:
        distances = np.abs(np.subtract(colours, colour)).max(1)
        nearest = int(distances.argmin())
        text = f"{path} has the colour {tuple(colour)}, which is not in the classes file"
        if distances[nearest] > NEAR:
            return f"{text}; add it there, or paint pixels without a class white"
        near = f"near {colours[nearest]} of {self.class_names[nearest]!r}"
        return f"{text} ({near}, perhaps JPEG noise or a soft edge); store the masks without loss, or add it there"


def is_black_and_white(wrong: Sequence[Beyond]) -> bool:
    """Return whether masks with wrong values are black and white, apart from noise and soft edges.

    In such masks most pixels are near one end, and the others lie anywhere between. In contrast, a forgotten class has one value,
    and numbers of classes or objects are small.
    """
    counts = np.sum([error.counts for error in wrong], axis=0)
    ends = counts[: NEAR + 1].sum() + counts[255 - NEAR :].sum()
    return bool(ends >= MOST * counts.sum() and np.count_nonzero(counts[2:255]) >= SPREAD and counts[128:255].any())


def is_enlargement(mask: Size, image: Size) -> bool:
    """Return whether an image has the proportions of a mask of another size, to within a pixel of the smaller."""
    low, high = zip(*(_list_scales(one, other) for one, other in zip(mask, image, strict=True)), strict=True)
    return max(low) < min(high)


def _list_scales(mask: int, image: int) -> tuple[float, float]:
    """Return the smallest and the largest factor by which one side may have been scaled to the other."""
    if image >= mask:
        return image / (mask + 1), image / (mask - 1) if mask > 1 else float("inf")
    return (image - 1) / mask, (image + 1) / mask


def resize(values: np.ndarray, size: Size) -> np.ndarray:
    """Resize values [H,W] by the nearest pixel."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * held / wanted).astype(int) for wanted, held in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
