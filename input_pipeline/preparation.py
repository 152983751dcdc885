"""Finds a dataset that tfds has prepared as array_record, or prepares it: without TensorFlow, unless tfds itself needs it."""

import contextlib
import pathlib
import re
import sys
import urllib.error
import urllib.request
from typing import Any, Protocol

from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import scratch_folders
from input_pipeline.decoding import LARGEST
from input_pipeline.prepared_folder import BY_TFDS, BY_US, INFO, quiet_tfds, seal

VERSION = re.compile(r"\d+\.\d+\.\d+")


class Preparation(Protocol):
    """How a dataset comes to be prepared, as NAME/IDENTITY/VERSION."""

    version: str  # a glob pattern: "*" for any
    anew = BY_US  # what to do where the prepared folder is damaged

    def identify(self, folder: ConfigDict) -> str:
        """The name of what it is made from, "*" for any and "" for a dataset that is made from nothing."""

    def check(self, name: str, place: pathlib.Path) -> None:
        """Raises anything where `make` would fail, before a folder is made for it."""

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        """Prepares it below `scratch`; returns the prepared folder. Raises anything, also for more pixels than `largest`."""

    def remedy(self, name: str, place: pathlib.Path) -> str:
        """What to do where `make` has failed."""


class Built(Preparation):
    """By a tfds builder of ours, from its code alone."""

    def __init__(self, builder: type):
        self.builder, self.version = builder, str(builder.VERSION)

    def identify(self, folder: ConfigDict) -> str:
        return ""

    def check(self, name: str, place: pathlib.Path) -> None: ...

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        return _run(self.builder(data_dir=scratch, file_format="array_record"))

    def remedy(self, name: str, place: pathlib.Path) -> str:
        return "give a folder that can be written, with room for it, as --tfds_data_dir or TFDS_DATA_DIR"


class BuiltFromFolder(Built):
    """By a tfds builder of ours from config.data.folder, anew whenever `builder.identify(folder)` changes."""

    def identify(self, folder: ConfigDict) -> str:
        return self.builder.identify(folder) if folder.root else "*"

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        return _run(self.builder(data_dir=scratch, file_format="array_record", folder=folder, largest=largest))


class Downloaded(Preparation):
    """By tfds itself, which downloads it from `url` and needs no TensorFlow for it."""

    version = "*"

    def __init__(self, url: str):
        self.url = url

    def identify(self, folder: ConfigDict) -> str:
        return ""

    def check(self, name: str, place: pathlib.Path) -> None:
        reach(self.url)

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        with quiet_tfds() as tfds:
            builder = tfds.builder(name, data_dir=scratch, file_format="array_record")
        # tfds would encode the Pet set's odd files anew, with TensorFlow. We read them as they are.
        vars(sys.modules[type(builder).__module__]).update(_CORRUPT_SAMPLES=())
        return _run(builder)

    def remedy(self, name: str, place: pathlib.Path) -> str:
        return (
            f"give the folder that holds {name}/ as --tfds_data_dir or TFDS_DATA_DIR, or start this once where there is a "
            f"network and copy {place / name} from there"
        )


class ByTensorFlow(Preparation):
    """By tfds in another environment, with TensorFlow; `raw` are the fields that read the unpacked download without it."""

    version, anew = "*", BY_TFDS

    def __init__(self, raw: str):
        self.raw = raw

    def identify(self, folder: ConfigDict) -> str:
        return ""

    def check(self, name: str, place: pathlib.Path) -> None:
        raise UserError(
            f"config.data.name={name!r} is not prepared in {place}, and tfds needs TensorFlow for that: in another environment "
            "`pip install tensorflow tensorflow-datasets`, then "
            f"`tfds build {name} --file_format=array_record --data_dir={place}`; "
            f"or give the folder that holds {name}/ as --tfds_data_dir or TFDS_DATA_DIR; or, without TensorFlow, read the raw "
            f"download: {self.raw}"
        )


def find_prepared(name: str, how: Preparation, place: pathlib.Path, folder: ConfigDict) -> pathlib.Path | None:
    """The prepared version of a dataset below `place`; the newest, where any will do.

    A dataset over config.data.folder is that folder's as it is now; without a root, the only one. Raises UserError where
    there is none or a choice, or the folder cannot be used, and where all that is there is damaged.
    """
    identity = how.identify(folder)
    held = [path for path in place.glob(str(pathlib.PurePath(name, identity, how.version))) if path.is_dir()]
    held = [path for path in held if VERSION.fullmatch(path.name)]
    versions = [path for path in held if (path / INFO).exists()]
    if held and not versions:
        raise UserError(f"{held[0]} is damaged (it has no {INFO}); {how.anew}")
    if identity == "*" and len(versions) != 1:
        state = f"prepared {len(versions)} times" if versions else "not prepared"
        raise UserError(
            f"config.data.name={name!r} is {state} in {place}; give the folder that it is made from as config.data.folder.root"
        )
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def prepare(
    name: str, how: Preparation, place: pathlib.Path, folder: ConfigDict, largest: int = LARGEST
) -> pathlib.Path:
    """Makes or downloads a dataset into `place`, in a folder of its own that is renamed when it is whole.

    The images of a folder have at most `largest` pixels.

    Raises UserError where that is not possible here, with what to do instead.
    """
    try:
        how.check(name, place)
        print(f"preparing {name} in {place}", flush=True)
        place.mkdir(parents=True, exist_ok=True)
        scratch_folders.clean(place)
        with scratch_folders.make(place, name) as scratch:
            made = how.make(name, str(scratch), folder, largest)
            seal(made)
            target = place / made.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.rename(target)
            except OSError:  # another process may have been faster: its folder is as good
                if not (target / INFO).exists():
                    raise
    except UserError:
        raise
    except Exception as error:
        if (found := find_prepared(name, how, place, folder)) is not None:
            return found
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"config.data.name={name!r} is not prepared in {place} and cannot be prepared here ({reason}); "
            f"{how.remedy(name, place)}"
        ) from error
    return target


def reach(url: str) -> None:
    """Raises OSError at once where there is no network; tfds itself would retry for minutes, with a message each time."""
    with contextlib.suppress(urllib.error.HTTPError):  # any answer is good
        urllib.request.urlopen(url, timeout=10).close()


def _run(builder: Any) -> pathlib.Path:
    with quiet_tfds():
        builder.download_and_prepare()
    return pathlib.Path(builder.data_path)
