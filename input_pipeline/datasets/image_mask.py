"""`image_mask`, a user's own folder of images and masks, read in place.

It holds ROOT/SPLIT/images/NAME.jpg and ROOT/SPLIT/masks/NAME.png (or any format that Pillow reads), or has another layout of
layouts/masks.py. classes.txt has one class name per line, or `name red green blue` for masks of colours. There is no prepared
copy that could become outdated: the files are checked when the folder is opened, and the findings are stored until a name, size
or time of the files changes.

With config.data.folder.instances an example also has "instances" [H,W] int32, each object's own id, or 0 without an object.
"folder" reads ROOT/SPLIT/instances/NAME.png. Without SPLIT/masks, a pixel's class is then 1 on an object and 0 elsewhere. A
folder with ids and without masks is read so even if the field is not set. "components" uses the connected regions of the mask.
The boxes and masks of these objects are a detector's ground truth. In that case class 0 is the background, whatever its name.

Images and masks are read upright, by their EXIF orientation, or as stored where only the stored sizes agree.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user
from input_pipeline.batch import Size, count, refuse
from input_pipeline.datasets.findings import remember
from input_pipeline.datasets.holdout import find_split, mark, select_side
from input_pipeline.datasets.id_maps import find_components, list_objects, make_objects, read_ids
from input_pipeline.datasets.layouts.recognition import recognise
from input_pipeline.datasets.mask_folder import Files, find_files, name_classes
from input_pipeline.datasets.mask_values import (
    JUDGEMENTS,
    Beyond,
    MaskValues,
    is_black_and_white,
    is_enlargement,
    resize,
)
from input_pipeline.decoding import (
    choose_white,
    decode_image,
    decode_mask,
    decode_samples,
    read_header,
    read_image,
    refuse_unreadable,
)
from input_pipeline.masks import cut_out
from input_pipeline.objects import Objects
from input_pipeline.orientation import describe, note_views
from input_pipeline.remarks import add_white, name_files, note_white
from input_pipeline.sources import parse_split

DECIDED = ("turned", "stored", "resized", *JUDGEMENTS)  # decisions about images
FOUND = {"unfit", "noisy", "unreadable", "seen", "peak", *DECIDED}  # keys of the findings


class ImageMask:
    """One split of such a folder as a source. `data` is config.data, and `cache` stores the findings of the checks.

    The constructor raises UserError for every fault of the folder.
    """

    bad_boxes = ()
    provides = ("label", "instances", "boxes", "masks")

    def __init__(self, data: ConfigDict, split: str, select: Callable[[int], range], cache: pathlib.Path):
        folder = data.folder
        root = expand_user(folder.root)
        if not folder.root or not root.is_dir():
            raise UserError(
                f"config.data.folder.root={folder.root!r} is not a folder; set it to the one that holds {split}/images"
            )
        layout = recognise("image_mask", root)
        own = find_split(split, list(layout.splits), data, str(root))
        examples, passed = find_files(layout.splits[own], folder.instances == "folder")
        remarks, self.layout = [*layout.remarks(own), *passed], layout.describe()
        if data.holdout:
            marks = [mark(files["images"].name) for files in examples]
            examples = [examples[place] for place in select_side(marks, split, data)]
        self.class_names, colours = name_classes(root / folder.classes, "masks" in examples[0])
        self._values = MaskValues(folder, self.class_names, colours)
        self.category_ids = tuple(range(1, len(self.class_names) + 1))
        self._folder, self._largest = folder, data.max_pixels
        self._instances = folder.instances or ("" if "masks" in examples[0] else "folder")
        status = [path.stat() for files in examples for path in files.values()]
        names = [[path.name for path in files.values()] for files in examples]
        meaning = [names, [entry.st_size for entry in status], self.class_names, colours, folder.ignore_value]
        meaning += [self._instances] if self._instances else []
        meaning += [{"threshold": folder.threshold}] if folder.threshold else []
        meaning += ["resize_masks"] if folder.resize_masks else []
        place = _hash([str(root.resolve()), split, *meaning, [entry.st_mtime_ns for entry in status], data.max_pixels])
        self._cache = cache / f"{place}.json"
        findings = remember(self._cache, FOUND, lambda: self._check(examples))
        refuse(f"{root / split}: masks that cannot be used", findings["unfit"])
        refuse(
            f"{root / split}: masks with values between black and white",
            findings["noisy"],
            "; these look like JPEG noise or soft edges: --config.data.folder.threshold=128 reads values from 128 on as the "
            "second class",
        )
        if not folder.drop_unreadable:
            refuse_unreadable(str(root / split), list(findings["unreadable"].values()))
        self.dropped = tuple(findings["unreadable"])
        self._stored, self._resized = frozenset(findings["stored"]), frozenset(findings["resized"])
        self._whole = [files for files in examples if files["images"].name not in findings["unreadable"]]
        self._examples = [self._whole[index] for index in select(len(self._whole))]
        seen = {value for files in self._examples for value in findings["seen"][files["images"].name]}
        self.absent = tuple(name for value, name in enumerate(self.class_names) if value not in seen)
        self.peak = max(findings["peak"], default=0)
        self.white = data.white_level or choose_white(self.peak)
        remarks += note_views(findings["turned"], findings["stored"])
        remarks += count(findings["resized"], "mask was resized to its image", "masks were resized to their images")
        for judgement in JUDGEMENTS:
            remarks += name_files(self._values.describe(judgement), findings[judgement])
        self.remarks = (*remarks, *note_white(self.peak, self.white))
        if findings["turned"]:  # earlier versions read other pixels from the same files, which were not turned upright
            meaning.append({"upright": findings["turned"]})
        fingerprint = _hash([split, list(select(len(self._whole))), *meaning])  # the same wherever the folder lies
        self.fingerprint = add_white(fingerprint, self.peak, self.white)
        if not self._examples:
            raise UserError(f"{root / split}: this part of the split has no usable image; choose another part")

    @classmethod
    def open(cls, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]) -> "ImageMask":
        """Open a split (see datasets.registry). Instances are read where config.data.folder.instances is set, needed or not."""
        if "boxes" not in needs:
            return cls(data, *parse_split(split), cache=place / "image_mask")
        return ImageObjects(data, *parse_split(split), cache=place / "image_mask", masks="masks" in needs)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        files = self._examples[index]
        return {"image": self._read_image(files)} | self._read_truth(files)

    def name(self, index: int) -> str:
        return self._examples[index]["images"].name

    def size(self, index: int) -> Size:
        return self._find_size(self._examples[index])

    def image_id(self, index: int) -> int:
        return index + 1

    def _is_upright(self, files: Files) -> bool:
        return files["images"].name not in self._stored

    def _find_size(self, files: Files) -> Size:
        header = read_header(read_image(files["images"], self._largest), str(files["images"]))
        return header.upright if self._is_upright(files) else header.stored

    def _read_image(self, files: Files) -> np.ndarray:
        path, upright = files["images"], self._is_upright(files)
        return decode_image(
            read_image(path, self._largest), str(path), upright=upright, white=self.white, largest=self._largest
        )

    def _read_truth(self, files: Files) -> dict[str, np.ndarray]:
        """Return the label, and the instances where the config asks for them. Raise UserError for invalid values."""
        truth = self._read_masks(files, self._is_upright(files))
        if files["images"].name in self._resized:
            size = self._find_size(files)
            truth = {name: resize(values, size) for name, values in truth.items()}
        return truth

    def _read_masks(self, files: Files, upright: bool) -> dict[str, np.ndarray]:
        """Return the same as `_read_truth`, at the masks' own size."""
        if self._instances == "folder":
            instances = read_ids(files["instances"], upright)
            label = self._values.read(files["masks"], upright) if "masks" in files else (instances > 0).astype(np.uint8)
            return {"label": label, "instances": instances}
        label = self._values.read(files["masks"], upright)
        return {"label": label, "instances": find_components(label)} if self._instances else {"label": label}

    def _measure(self, mask: pathlib.Path, upright: bool) -> Size:
        data = read_image(mask, self._largest)
        return decode_mask(data, str(mask), upright=upright, largest=self._largest).shape[:2]

    def _check(self, examples: list[Files]) -> dict[str, list | dict]:
        """Read every file once. Return the findings FOUND, which are messages, and decisions by the images' names."""
        unfit, unreadable, seen, beyond, peak = [], {}, {}, [], 0
        decided = {decision: [] for decision in DECIDED}
        for files in examples:
            image, *masks = files.values()
            try:
                data = read_image(image, self._largest)
                header, samples = read_header(data, str(image)), decode_samples(data, str(image), largest=self._largest)
                sizes = {
                    upright: {mask: self._measure(mask, upright) for mask in masks}
                    for upright in ((True, False) if header.orientation > 1 else (True,))
                }
            except UserError as error:
                unreadable[image.name] = str(error)
                continue
            peak = max(peak, int(samples.max()) if samples.itemsize > 1 else 0)
            views = {True: header.upright, False: header.stored}
            exact = [view for view, found in sizes.items() if all(size == views[view] for size in found.values())]
            alike = [
                view
                for view, found in sizes.items()
                if all(is_enlargement(size, views[view]) for size in found.values())
            ]
            if not exact and not (alike and self._folder.resize_masks):
                remedy = ", or set --config.data.folder.resize_masks=True to resize the mask" if alike else ""
                unfit += [
                    f"{mask} is {_by(size)}, but its image is {describe(header)}; make both the same size{remedy}"
                    for mask, size in sizes[True].items()
                    if size != header.upright
                ]
                continue
            upright = (exact or alike)[0]
            if header.orientation > 1:
                decided["turned" if upright else "stored"].append(image.name)
            if not exact:
                decided["resized"].append(image.name)
            try:
                seen[image.name] = np.unique(self._read_masks(files, upright)["label"]).tolist()
                if judgement := "masks" in files and self._values.judge(files["masks"], set(seen[image.name])):
                    decided[judgement].append(image.name)
            except Beyond as error:
                beyond.append(error)
            except UserError as error:
                unfit.append(str(error))
        values = {value for found in seen.values() for value in found}
        noisy = beyond and len(self.class_names) == 2 and is_black_and_white(beyond)
        if self._folder.threshold and values == {0}:
            unfit += self._values.find_darkness(files["masks"] for files in examples if files["images"].name in seen)
        if not noisy:
            unfit += [*(str(error) for error in beyond), *self._values.find_misunderstanding(values)]
        noise = [error.short for error in beyond] if noisy else []
        found = {"unfit": unfit, "noisy": noise, "unreadable": unreadable, "seen": seen, "peak": [peak] if peak else []}
        return found | decided


class ImageObjects(ImageMask):
    """The same folder as a source of boxes and, if needed, of masks. Boxes are found once and cached.

    An object without a class is left out and listed in `bad_boxes`.
    """

    clipped_boxes = 0  # boxes surround pixels, so none reaches beyond its image

    def __init__(
        self, data: ConfigDict, split: str, select: Callable[[int], range], cache: pathlib.Path, *, masks: bool
    ):
        super().__init__(data, split, select, cache)
        if not self._instances:
            raise UserError(
                "config.data.folder.instances='' gives no boxes: they need the ids of objects; set it to folder (ids in "
                "SPLIT/instances) or components (connected regions of the masks)"
            )
        self._masks = masks
        names = [files["images"].name for files in self._whole]
        found = remember(self._cache.with_suffix(".objects.json"), names, self._find_objects)
        every = {name: np.array(found[name], np.int64).reshape(-1, 7) for name in names}
        self.bad_boxes = tuple(
            f"{name}: object {number}: none of its pixels has a class"
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
        example = {"image": self._read_image(files)} | make_objects(listed)
        if self._masks:
            example["masks"] = cut_out(self._read_truth(files)["instances"], listed[:, 0], listed[:, 1:5])
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


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
