"""`voc_segmentation`, PASCAL VOC's segmentation task, prepared from the user's own VOCdevkit. Nothing is downloaded.

config.data.folder.root is the VOCdevkit (VOC2012 in it is read, else its only year) or the folder of a year, which holds
JPEGImages/NAME.jpg, SegmentationClass/NAME.png and ImageSets/Segmentation/{train,val,trainval}.txt, one name per line. Masks are
palette or grey images whose values are the classes, with 255 for void. Suffixes do not matter. Images and masks are stored byte
for byte.
"""

import functools
import hashlib
import os
import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user, leads_out
from input_pipeline.batch import IGNORE, refuse
from input_pipeline.datasets.id_maps import is_jpeg
from input_pipeline.datasets.layouts.voc import check_once, read_list
from input_pipeline.datasets.mask_folder import find_name
from input_pipeline.datasets.prepared import Dataset, read_label, read_text
from input_pipeline.decoding import decode_image, decode_mask, list_images, read_header, read_image
from input_pipeline.orientation import is_mask_upright
from input_pipeline.preparation import BuiltFromFolder

CLASS_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
SPLITS = ("train", "val", "trainval")


class VocSegmentation(tfds.core.GeneratorBasedBuilder):
    """The tfds builder of the VOCdevkit in config.data.folder.root. Its config's name is a hash of the devkit's content.

    The constructor raises UserError for a folder that is not a VOCdevkit. Preparation raises it for unusable files.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(self, *, folder: ConfigDict, largest: int, **options):
        self._largest = largest
        self._year = find_year(folder.root)
        super().__init__(config=tfds.core.BuilderConfig(name=self.identify(folder)), **options)

    @staticmethod
    def identify(folder: ConfigDict) -> str:
        """Return a name that changes with the lists, and with the names, sizes and times of the listed files."""
        year = find_year(folder.root)
        content = []
        for split, stems in list_splits(year).items():
            status = [path.stat() for stem in stems for path in files_of(year, stem)]
            content.append((split, stems, [(entry.st_size, entry.st_mtime_ns) for entry in status]))
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),  # of CLASS_NAMES
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="PASCAL VOC: photographs with the class of each pixel, 255 where it is void.",
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # examples stay in the order of the lists
        )

    def _split_generators(self, dl_manager):
        splits = list_splits(self._year)
        wrong = []
        for stem in dict.fromkeys(stem for stems in splits.values() for stem in stems):
            try:
                check(*files_of(self._year, stem), self._largest)
            except UserError as error:
                wrong.append(str(error))
        refuse(
            f"{self._year}: files that cannot be used", wrong, "; correct them, or remove their names from the lists"
        )
        return {split: self._generate_examples(stems) for split, stems in splits.items()}

    def _generate_examples(self, stems: list[str]):
        for number, stem in enumerate(stems):
            image, mask = files_of(self._year, stem)
            yield (
                number,
                {
                    "file_name": image.name,
                    "image": read_image(image, self._largest),
                    "segmentation_mask": read_image(mask, self._largest),
                },
            )


def find_year(root: str) -> pathlib.Path:
    """Return the folder of one year's challenge. Raise UserError if `root` is not a VOCdevkit."""
    place = expand_user(root)
    years = sorted(path.parent for path in place.glob("VOC20[0-9][0-9]/ImageSets"))
    if (place / "ImageSets").is_dir():
        return place
    if place / "VOC2012" in years:
        return place / "VOC2012"
    if len(years) == 1:
        return years[0]
    held = f"holds {', '.join(path.name for path in years)}" if years else "does not hold VOC2012"
    remedy = "set it to one of them" if years else "set it to the VOCdevkit, or to a VOC20xx folder with ImageSets"
    raise UserError(f"config.data.folder.root={root!r} {held}; {remedy}")


def read_names(path: pathlib.Path, year: pathlib.Path) -> list[str]:
    """Return the names in one of VOC's lists, as lines, or as words where a line is not a mask's name. Raise UserError."""
    lines = read_list(path)
    return [stem for line in lines for stem in ([line] if os.path.isfile(files_of(year, line)[1]) else line.split())]


def list_splits(year: pathlib.Path) -> dict[str, list[str]]:
    """Return the names in each existing list, in its order. Raise UserError for no list, an empty one, a missing file."""
    lists = {split: year / "ImageSets" / "Segmentation" / f"{split}.txt" for split in SPLITS}
    splits = {split: read_names(path, year) for split, path in lists.items() if path.is_file()}
    if not splits:
        raise UserError(
            f"{lists['train'].parent} has none of {', '.join(path.name for path in lists.values())}; add the lists of names"
        )
    for split, stems in splits.items():
        check_once(lists[split], stems)
        refuse(
            f"{lists[split]}: names that lead out of {year}",
            list(filter(leads_out, stems)),
            "; remove them from the list",
        )
        missing = [str(path) for stem in stems for path in files_of(year, stem) if not os.path.isfile(path)]
        refuse(f"{lists[split]}: missing files", missing, "; add them, or remove their names from the list")
    return splits


def check(image: pathlib.Path, mask: pathlib.Path, largest: int) -> None:
    """Raise UserError unless image and mask decode to one size, of at most `largest` pixels.

    The mask must hold only classes and void.
    """
    data = read_image(image, largest)
    decode_image(data, str(image), largest=largest)
    values = decode_mask(read_image(mask, largest), str(mask), largest=largest)
    if is_jpeg(mask):
        raise UserError(f"{mask} is a JPEG, which changes values; use VOC's own masks, which are palette PNGs")
    if values.ndim == 3:
        raise UserError(f"{mask} holds colours; use VOC's own masks, which are palette PNGs whose index is the class")
    is_mask_upright(read_header(data, str(image)), values.shape, str(image), str(mask))
    beyond = (values != IGNORE) & ((values < 0) | (values >= len(CLASS_NAMES)))
    if beyond.any():
        raise UserError(
            f"{mask} holds the value {values[beyond][0]}, but the classes are 0 to {len(CLASS_NAMES) - 1}; set other pixels to "
            f"{IGNORE}"
        )


def files_of(year: pathlib.Path, stem: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Return image and mask of a name, whatever their suffixes, or NAME.jpg and NAME.png where they do not exist."""
    image, mask = year / "JPEGImages" / f"{stem}.jpg", year / "SegmentationClass" / f"{stem}.png"
    return _find(image), _find(mask)


def _find(path: pathlib.Path) -> pathlib.Path:
    return path if path.is_file() else _index(path.parent).get(find_name(path), path)


def _index(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the images in a folder by name. The folder is listed again after a change."""
    return _index_as_of(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}


@functools.lru_cache(maxsize=8)
def _index_as_of(folder: pathlib.Path, changed: int) -> dict[str, pathlib.Path]:
    return {find_name(path): path for path in list_images(folder)}


VOC_SEGMENTATION = Dataset(
    preparation=BuiltFromFolder(VocSegmentation),
    name=lambda record: read_text(record, "file_name"),
    class_names=CLASS_NAMES,
    read_label=read_label,
)
