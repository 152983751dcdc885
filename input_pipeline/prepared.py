"""Datasets that tfds has prepared as array_record: which there are, how one is prepared, and its examples, decoded.

Prepared folders are read as they are, without TensorFlow; the encoded bytes are decoded here, by their content and not by
their name.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import pathlib
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.datasets import annotations
from input_pipeline.decoding import decode_image, decode_mask, read_size, refuse_unreadable
from input_pipeline.objects import Objects, area, clip
from input_pipeline.splits import parse_split
from input_pipeline.transforms import Size

Example = dict[str, np.ndarray]  # input_pipeline/sources.py says what it holds
RECENT = 64  # records that are kept, encoded


@dataclasses.dataclass(frozen=True)
class Adapter:
    """How a tfds dataset is prepared and becomes examples. `subtract` brings its first class to 0.

    A builder of ours that is `over_folder` has `identify(folder) -> str` and is made with `folder`, config.data.folder: it is
    prepared anew whenever that name changes, as NAME/IDENTITY/VERSION.
    """

    class_names: tuple[str, ...] = ()  # of the label; those of boxes stand in the prepared set
    truths: tuple[str, ...] = ("label",)
    image: str = "image"
    label: str = "segmentation_mask"
    instances: str = ""  # where the masks of objects are one picture, i + 1 for the i-th of them
    name: str = "file_name"
    image_id: str = ""
    subtract: int = 0
    whole_pixels: bool = False  # boxes were whole pixels before tfds divided them by the size
    first_pixel: int = 0  # 1 where pixels count from 1 and the last one is the box's
    category_ids: tuple[int, ...] = ()  # where the prepared set does not tell them
    by_tensorflow: bool = False  # tfds needs TensorFlow to prepare it
    version: str = "*"  # the one our builder makes; any of a registered builder's
    url: str = ""  # where tfds downloads it from; none for a dataset of ours
    builder: str = ""  # "module:Class" of ours; none for one that tfds has registered
    over_folder: bool = False  # made from config.data.folder.root

    def load_builder(self) -> Any:
        module, name = self.builder.split(":")
        return getattr(importlib.import_module(module), name)


VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


# COCO's own numbers of its 80 classes: 1 to 90 without those that no object was annotated with.
COCO_IDS = tuple(sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))


def _of_tensorflow(**fields) -> Adapter:
    return Adapter(truths=("boxes",), name="image/filename", by_tensorflow=True, **fields)


def _over_folder(builder: str, truths: tuple[str, ...], image_id: str = "") -> Adapter:
    return Adapter(truths=truths, image_id=image_id, version="1.0.0", builder=builder, over_folder=True)


ADAPTERS = {
    "coco/2017": _of_tensorflow(image_id="image/id", category_ids=COCO_IDS),
    "voc/2007": _of_tensorflow(first_pixel=1),
    "voc/2012": _of_tensorflow(first_pixel=1),
    "oxford_iiit_pet": Adapter(("pet", "background", "border"), subtract=1, url="https://thor.robots.ox.ac.uk"),
    "shapes": Adapter(
        ("background", "circle", "square", "triangle", "star", "ring"),
        truths=("label", "boxes", "masks"),
        instances="instance_mask",
        whole_pixels=True,
        version="1.0.0",
        builder="input_pipeline.datasets.shapes:Shapes",
    ),
    "voc_segmentation": Adapter(
        VOC_CLASSES,
        version="1.0.0",
        builder="input_pipeline.datasets.voc_segmentation:VocSegmentation",
        over_folder=True,
    ),
    "coco_folder": _over_folder("input_pipeline.datasets.coco_folder:CocoFolder", ("boxes", "masks"), "image/id"),
    "voc_folder": _over_folder("input_pipeline.datasets.voc_folder:VocFolder", ("boxes",)),
    "yolo_folder": _over_folder("input_pipeline.datasets.yolo_folder:YoloFolder", ("boxes", "masks")),
}


class Prepared:
    """A dataset that tfds has prepared as array_record, read without TensorFlow. A subclass reads its examples."""

    absent: tuple[str, ...] = ()
    class_names: tuple[str, ...]

    def __init__(self, data: ConfigDict, split: str, place: pathlib.Path):
        name = data.name
        self.adapter = ADAPTERS[name]
        folder = find_prepared(name, place, data.folder) or prepare(name, place, data.folder)
        with _quiet_tfds() as tfds:
            builder = tfds.builder_from_directory(folder)
            wanted, select = parse_split(split)
            if wanted not in builder.info.splits:
                known = ", ".join(builder.info.splits)
                raise UserError(f"config.data: {name} in {folder} has no split {wanted!r}; choose one of {known}")
            if not select(builder.info.splits[wanted].num_examples):
                raise UserError(f"config.data: {split!r} of {name} holds no example")
            self._features = builder.info.features
            images = [key for key, feature in self._features.items() if isinstance(feature, tfds.features.Image)]
            try:
                decoders = dict.fromkeys(images, tfds.decode.SkipDecoding())
                self._records = builder.as_data_source(split=split, decoders=decoders)
                # Name, size, boxes and image of an example are asked for one by one, and each needs the record.
                self._record = functools.lru_cache(maxsize=RECENT)(self._records.__getitem__)
            except (NotImplementedError, ValueError) as error:
                raise UserError(
                    f"{folder} cannot be read by index ({str(error).splitlines()[0]}); it must be array_record: "
                    "move it away and start again, to prepare it anew"
                ) from error
        metadata = dict(builder.info.metadata.items())
        self._findings = metadata.get("findings", {}).get(wanted, {})
        self._category_ids = tuple(metadata.get("category_ids", self.adapter.category_ids))
        self.dropped = tuple(self._findings.get("dropped", ()))
        self.bad_boxes = tuple(self._findings.get("bad_boxes", ()))
        self.clipped_boxes = self._findings.get("clipped_boxes", 0)
        if self.dropped and not data.folder.drop_unreadable:
            refuse_unreadable(f"{name} {wanted}", list(self.dropped))
        checksums = {key: str(info.num_examples) + str(info.num_bytes) for key, info in builder.info.splits.items()}
        content = self._findings.get("content", "")  # of a folder: the sizes alone would not tell every change
        self.fingerprint = hashlib.sha256(
            f"{name} {builder.version} {split} {checksums}{content}".encode()
        ).hexdigest()[:16]

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self._category_ids or tuple(range(1, len(self.class_names) + 1))

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return self._name(self._record(index))

    def _name(self, record: dict) -> str:
        name = record[self.adapter.name]
        return name.decode() if isinstance(name, bytes) else str(name)

    def image_id(self, index: int) -> int:
        return int(self._record(index)[self.adapter.image_id]) if self.adapter.image_id else index + 1

    def size(self, index: int) -> Size:
        return self._size(self._record(index))

    def _size(self, record: dict) -> Size:
        if "image/size" in record:
            height, width = map(int, record["image/size"])
            return height, width
        return read_size(record[self.adapter.image], self._name(record))


class PreparedLabels(Prepared):
    """Images with the class of each pixel."""

    def __init__(self, data: ConfigDict, split: str, place: pathlib.Path):
        super().__init__(data, split, place)
        self.class_names = self.adapter.class_names

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        name = self._name(record)
        image = decode_image(record[self.adapter.image], name)
        label = decode_mask(record[self.adapter.label], f"the mask of {name}") - np.uint8(self.adapter.subtract)
        if label.shape != image.shape[:2]:
            raise UserError(
                f"{name}: image {image.shape[:2]} and mask {label.shape} differ in size; prepare the set again"
            )
        return {"image": image, "label": label}


class PreparedObjects(Prepared):
    """Images with the boxes of objects, and with their masks where config.data.truth asks for them."""

    def __init__(self, data: ConfigDict, split: str, place: pathlib.Path):
        super().__init__(data, split, place)
        import tensorflow_datasets as tfds

        features = self._features["objects"]
        self.class_names = tuple(features["label"].names)
        self._relative = isinstance(features["bbox"], tfds.features.BBoxFeature)
        self._with_masks = data.truth == "masks"
        unmasked = self._findings.get("unmasked", 0)
        if self._with_masks and unmasked:
            raise UserError(
                f"config.data.truth='masks': {unmasked} objects of {split} in {data.name} have no mask "
                f"({self._findings['first_unmasked']}); draw them, or choose boxes"
            )

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        image = decode_image(record[self.adapter.image], self._name(record))
        objects, keep, _ = self._read(record, image.shape[:2])
        if self._with_masks:
            objects["masks"] = self._read_masks(record, image.shape[:2])[keep]
        return {"image": image} | objects

    def objects(self, index: int) -> tuple[Size, Objects]:
        record = self._record(index)
        size = self._size(record)
        return size, self._read(record, size)[0]

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        record = self._record(index)
        _, _, reasons = self._read(record, self._size(record))
        labels = record["objects"]["label"]
        return tuple(
            annotations.describe(self._name(record), i + 1, self.class_names[labels[i]], reason)
            for i, reason in enumerate(reasons)
            if reason
        )

    def _read(self, record: dict, size: Size) -> tuple[Objects, np.ndarray, list[str]]:
        """The good objects of a record; and of all that it lists, which are good [N] bool and what is wrong with others."""
        listed = record["objects"]
        boxes = np.array(listed["bbox"], np.float64).reshape(-1, 4)
        if self._relative:
            boxes = boxes * np.tile(size, 2)
        if self.adapter.whole_pixels:
            boxes = np.rint(boxes)
        boxes[:, :2] -= self.adapter.first_pixel
        keep, reasons = annotations.clean(boxes, size)
        boxes = clip(boxes, (0, 0, *size))

        def read(key: str, dtype: type, otherwise: np.ndarray) -> np.ndarray:
            return np.array(listed.get(key, otherwise), dtype)[keep]

        none = np.zeros(len(boxes))
        objects = {
            "boxes": boxes[keep],
            "classes": read("label", np.int32, none),
            "crowd": read("is_crowd", np.bool_, none),
            "difficult": read("is_difficult", np.bool_, none),
            "area": read("area", np.float64, area(boxes)),
        }
        return objects, keep, reasons

    def _read_masks(self, record: dict, size: Size) -> np.ndarray:
        """Masks [N,H,W] bool of all objects that a record lists."""
        if not self.adapter.instances:
            return annotations.decode_masks(record["objects"]["mask"], size)
        instances = decode_mask(record[self.adapter.instances], f"the instances of {self._name(record)}")
        return instances == np.arange(1, len(record["objects"]["label"]) + 1)[:, None, None]


def find_prepared(name: str, place: pathlib.Path, folder: ConfigDict | None = None) -> pathlib.Path | None:
    """The prepared version of a dataset below `place`; the newest, where any will do.

    A dataset over config.data.folder is that folder's as it is now; without a root, the only one. Raises UserError where
    there is none or a choice, or the folder cannot be used.
    """
    adapter = ADAPTERS[name]
    identity = ""
    if adapter.over_folder:
        identity = adapter.load_builder().identify(folder) if folder.root else "*"
    pattern = pathlib.PurePath(name, identity, adapter.version, "dataset_info.json")
    versions = [path.parent for path in place.glob(str(pattern))]
    if identity == "*" and len(versions) != 1:
        state = f"prepared {len(versions)} times" if versions else "not prepared"
        raise UserError(
            f"config.data.name={name!r} is {state} in {place}; give the folder that it is made from as config.data.folder.root"
        )
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def prepare(name: str, place: pathlib.Path, folder: ConfigDict | None = None) -> pathlib.Path:
    """Makes or downloads a dataset into `place`, in a folder of its own that is renamed when it is whole.

    Raises UserError where that is not possible here, with what to do instead.
    """
    adapter = ADAPTERS[name]
    if adapter.by_tensorflow:
        raise UserError(
            f"config.data.name={name!r} is not prepared in {place}, and tfds needs TensorFlow for that: in another environment "
            "`pip install tensorflow tensorflow-datasets`, then "
            f"`tfds build {name} --file_format=array_record --data_dir={place}`; "
            f"or give the folder that holds {name}/ as --tfds_data_dir or TFDS_DATA_DIR"
        )
    print(f"preparing {name} in {place}", flush=True)
    try:
        if adapter.url:
            reach(adapter.url)
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place) as scratch, _quiet_tfds() as tfds:
            if adapter.builder:
                source = {"folder": folder} if adapter.over_folder else {}
                builder = adapter.load_builder()(data_dir=scratch, file_format="array_record", **source)
            else:
                builder = tfds.builder(name, data_dir=scratch, file_format="array_record")
                # tfds would encode the Pet set's odd files anew, with TensorFlow. We read them as they are.
                vars(sys.modules[type(builder).__module__]).update(_CORRUPT_SAMPLES=())
            builder.download_and_prepare()
            made = pathlib.Path(builder.data_path)
            target = place / made.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Another process may have been faster: its folder is as good.
            with contextlib.suppress(OSError):
                made.rename(target)
    except UserError:
        raise
    except Exception as error:
        if find_prepared(name, place, folder) is None:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            remedy = (
                "give a folder that can be written, with room for it, as --tfds_data_dir or TFDS_DATA_DIR"
                if adapter.builder
                else f"give the folder that holds {name}/ as --tfds_data_dir or TFDS_DATA_DIR, or start this once "
                f"where there is a network and copy {place / name} from there"
            )
            raise UserError(
                f"config.data.name={name!r} is not prepared in {place} and cannot be prepared here ({reason}); {remedy}"
            ) from error
    return find_prepared(name, place, folder)


def reach(url: str) -> None:
    """Raises OSError at once where there is no network; tfds itself would try for minutes, and say so each time."""
    with contextlib.suppress(urllib.error.HTTPError):  # any answer is good
        urllib.request.urlopen(url, timeout=10).close()


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[Any]:
    """tfds, imported when it is needed (it takes seconds), without its progress bars."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield tfds
