"""A user's own folder of images and PNG masks, read where it lies.

ROOT/SPLIT/images/NAME.jpg (or any format Pillow reads) and ROOT/SPLIT/masks/NAME.png; one class name per line in classes.txt, or
`name red green blue` where masks are colours. No prepared copy is made that could go stale: the files are checked when the
folder is opened, and what was found is remembered by their names, sizes and times.

With config.data.folder.instances an example also has "instances" [H,W] int32, each object's own id and 0 where there is none:
"folder" reads ROOT/SPLIT/instances/NAME.png; a pixel's class is then 1 or 0, with or without an object, if there is no
SPLIT/masks. "components" takes the connected regions of the mask. Those objects' boxes and masks are a detector's ground
truth; class 0 is the background then, whatever its name.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Collection

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from files import write_atomically
from input_pipeline.batch import IGNORE, Size, refuse
from input_pipeline.datasets.id_maps import find_components, list_objects, make_objects, read_grey, read_ids
from input_pipeline.decoding import (
    SUFFIXES,
    decode_colours,
    decode_image,
    decode_mask,
    list_images,
    read_size,
    refuse_unreadable,
)
from input_pipeline.masks import cut_out
from input_pipeline.objects import Objects
from input_pipeline.sources import parse_split

Files = dict[str, pathlib.Path]  # those of one example, by the folder they lie in: images, masks, instances
Colours = tuple[tuple[int, int, int], ...]
OBJECT_CLASSES = ("background", "object")  # without masks and a classes file


class ImageMask:
    """One split of such a folder as a source. `folder` is config.data.folder; `cache` keeps what the checks found.

    Raises UserError in one line for everything that is wrong with it.
    """

    bad_boxes = ()
    remarks, peak, white = (), 0, 65535
    provides = ("label", "instances", "boxes", "masks")

    def __init__(self, folder: ConfigDict, split: str, select: Callable[[int], range], cache: pathlib.Path):
        root = pathlib.Path(folder.root).expanduser()
        if not folder.root or not root.is_dir():
            raise UserError(
                f"config.data.folder.root={folder.root!r} is not a folder; give the one that holds {split}/images"
            )
        examples = find_files(root, split, folder.instances == "folder")
        self.class_names, self._colours = name_classes(root / folder.classes, "masks" in examples[0])
        self._classes = len(self.class_names)  # of a label
        self.category_ids = tuple(range(1, len(self.class_names) + 1))
        self._ignore, self._instances = folder.ignore_value, folder.instances
        status = [path.stat() for files in examples for path in files.values()]
        names = [[path.name for path in files.values()] for files in examples]
        meaning = [names, [entry.st_size for entry in status], self.class_names, self._colours, self._ignore]
        meaning += [self._instances] if self._instances else []
        place = _hash([str(root.resolve()), split, *meaning, [entry.st_mtime_ns for entry in status]])
        self._cache = cache / f"{place}.json"
        findings = _remember(self._cache, {"unfit", "unreadable", "seen"}, lambda: self._check(examples))
        refuse(f"{root / split}: masks that do not fit", findings["unfit"])
        if not folder.drop_unreadable:
            refuse_unreadable(str(root / split), list(findings["unreadable"].values()))
        self.dropped = tuple(findings["unreadable"])
        self._whole = [files for files in examples if files["images"].name not in findings["unreadable"]]
        self._examples = [self._whole[index] for index in select(len(self._whole))]
        seen = {value for files in self._examples for value in findings["seen"][files["images"].name]}
        self.absent = tuple(name for value, name in enumerate(self.class_names) if value not in seen)
        self.fingerprint = _hash([split, list(select(len(self._whole))), *meaning])  # the same wherever the folder lies
        if not self._examples:
            raise UserError(f"{root / split}: no usable image in this part of the split")

    @classmethod
    def open(cls, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]) -> "ImageMask":
        """See datasets.registry. Instances are read where config.data.folder.instances is set, even if nothing needs them."""
        if "boxes" not in needs:
            return cls(data.folder, *parse_split(split), cache=place / "image_mask")
        return ImageObjects(data.folder, *parse_split(split), cache=place / "image_mask", masks="masks" in needs)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        files = self._examples[index]
        image = files["images"]
        return {"image": decode_image(image.read_bytes(), str(image))} | self._read_truth(files)

    def name(self, index: int) -> str:
        return self._examples[index]["images"].name

    def size(self, index: int) -> tuple[int, int]:
        image = self._examples[index]["images"]
        return read_size(image.read_bytes(), str(image))

    def image_id(self, index: int) -> int:
        return index + 1

    def _read_truth(self, files: Files) -> dict[str, np.ndarray]:
        """The label, and the instances where the config asks for them. Raises UserError for values that are not valid."""
        if self._instances == "folder":
            instances = read_ids(files["instances"])
            label = self._read_label(files["masks"]) if "masks" in files else (instances > 0).astype(np.uint8)
            return {"label": label, "instances": instances}
        label = self._read_label(files["masks"])
        return {"label": label, "instances": find_components(label)} if self._instances else {"label": label}

    def _read_label(self, path: pathlib.Path) -> np.ndarray:
        """A mask file -> classes [H,W] uint8, 255 where there is none. Raises UserError for a value that is not a class."""
        if self._colours:
            return self._from_colours(decode_colours(path.read_bytes(), str(path)), path)
        values = read_grey(path, "write `name red green blue` lines into the classes file")
        nowhere = (values == self._ignore) | (values == IGNORE)
        beyond = ~nowhere & ((values < 0) | (values >= self._classes))
        if beyond.any():
            raise UserError(
                f"{path} holds the value {int(values[beyond][0])}, but there are {self._classes} classes (0 to "
                f"{self._classes - 1}); set config.data.folder.ignore_value if it means no class, or add the class"
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
            raise UserError(
                f"{path} holds the colour {tuple(map(int, colours[row, column]))}, which no line of the classes file names; "
                "add it there, or paint white what belongs to no class"
            )
        return np.where(found, label, IGNORE).astype(np.uint8)

    def _check(self, examples: list[Files]) -> dict:
        """Reads every file once. Returns {"unfit": [message], "unreadable": {image: message}, "seen": {image: [class]}}."""
        unfit, unreadable, found = [], {}, {}
        for files in examples:
            image, *masks = files.values()
            try:
                size = decode_image(image.read_bytes(), str(image)).shape[:2]
                sizes = {mask: decode_mask(mask.read_bytes(), str(mask)).shape[:2] for mask in masks}
            except UserError as error:
                unreadable[image.name] = str(error)
                continue
            wrong = [
                f"{mask} is {_by(mask_size)}, its image {_by(size)}; both must have the same pixels"
                for mask, mask_size in sizes.items()
                if mask_size != size
            ]
            unfit += wrong
            if wrong:
                continue
            try:
                found[image.name] = np.unique(self._read_truth(files)["label"]).tolist()
            except UserError as error:
                unfit.append(str(error))
        seen = {value for values in found.values() for value in values}
        if seen == {IGNORE}:
            unfit.append(
                f"all hold only the value {self._ignore}, which means no class (config.data.folder.ignore_value)"
            )
        if seen == {0, IGNORE} and not self._colours:
            unfit.append(
                f"all hold only 0 and {IGNORE}, and {IGNORE} means no class: black and white masks need colours in the "
                f"classes file, `{self.class_names[0]} 0 0 0` and `{self.class_names[1]} 255 255 255`"
            )
        return {"unfit": unfit, "unreadable": unreadable, "seen": found}


class ImageObjects(ImageMask):
    """The same folder as a source of boxes and, on request, of masks. Boxes are found once and cached.

    An object without a class is left out and listed in `bad_boxes`.
    """

    clipped_boxes = 0  # a box is around pixels

    def __init__(
        self, folder: ConfigDict, split: str, select: Callable[[int], range], cache: pathlib.Path, *, masks: bool
    ):
        if not folder.instances:
            raise UserError(
                "config.data.folder.instances='': images and masks have boxes by their objects' ids alone; write "
                "folder (ids in SPLIT/instances), or components (connected regions of the masks)"
            )
        super().__init__(folder, split, select, cache)
        self._masks = masks
        names = [files["images"].name for files in self._whole]
        found = _remember(self._cache.with_suffix(".objects.json"), names, self._find_objects)
        every = {name: np.array(found[name], np.int64).reshape(-1, 7) for name in names}
        self.bad_boxes = tuple(
            f"{name}: object {number}: no pixel of it has a class"
            for name, listed in every.items()
            for number in listed[listed[:, 6] == 0, 0]
        )
        self._listed = [every[files["images"].name] for files in self._examples]
        self._listed = [listed[listed[:, 6] > 0] for listed in self._listed]
        seen = {value for listed in self._listed for value in listed[:, 6]}
        self.absent = tuple(name for value, name in enumerate(self.class_names) if value and value not in seen)
        self.class_names, self.category_ids = self.class_names[1:], self.category_ids[:-1]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        files, listed = self._examples[index], self._listed[index]
        image = files["images"]
        example = {"image": decode_image(image.read_bytes(), str(image))} | make_objects(listed)
        if self._masks:
            folder = self._instances == "folder"
            ids = read_ids(files["instances"]) if folder else self._read_truth(files)["instances"]
            example["masks"] = cut_out(ids, listed[:, 0], listed[:, 1:5])
        return example

    def objects(self, index: int) -> tuple[Size, Objects]:
        return self.size(index), make_objects(self._listed[index])

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        return ()

    def _find_objects(self) -> dict[str, list]:
        found = {}
        for files in self._whole:
            truth = self._read_truth(files)
            found[files["images"].name] = list_objects(truth["instances"], truth["label"]).tolist()
        return found


def read_classes(path: pathlib.Path) -> tuple[tuple[str, ...], Colours | None]:
    """The names in a classes file, in order, and their colours where it gives them."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); write one class name per line into it") from None
    coloured = [
        line for line in lines if len(line) >= 4 and all(part.isdigit() and int(part) < 256 for part in line[-3:])
    ]
    if coloured and len(coloured) < len(lines):
        line = next(line for line in lines if line not in coloured)
        raise UserError(
            f"{path}: {' '.join(line)!r} has no colour, other lines do; write `name red green blue` on each"
        )
    names = tuple(" ".join(line[:-3] if coloured else line) for line in lines)
    colours = tuple(tuple(map(int, line[-3:])) for line in coloured)
    if not 2 <= len(names) <= IGNORE:
        raise UserError(f"{path} names {len(names)} classes; 2 to {IGNORE} are possible, background included")
    for what, values in (("name", names), ("colour", colours)):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise UserError(
                f"{path}: the {what} {sorted(twice)[0]!r} is listed more than once; give each class its own"
            )
    return names, colours or None


def name_classes(path: pathlib.Path, with_masks: bool) -> tuple[tuple[str, ...], Colours | None]:
    """Like `read_classes`. Without masks there are two classes, which need no file to be named."""
    if with_masks:
        return read_classes(path)
    names, _ = read_classes(path) if path.exists() else (OBJECT_CLASSES, None)
    if len(names) != 2:
        raise UserError(
            f"{path} names {len(names)} classes, but without masks there are two, with and without an object; "
            "name those, or add the masks"
        )
    return names, None


def find_files(root: pathlib.Path, split: str, with_instances: bool) -> list[Files]:
    """The files of each example of a split, sorted by the image's name. Raises UserError for an image without a mask.

    With instances, masks may be absent altogether.
    """
    images = root / split / "images"
    if not images.is_dir():
        splits = sorted(path.parent.name for path in root.glob("*/images"))
        raise UserError(f"{root} has no {split}/images; its splits are: {', '.join(splits) or 'none'}")
    paths = list_images(images)
    if not paths:
        raise UserError(f"{images} holds no image ({' '.join(SUFFIXES)})")
    for first, second in itertools.pairwise(paths):
        if first.stem == second.stem:
            raise UserError(f"{first} and {second.name} would share one mask; rename one of them")
    kinds = ["instances"] if with_instances else []
    if not with_instances or (root / split / "masks").is_dir():
        kinds.insert(0, "masks")
    examples = [{"images": path} | {kind: root / split / kind / f"{path.stem}.png" for kind in kinds} for path in paths]
    for kind in kinds:
        missing = [str(files[kind]) for files in examples if not files[kind].is_file()]
        refuse(f"{images}: {kind} that are missing", missing, "; each image needs a PNG of its own name there")
    return examples


def _remember(path: pathlib.Path, keys: Collection[str], check: Callable[[], dict]) -> dict:
    """Return what `check` finds, a dictionary with `keys`: from the cache at `path`, or else anew. A damaged cache is ignored."""
    try:
        findings = json.loads(path.read_text())
        if findings.keys() == set(keys) and all(isinstance(value, list | dict) for value in findings.values()):
            return findings
    except (OSError, ValueError, AttributeError):
        pass
    findings = check()
    with contextlib.suppress(UserError):
        write_atomically(path, json.dumps(findings).encode())
    return findings


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
