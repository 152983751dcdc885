"""A user's own folder of images and PNG masks, read where it lies.

ROOT/SPLIT/images/NAME.jpg (or any format Pillow reads) and ROOT/SPLIT/masks/NAME.png; a class name a line in classes.txt, or
`name red green blue` where masks are colours. No prepared copy is made that could go stale: the files are checked when the
folder is opened, and what was found is remembered by their names, sizes and times.
"""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.batch import IGNORE, DataError
from input_pipeline.decoding import SUFFIXES, decode_colours, decode_image, decode_mask, list_images, read_size

NAMED = 3  # bad files that an error names; the rest are counted
Pair = tuple[pathlib.Path, pathlib.Path]  # image and mask


class ImageMask:
    """One split of such a folder as a source. `folder` is config.data.folder; `cache` keeps what the checks found.

    Raises DataError in one line for everything that is wrong with it.
    """

    def __init__(self, folder: ConfigDict, split: str, select: Callable[[int], range], cache: pathlib.Path):
        root = pathlib.Path(folder.root).expanduser()
        if not folder.root or not root.is_dir():
            raise DataError(
                f"config.data.folder.root={folder.root!r} is not a folder; give the one that holds {split}/images"
            )
        self.class_names, self._colours = read_classes(root / folder.classes)
        self._ignore = folder.ignore_value
        pairs = find_pairs(root, split)
        status = [path.stat() for pair in pairs for path in pair]
        names = [[path.name for path in pair] for pair in pairs]
        meaning = [names, [entry.st_size for entry in status], self.class_names, self._colours, self._ignore]
        place = _hash([str(root.resolve()), split, *meaning, [entry.st_mtime_ns for entry in status]])
        findings = _remember(cache / f"{place}.json", lambda: self._check(pairs))
        _refuse(f"{root / split}: masks that do not fit", findings["unfit"])
        if not folder.drop_unreadable:
            _refuse(
                f"{root / split}: files that cannot be decoded",
                list(findings["unreadable"].values()),
                "; repair them, or leave them out with config.data.folder.drop_unreadable=True",
            )
        self.dropped = tuple(findings["unreadable"])
        whole = [pair for pair in pairs if pair[0].name not in findings["unreadable"]]
        self._pairs = [whole[index] for index in select(len(whole))]
        self.fingerprint = _hash([split, list(select(len(whole))), *meaning])  # the same wherever the folder lies
        if not self._pairs:
            raise DataError(f"{root / split}: no usable image in this part of the split")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, mask = self._pairs[index]
        return {"image": decode_image(image.read_bytes(), str(image)), "label": self._read_label(mask)}

    def name(self, index: int) -> str:
        return self._pairs[index][0].name

    def size(self, index: int) -> tuple[int, int]:
        image = self._pairs[index][0]
        return read_size(image.read_bytes(), str(image))

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        """A mask file -> classes [H,W] uint8, 255 where there is none. Raises DataError for a value that is no class."""
        if self._colours:
            return self._from_colours(decode_colours(path.read_bytes(), str(path)), path)
        values = decode_mask(path.read_bytes(), str(path))
        if values.ndim == 3:
            if np.ptp(values, axis=-1).any():
                raise DataError(f"{path} is a colour mask; write `name red green blue` lines into the classes file")
            values = values[..., 0]  # grey stored as RGB
        nowhere = (values == self._ignore) | (values == IGNORE)
        beyond = ~nowhere & ((values < 0) | (values >= len(self.class_names)))
        if beyond.any():
            raise DataError(
                f"{path} holds the value {int(values[beyond][0])}, but there are {len(self.class_names)} classes (0 to "
                f"{len(self.class_names) - 1}); set config.data.folder.ignore_value if it is no class, or add the class"
            )
        return np.where(nowhere, IGNORE, values).astype(np.uint8)

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
            raise DataError(
                f"{path} holds the colour {tuple(map(int, colours[row, column]))}, which no line of the classes file names; "
                "add it there, or paint what is no class white"
            )
        return np.where(found, label, IGNORE).astype(np.uint8)

    def _check(self, pairs: list[Pair]) -> dict:
        """Reads every file once. Returns {"unfit": [message], "unreadable": {image name: message}}."""
        unfit, unreadable, seen = [], {}, set()
        for image, mask in pairs:
            try:
                size = decode_image(image.read_bytes(), str(image)).shape[:2]
                mask_size = decode_mask(mask.read_bytes(), str(mask)).shape[:2]
            except DataError as error:
                unreadable[image.name] = str(error)
                continue
            if mask_size != size:
                unfit.append(f"{mask} is {_by(mask_size)}, its image {_by(size)}; both must have the same pixels")
                continue
            try:
                seen.update(np.unique(self._read_label(mask)).tolist())
            except DataError as error:
                unfit.append(str(error))
        if seen == {IGNORE}:
            unfit.append(f"all hold only the value {self._ignore}, which is no class (config.data.folder.ignore_value)")
        if seen == {0, IGNORE} and not self._colours:
            unfit.append(
                f"all hold only 0 and {IGNORE}, and {IGNORE} is no class: black and white masks need colours in the "
                f"classes file, `{self.class_names[0]} 0 0 0` and `{self.class_names[1]} 255 255 255`"
            )
        return {"unfit": unfit, "unreadable": unreadable}


def read_classes(path: pathlib.Path) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...] | None]:
    """The names in a classes file, in order, and their colours where it gives them."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); write a class name a line into it") from None
    coloured = [
        line for line in lines if len(line) >= 4 and all(part.isdigit() and int(part) < 256 for part in line[-3:])
    ]
    if coloured and len(coloured) < len(lines):
        line = next(line for line in lines if line not in coloured)
        raise DataError(
            f"{path}: {' '.join(line)!r} has no colour, other lines do; write `name red green blue` on each"
        )
    names = tuple(" ".join(line[:-3] if coloured else line) for line in lines)
    colours = tuple(tuple(map(int, line[-3:])) for line in coloured)
    if not 2 <= len(names) <= IGNORE:
        raise DataError(f"{path} names {len(names)} classes; 2 to {IGNORE} are possible, background included")
    for what, values in (("name", names), ("colour", colours)):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise DataError(f"{path}: the {what} {sorted(twice)[0]!r} stands there twice; give each class its own")
    return names, colours or None


def find_pairs(root: pathlib.Path, split: str) -> list[Pair]:
    """The images of a split with their masks, sorted by name. Raises DataError for an image without one."""
    images, masks = root / split / "images", root / split / "masks"
    if not images.is_dir():
        splits = sorted(path.parent.name for path in root.glob("*/images"))
        raise DataError(f"{root} has no {split}/images; its splits are: {', '.join(splits) or 'none'}")
    paths = list_images(images)
    if not paths:
        raise DataError(f"{images} holds no image ({' '.join(SUFFIXES)})")
    stems = [path.stem for path in paths]
    for first, second in itertools.pairwise(paths):
        if first.stem == second.stem:
            raise DataError(f"{first} and {second.name} would share one mask; rename one of them")
    missing = [f"{masks / stem}.png" for stem in stems if not (masks / f"{stem}.png").is_file()]
    _refuse(f"{images}: masks that are missing", missing, "; each image needs a PNG of its own name there")
    return [(path, masks / f"{path.stem}.png") for path in paths]


def _refuse(what: str, wrong: list[str], remedy: str = "") -> None:
    if wrong:
        others = f" (and {len(wrong) - NAMED} more)" if len(wrong) > NAMED else ""
        raise DataError(f"{what}: {len(wrong)}: {' | '.join(wrong[:NAMED])}{others}{remedy}")


def _remember(path: pathlib.Path, check: Callable[[], dict]) -> dict:
    """What `check` finds, from the file where an earlier run left it. A cache that cannot be used is no error."""
    try:
        findings = json.loads(path.read_text())
        if findings.keys() == {"unfit", "unreadable"}:
            return findings
    except (OSError, ValueError, AttributeError):
        pass
    findings = check()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(findings))
        temporary.replace(path)
    except OSError:
        pass
    return findings


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
