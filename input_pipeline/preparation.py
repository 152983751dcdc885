"""Finds a dataset that tfds has prepared as array_record, or prepares it. TensorFlow is used only if tfds needs it."""

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
    """The way in which a dataset is prepared, as NAME/IDENTITY/VERSION."""

    version: str  # a glob pattern: "*" for any
    repair = BY_US  # the remedy for a damaged prepared folder

    def identify(self, folder: ConfigDict) -> str:
        """Return the name of its original data, "*" for any and "" for a dataset without any."""
        ...

    def check(self, name: str, place: pathlib.Path) -> None:
        """Raise an error where `make` would fail, before a folder is made for it."""
        ...

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        """Prepare it below `scratch` and return the prepared folder. Raise an error, also for more pixels than `largest`."""
        ...

    def remedy(self, name: str, place: pathlib.Path) -> str:
        """Return the remedy after `make` has failed."""
        ...


class Built(Preparation):
    """Preparation by a tfds builder of ours, from its code alone."""

    def __init__(self, builder: type):
        self.builder, self.version = builder, str(builder.VERSION)

    def identify(self, folder: ConfigDict) -> str:
        return ""

    def check(self, name: str, place: pathlib.Path) -> None: ...

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        return _run(self.builder(data_dir=scratch, file_format="array_record"))

    def remedy(self, name: str, place: pathlib.Path) -> str:
        return "set --tfds_data_dir or TFDS_DATA_DIR to a writable folder with enough space"


class BuiltFromFolder(Built):
    """Preparation by a tfds builder of ours from config.data.folder, repeated whenever `builder.identify(folder)` changes."""

    def identify(self, folder: ConfigDict) -> str:
        return self.builder.identify(folder) if folder.root else "*"

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        return _run(self.builder(data_dir=scratch, file_format="array_record", folder=folder, largest=largest))


class Downloaded(Preparation):
    """Preparation by tfds itself, which downloads it from `url` without TensorFlow."""

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
        # tfds would re-encode some files of the Pet set with TensorFlow. We read them as they are.
        vars(sys.modules[type(builder).__module__]).update(_CORRUPT_SAMPLES=())
        return _run(builder)

    def remedy(self, name: str, place: pathlib.Path) -> str:
        return (
            f"set --tfds_data_dir or TFDS_DATA_DIR to the folder that holds {name}/, or run this once on a machine with a "
            f"network and copy {place / name} from there"
        )


class ByTensorFlow(Preparation):
    """Preparation by tfds in another environment, with TensorFlow. `raw` names the fields that read the download itself."""

    version, repair = "*", BY_TFDS

    def __init__(self, raw: str):
        self.raw = raw

    def identify(self, folder: ConfigDict) -> str:
        return ""

    def check(self, name: str, place: pathlib.Path) -> None:
        raise UserError(
            f"config.data.name={name!r} is not prepared in {place}, and tfds needs TensorFlow to prepare it: "
            f"{self.remedy(name, place)}"
        )

    def make(self, name: str, scratch: str, folder: ConfigDict, largest: int) -> pathlib.Path:
        raise NotImplementedError  # `check` has raised an error before

    def remedy(self, name: str, place: pathlib.Path) -> str:
        return (
            "in another environment run `pip install tensorflow tensorflow-datasets`, then "
            f"`tfds build {name} --file_format=array_record --data_dir={place}`; "
            f"or set --tfds_data_dir or TFDS_DATA_DIR to the folder that holds {name}/; or, without TensorFlow, read the raw "
            f"download: {self.raw}"
        )


def find_prepared(name: str, how: Preparation, place: pathlib.Path, folder: ConfigDict) -> pathlib.Path | None:
    """Return the prepared version of a dataset below `place`, the newest where several fit.

    For a dataset made from config.data.folder, return the version of the folder's present content; without a root, the only
    version. Raise UserError where, without a root, there is none or more than one, where the folder cannot be used, and
    where all versions are damaged.
    """
    identity = how.identify(folder)
    held = [path for path in place.glob(str(pathlib.PurePath(name, identity, how.version))) if path.is_dir()]
    held = [path for path in held if VERSION.fullmatch(path.name)]
    versions = [path for path in held if (path / INFO).exists()]
    if held and not versions:
        raise UserError(f"{held[0]} is damaged (it has no {INFO}); {how.repair}")
    if identity == "*" and len(versions) != 1:
        state = f"prepared {len(versions)} times" if versions else "not prepared"
        raise UserError(
            f"config.data.name={name!r} is {state} in {place}; set config.data.folder.root to the folder with the original data"
        )
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def prepare(
    name: str, how: Preparation, place: pathlib.Path, folder: ConfigDict, largest: int = LARGEST
) -> pathlib.Path:
    """Make or download a dataset into `place`, in a scratch folder that is renamed once it is whole.

    Images of a folder may have at most `largest` pixels. Raise UserError with the remedy where it cannot be prepared here.
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
            except OSError:  # another process may have been faster: its folder is just as good
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
    """Raise OSError at once without a network. tfds itself would retry for minutes, with a message each time."""
    with contextlib.suppress(urllib.error.HTTPError):  # any answer is good
        urllib.request.urlopen(url, timeout=10).close()


def _run(builder: Any) -> pathlib.Path:
    with quiet_tfds():
        builder.download_and_prepare()
    return pathlib.Path(builder.data_path)
