"""Region proposals, boxes that may hold an object. They are found once for each image and stored next to the dataset.

OpenCV's selective search (Uijlings et al. 2013) finds them: hierarchies of merged segments, whose boxes are ranked by their
level times a random factor. The factors come from C's `rand`, which is seeded again for each image, in a process that does
nothing else. So the same pixels always have the same proposals, however many processes share the work. Alternatively they come
from a trained network, stored by `--mode=propose`.
"""

import collections
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user, open_lock, write_atomically
from input_pipeline.batch import Example, Examples, Size
from input_pipeline.stored_arrays import read_arrays, write_arrays
from terminal import Count

SHARD = 16  # images per file: a kill loses at most this much work of each process
RECENT = 8  # files whose content is kept in memory
SEED = 1
VERSION = 1  # raise it whenever the same pixels and settings give other boxes: it is part of the stored ones' name


@dataclasses.dataclass(frozen=True)
class SelectiveSearch:
    """Selective search with the settings of config.data.proposals. `count` boxes are kept, in the method's order."""

    mode: str
    longest: int
    min_side: int
    count: int

    def shrink(self, image: np.ndarray) -> np.ndarray:
        """Return the image [H,W,3] uint8 at the size that is searched. Its longer side has at most `longest` pixels."""
        scale = self.longest / max(image.shape[:2])
        if scale >= 1:
            return image
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    def find(self, image: np.ndarray, size: Size) -> np.ndarray:
        """Return proposals [N,4] float32, yxyx pixels of the stored image of `size`. N may be 0.

        `image` is the result of `shrink`. No two proposals are equal, and both sides of each have at least `min_side` pixels
        of the searched image.
        """
        ctypes.CDLL(None).srand(SEED)
        method = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        method.setBaseImage(np.ascontiguousarray(image[..., ::-1]))  # OpenCV's colours are BGR
        if self.mode == "fast":
            method.switchToSelectiveSearchFast()
        else:
            method.switchToSelectiveSearchQuality()
        left, top, width, height = np.reshape(method.process(), (-1, 4)).T
        large = (width >= self.min_side) & (height >= self.min_side)
        boxes = np.stack([top, left, top + height, left + width], -1)[large]
        boxes = (boxes * np.tile(np.divide(size, image.shape[:2]), 2)).astype(np.float32)
        _, first = np.unique(boxes, axis=0, return_index=True)
        return boxes[np.sort(first)[: self.count]]


class Store:
    """The proposals of `count` images, in files of SHARD images each below `folder`. A file is there whole or not at all."""

    def __init__(self, folder: pathlib.Path, count: int):
        self.folder, self.count = folder, count
        self._load = functools.lru_cache(maxsize=RECENT)(self._read)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the proposals [N,4] float32 of an image, yxyx pixels of the stored image, the best first."""
        boxes, ends = self._load(index // SHARD)
        start, end = ends[index % SHARD : index % SHARD + 2]
        return boxes[start:end]

    def missing(self) -> list[range]:
        """Return the images of each file that is not there yet."""
        ranges = [range(first, min(first + SHARD, self.count)) for first in range(0, self.count, SHARD)]
        return [indices for indices in ranges if not self._place(indices.start // SHARD).exists()]

    def write(self, indices: range, boxes: Sequence[np.ndarray]) -> None:
        """Store the boxes of the images `indices`, one of the ranges from `missing`."""
        ends = np.cumsum([0, *map(len, boxes)])
        arrays = {"boxes": np.concatenate(boxes).astype(np.float32), "ends": ends}
        write_arrays(self._place(indices.start // SHARD), arrays)

    def _place(self, number: int) -> pathlib.Path:
        return self.folder / f"{number:06}.npz"

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        place = self._place(number)
        boxes, ends = read_arrays(place, "boxes", "ends").values()
        images = min(SHARD, self.count - number * SHARD)
        fits = boxes.ndim == 2 and boxes.shape[1] == 4 and boxes.dtype == np.float32 and np.isfinite(boxes).all()
        if not fits or ends.shape != (images + 1,) or ends.dtype.kind not in "iu":
            raise UserError(f"{place} does not hold boxes of {images} images; move it away and start again")
        if ends[0] != 0 or ends[-1] != len(boxes) or (np.diff(ends) < 0).any():
            raise UserError(f"{place} does not assign its boxes to images; move it away and start again")
        return boxes, ends


class WithProposals:
    """A source whose examples also have their stored "proposals". Everything else comes from the source."""

    def __init__(self, source: Any, store: Store):
        self._source, self._store = source, store
        self.fingerprint = _hash([source.fingerprint, store.folder.name])

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return self._source[index] | {"proposals": self._store[index]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def proposals(self, index: int) -> np.ndarray:
        """Return the proposals [N,4] float32, yxyx pixels. No image is decoded."""
        return self._store[index]


class SearchedOnRequest:
    """Examples whose "proposals" are found each time one is read, and not kept.

    It is for images that are read once. Up to config.data.num_threads processes answer threads that read at the same time.
    """

    def __init__(self, source: Examples, data: ConfigDict):
        self._source, self._search, self._pool = source, make_search(data), start_processes(data.num_threads)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        image = example["image"]
        found = self._pool.submit(self._search.find, self._search.shrink(image), image.shape[:2])
        return example | {"proposals": found.result()}

    def name(self, index: int) -> str:
        return self._source.name(index)

    def size(self, index: int) -> Size:
        return self._source.size(index)


def open_proposals(source: Any, data: ConfigDict, split: str, place: pathlib.Path) -> Any:
    """Return `source`, a split of the dataset `data.name`, with its proposals. Find missing ones below `place` now.

    They are stored in place/proposals, in a folder named after the dataset, the split, and a hash of the data, the method and
    its settings. Found proposals are kept, so a start after a kill continues there. With the method "folder" they come from
    config.data.proposals.folder; raise UserError where it lacks some.
    """
    if data.proposals.method == "folder":
        return WithProposals(source, _open_folder(source, data, split))
    search = make_search(data)
    settings = {"version": VERSION, "method": "selective_search"} | dataclasses.asdict(search)
    store = place_store(place / "proposals", source, data.name, split, settings)
    if store.missing():
        with _alone(store.folder):
            facts = {"dataset": data.name, "split": split, "fingerprint": source.fingerprint} | settings
            write_atomically(store.folder / "made_with.json", json.dumps(facts, indent=2).encode() + b"\n")
            _fill(store, source, search, data.num_threads, f"{data.name} {split}")
    return WithProposals(source, store)


def place_store(root: pathlib.Path, source: Any, name: str, split: str, settings: dict | None = None) -> Store:
    """Return the store below `root` for the proposals of `source`, a split of the dataset `name`, found with `settings`."""
    readable = re.sub(r"[^\w-]+", "_", f"{name}-{split}").strip("_")
    return Store(root / f"{readable}-{_hash([source.fingerprint, settings])}", len(source))


def _open_folder(source: Any, data: ConfigDict, split: str) -> Store:
    root = expand_user(data.proposals.folder)
    store = place_store(root, source, data.name, split)
    missing = sum(map(len, store.missing()))
    if missing:
        raise UserError(
            f"config.data.proposals.folder={data.proposals.folder!r} lacks the proposals of {missing} of the {len(source)} "
            f"images of {data.name} {split}; write them with --mode=propose, for this split of the same data"
        )
    return store


def make_search(data: ConfigDict) -> SelectiveSearch:
    """Return the method with the settings of config.data.proposals. Raise UserError where they name another method."""
    own = data.proposals
    if own.method != "selective_search":
        raise UserError(
            f"config.data.proposals.method={own.method!r} has only stored proposals; choose selective_search for these images"
        )
    return SelectiveSearch(own.mode, own.longest, own.min_side, own.count)


def start_processes(count: int) -> concurrent.futures.ProcessPoolExecutor:
    """Start processes to search in, one thread each. They start with the first task and end when this process ends."""
    return concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)


def _begin() -> None:
    for number in (signal.SIGINT, signal.SIGUSR1):  # the parent process handles these
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _fill(store: Store, source: Any, search: SelectiveSearch, processes: int, title: str) -> None:
    """Find the proposals that are missing in `store`."""
    missing = store.missing()
    left = sum(map(len, missing))
    if not left:  # another process was faster
        return
    print(
        f"{title}: selective search ({search.mode}) now finds the proposals of {left} of {len(source)} images, once, in "
        f"{processes} processes; an image of {search.longest} pixels takes some seconds, a smaller one less; "
        f"they are stored in {store.folder}",
        flush=True,
    )
    pool = start_processes(processes)
    ahead: collections.deque[tuple[range, list[concurrent.futures.Future]]] = collections.deque()
    with Count("proposals", left) as progress:
        try:
            for indices in missing:
                images = (source[index]["image"] for index in indices)
                ahead.append(
                    (indices, [pool.submit(search.find, search.shrink(image), image.shape[:2]) for image in images])
                )
                if len(ahead) > processes:
                    _keep(store, *ahead.popleft(), progress)
            while ahead:
                _keep(store, *ahead.popleft(), progress)
        finally:
            pool.shutdown(cancel_futures=True)


def _keep(store: Store, indices: range, found: list[concurrent.futures.Future], progress: Count) -> None:
    store.write(indices, [future.result() for future in found])
    progress.add(len(indices))


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Wait until no other process fills the folder."""
    try:
        lock = open_lock(folder / ".lock")
    except OSError as error:
        raise UserError(
            f"proposals cannot be stored in {folder} ({error.strerror}); set --tfds_data_dir or TFDS_DATA_DIR to a writable "
            "folder"
        ) from error
    with lock:
        try:
            # The kernel drops the lock when the process ends, however that happens.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is finding the proposals of {folder}; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hash(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
