"""Datasets as random-access sources of decoded examples.

An example is {"image": [H,W,3] uint8 RGB, "label": [H,W] uint8 with 255 where no class is known}; image_mask adds
"instances" [H,W] int32, 0 for none, where the config asks for them. Prepared tfds folders are read as they are; the encoded
bytes are decoded here, by their content and not by their name.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import pathlib
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.batch import DataError
from input_pipeline.decoding import decode_image, decode_mask, read_size

Example = dict[str, np.ndarray]


class Source(Protocol):
    """The examples of one split, by index."""

    class_names: tuple[str, ...]
    fingerprint: str  # of what was indexed: changes when the data does
    dropped: tuple[str, ...]  # names of the files that were left out of the index
    absent: tuple[str, ...]  # classes without a single pixel in these examples; () where nobody counted

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """The example's file name, or the dataset's own id."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the image, without decoding it."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """How a tfds dataset is prepared and becomes examples. `subtract` brings its first class to 0.

    A builder of ours that is `over_folder` has `identify(root) -> str` and is made with `root`, the user's own folder: it is
    prepared anew whenever that name changes, as NAME/IDENTITY/VERSION.
    """

    class_names: tuple[str, ...]
    image: str = "image"
    label: str = "segmentation_mask"
    name: str = "file_name"
    subtract: int = 0
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


ADAPTERS = {
    "oxford_iiit_pet": Adapter(("pet", "background", "border"), subtract=1, url="https://thor.robots.ox.ac.uk"),
    "shapes": Adapter(
        ("background", "circle", "square", "triangle", "star", "ring"),
        version="1.0.0",
        builder="input_pipeline.datasets.shapes:Shapes",
    ),
    "voc_segmentation": Adapter(
        VOC_CLASSES,
        version="1.0.0",
        builder="input_pipeline.datasets.voc_segmentation:VocSegmentation",
        over_folder=True,
    ),
}


def open_source(data: ConfigDict, split: str, data_dir: str | None) -> Source:
    """The split of the dataset that the config names, prepared first where that is possible; `train[:8]` takes a part.

    Raises DataError in one line: an unknown dataset or split, data that is missing, files that cannot be used.
    """
    check_sizes(data)
    place = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    if data.name == "image_mask":
        from input_pipeline.datasets.image_mask import ImageMask

        return ImageMask(data.folder, *parse_split(split), cache=place / "image_mask")
    if data.name not in ADAPTERS:
        known = ", ".join(sorted([*ADAPTERS, "image_mask"]))
        raise DataError(f"config.data.name={data.name!r} is unknown; choose one of {known}")
    return Prepared(data.name, split, place, data.folder.root)


def check_sizes(data: ConfigDict) -> None:
    """Raises DataError unless config.data.image_size is a (height, width), and canvases a tuple of them."""

    def is_size(value) -> bool:
        return isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)

    if not is_size(data.image_size):
        raise DataError(f"config.data.image_size={data.image_size} is not a (height, width); write '(128, 128)'")
    if not isinstance(data.canvases, tuple) or not data.canvases or not all(map(is_size, data.canvases)):
        raise DataError(
            f"config.data.canvases={data.canvases} is not a tuple of (height, width); write '((128, 128),)'"
        )
    for name, size in (("image_size", data.image_size), *(("canvases", canvas) for canvas in data.canvases)):
        if not 0 <= 2 * data.margin < min(size):
            raise DataError(f"config.data.margin={data.margin} leaves nothing of config.data.{name}={size}")
    if data.num_threads < 1:
        raise DataError(f"config.data.num_threads={data.num_threads} is out of its range; it must be 1 or more")


def parse_split(split: str) -> tuple[str, Callable[[int], range]]:
    """ "train[10:20]" or "train[:50%]" -> "train", and which of that many examples are meant. Raises DataError."""
    match = re.fullmatch(r"([\w-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise DataError(f"config.data: {split!r} is no split; write train, train[:100] or train[10%:]")

    def select(count: int) -> range:
        bounds = (
            None if bound is None else round(count * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
            for bound in match.groups()[1:]
        )
        return range(count)[slice(*bounds)]

    return match[1], select


class Prepared:
    """A dataset that tfds has prepared as array_record, read without TensorFlow."""

    dropped = absent = ()

    def __init__(self, name: str, split: str, place: pathlib.Path, root: str):
        self.adapter = ADAPTERS[name]
        self.class_names = self.adapter.class_names
        folder = find_prepared(name, place, root) or prepare(name, place, root)
        with _quiet_tfds() as tfds:
            builder = tfds.builder_from_directory(folder)
            wanted, select = parse_split(split)
            if wanted not in builder.info.splits:
                known = ", ".join(builder.info.splits)
                raise DataError(f"config.data: {name} in {folder} has no split {wanted!r}; choose one of {known}")
            if not select(builder.info.splits[wanted].num_examples):
                raise DataError(f"config.data: {split!r} of {name} holds no example")
            skip = tfds.decode.SkipDecoding()
            decoders = {self.adapter.image: skip, self.adapter.label: skip}
            try:
                self._records = builder.as_data_source(split=split, decoders=decoders)
            except (NotImplementedError, ValueError) as error:
                raise DataError(
                    f"{folder} cannot be read by index ({str(error).splitlines()[0]}); it must be array_record: "
                    "move it away and start again, to prepare it anew"
                ) from error
        checksums = {key: str(info.num_examples) + str(info.num_bytes) for key, info in builder.info.splits.items()}
        self.fingerprint = hashlib.sha256(f"{name} {builder.version} {split} {checksums}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        name = self._name(record)
        image = decode_image(record[self.adapter.image], name)
        label = decode_mask(record[self.adapter.label], f"the mask of {name}") - np.uint8(self.adapter.subtract)
        if label.shape != image.shape[:2]:
            raise DataError(
                f"{name}: image {image.shape[:2]} and mask {label.shape} differ in size; prepare the set again"
            )
        return {"image": image, "label": label}

    def name(self, index: int) -> str:
        return self._name(self._records[index])

    def _name(self, record: dict) -> str:
        name = record[self.adapter.name]
        return name.decode() if isinstance(name, bytes) else str(name)

    def size(self, index: int) -> tuple[int, int]:
        return read_size(self._records[index][self.adapter.image], self.name(index))


def find_prepared(name: str, place: pathlib.Path, root: str = "") -> pathlib.Path | None:
    """The prepared version of a dataset below `place`; the newest, where any will do.

    A dataset made from the folder `root` is that folder's as it is now; without a root, the only one. Raises DataError where
    there is none or a choice, or the folder cannot be used.
    """
    adapter = ADAPTERS[name]
    identity = "" if not adapter.over_folder else adapter.load_builder().identify(root) if root else "*"
    pattern = pathlib.PurePath(name, identity, adapter.version, "dataset_info.json")
    versions = [path.parent for path in place.glob(str(pattern))]
    if identity == "*" and len(versions) != 1:
        state = f"prepared {len(versions)} times" if versions else "not prepared"
        raise DataError(
            f"config.data.name={name!r} is {state} in {place}; give the folder that it is made from as config.data.folder.root"
        )
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def prepare(name: str, place: pathlib.Path, root: str = "") -> pathlib.Path:
    """Makes or downloads a dataset into `place`, in a folder of its own that is renamed when it is whole.

    Raises DataError where that is not possible here, with what to do instead.
    """
    adapter = ADAPTERS[name]
    print(f"preparing {name} in {place}", flush=True)
    try:
        if adapter.url:
            reach(adapter.url)
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=place) as scratch, _quiet_tfds() as tfds:
            if adapter.builder:
                source = {"root": root} if adapter.over_folder else {}
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
    except DataError:
        raise
    except Exception as error:
        if find_prepared(name, place, root) is None:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            remedy = (
                "give a folder that can be written, with room for it, as --tfds_data_dir or TFDS_DATA_DIR"
                if adapter.builder
                else f"give the folder that holds {name}/ as --tfds_data_dir or TFDS_DATA_DIR, or start this once "
                f"where there is a network and copy {place / name} from there"
            )
            raise DataError(
                f"config.data.name={name!r} is not prepared in {place} and cannot be prepared here ({reason}); {remedy}"
            ) from error
    return find_prepared(name, place, root)


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
