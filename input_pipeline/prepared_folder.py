"""A folder that tfds has prepared. It is sealed when made, checked when opened, and its records are read by index.

Files of records carry the checksums of array_record (Riegeli's, one per chunk and per header), so a flipped bit in a record is
found when the record is read. tfds's other files, JSON and lists of names, have no checksums. `seal` writes checksums of these,
and the sizes of the files of records, into checksums.json. A folder without it was prepared by tfds alone, or by an earlier
version.
"""

import contextlib
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from errors import UserError
from files import read_bytes, read_json, write_atomically
from limits import METADATA

SEAL = "checksums.json"
RECORDS = "array_record"  # in the names of the files of records
INFO, FEATURES = "dataset_info.json", "features.json"
CLASSES = "tensorflow_datasets."  # features.json names the classes of the features, and tfds imports them
BY_US = "move it away, and it will be prepared again"
BY_TFDS = "move it away, and prepare it again with `tfds build --file_format=array_record`"


@contextlib.contextmanager
def quiet_tfds() -> Iterator[Any]:
    """Import tfds when it is needed (it takes seconds), without its progress bars."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield tfds


def seal(folder: pathlib.Path) -> None:
    """Write the sizes of a prepared folder's files, and the SHA-256 of the files without their own checksums."""
    write_atomically(folder / SEAL, json.dumps(_measure(folder), indent=1).encode())


def _measure(folder: pathlib.Path) -> dict[str, list]:
    return {
        path.name: [path.stat().st_size, "" if RECORDS in path.name else _hash(path)]
        for path in sorted(folder.iterdir())
        if path.name != SEAL
    }


def _hash(path: pathlib.Path) -> str:
    return hashlib.sha256(read_bytes(path, METADATA)).hexdigest()


class PreparedFolder:
    """A folder that tfds has prepared. Every error of a damaged one names it and the remedy `repair`."""

    def __init__(self, folder: pathlib.Path, repair: str = BY_US):
        self.folder, self._repair = folder, repair
        self._check()
        with quiet_tfds() as tfds, self._reading("it cannot be opened by tfds"):
            self._builder = tfds.builder_from_directory(folder)
            info = self._builder.info
            self.features = dict(info.features.items())
            self.metadata = dict(info.metadata.items())
            self.splits = {key: (split.num_examples, split.num_bytes) for key, split in info.splits.items()}
            self.version = str(self._builder.version)
            self.images = [key for key, kind in self.features.items() if isinstance(kind, tfds.features.Image)]

    def refuse(self, reason: str) -> NoReturn:
        raise UserError(f"{self.folder} is damaged ({reason}); {self._repair}")

    def open_records(self, split: str) -> "Records":
        """Return the records of a split by index, images encoded. Raise UserError, also when a damaged record is read."""
        with quiet_tfds() as tfds, self._reading("its records cannot be opened"):
            try:
                decoders = dict.fromkeys(self.images, tfds.decode.SkipDecoding())
                records = self._builder.as_data_source(split=split, decoders=decoders)
            except NotImplementedError as error:
                reason = f"{self.folder} cannot be read by index ({_shorten(error)}); it must hold array_record files"
                raise UserError(f"{reason}: {self._repair}") from error
            return Records(self, records)

    def _check(self) -> None:
        with self._reading("its files cannot be listed"):
            if not (self.folder / INFO).is_file():
                self.refuse(f"it has no {INFO}")
            for path in self.folder.glob("*.json"):  # tfds reads these whole
                read_bytes(path, METADATA)
            named = re.findall(rb'"pythonClassName":\s*"([^"]*)"', read_bytes(self.folder / FEATURES, METADATA))
            foreign = [name.decode(errors="replace") for name in named if not name.startswith(CLASSES.encode())]
            if foreign:
                self.refuse(f"{FEATURES} names the class {foreign[0][:80]}, which does not belong to tfds")
            if (self.folder / SEAL).exists():
                sealed, found = read_json(self.folder / SEAL, METADATA), _measure(self.folder)
                wrong = [name for name in sealed if found.get(name) != sealed[name]]
                if wrong:
                    state = "changed since the preparation" if wrong[0] in found else "missing"
                    self.refuse(f"{wrong[0]} is {state}")

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn any error that tfds raises for a damaged file into a UserError."""
        try:
            yield
        except UserError as error:
            if str(self.folder) in str(error) and self._repair in str(error):
                raise
            self.refuse(str(error))
        except ImportError as error:
            if (error.name or "").startswith(CLASSES.rstrip(".")):
                self.refuse(f"{what}: {_shorten(error)}")
            raise UserError(
                f"{self.folder} cannot be opened by tfds, which needs a missing package ({_shorten(error)}); install it"
            ) from error
        except Exception as error:  # tfds does not check its files: truncated JSON raises errors of any type
            self.refuse(f"{what}: {_shorten(error)}")


class Records:
    """The records of a split by index."""

    def __init__(self, folder: PreparedFolder, records: Sequence[dict[str, Any]]):
        self._folder, self._records = folder, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._folder._reading(f"record {index} cannot be read"):
            return self._records[index]


def _shorten(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
