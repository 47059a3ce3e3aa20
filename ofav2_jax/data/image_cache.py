"""Decoded images on disk: a uint8 array that later runs map into memory instead of decoding the images again."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_IMAGES, _LABELS, _INFO = "images.npy", "labels.npy", "info.json"
# The number of images that the digest covers; reading all of them would make each start too long.
_DIGESTED_IMAGES = 256
_DECODED_TOGETHER = 500
# The exceptions from reading a file that is missing, cut short or something else.
_UNUSABLE = (OSError, EOFError, ValueError, KeyError, TypeError)


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images and labels, training images first.

    Attributes:
        images: uint8 [N, R, R, 3], read-only, mapped from a file.
        labels: int32 [N].
        num_train: number of training images; the others are test images.
        num_classes: number of classes.
    """

    images: np.ndarray
    labels: np.ndarray
    num_train: int
    num_classes: int


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Encoded images that can be decoded in any order.

    Attributes:
        lengths: numbers of images in the training and in the test split.
        num_classes: number of classes.
        decode: a function from a split (0: training, 1: test) and a range of its images to uint8 [n, R, R, 3] and
            their labels [n]; called by several threads.
    """

    lengths: tuple[int, int]
    num_classes: int
    decode: Callable[[int, range], tuple[np.ndarray, np.ndarray]]


def default_cache_dir() -> Path:
    """The folder `ofav2_jax` in the user's cache folder, $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ofav2_jax"


def cached_images(
    directory: Path, name: str, version: str, resolution: int, open_source: Callable[[], ImageSource]
) -> DecodedImages:
    """Loads decoded images from the cache; if they are missing or unusable, decodes and caches them.

    A folder appears under its name only when it is complete. Processes that need the same folder wait for each
    other; the incomplete folder of a killed process is replaced.

    Args:
        directory: the cache folder of this array alone.
        name: the data set's name.
        version: the data set's version.
        resolution: R, height and width of the images, pixels.
        open_source: called only if there is something to decode.
    """
    wanted = {"name": name, "version": version, "resolution": resolution}
    with contextlib.suppress(*_UNUSABLE):
        return _load(directory, wanted)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(directory.name + ".lock")):
        if directory.exists():
            # Another process may have written it while this one waited.
            try:
                return _load(directory, wanted)
            except _UNUSABLE as error:
                logging.warning("the cache %s cannot be used (%s): decoding again", directory, error)
        source = open_source()
        incomplete = directory.with_name(directory.name + ".incomplete")
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir()
        try:
            _write(incomplete, wanted, source)
            shutil.rmtree(directory, ignore_errors=True)
            incomplete.rename(directory)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
        return _load(directory, wanted)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        # The system unlocks it when the process ends, however it ends.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("waiting for another process that writes the cache (%s)", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load(directory: Path, wanted: dict) -> DecodedImages:
    """Maps a cache into memory.

    Raises:
        _UNUSABLE: if the cache is missing, incomplete, damaged, or of another data set.
    """
    info = json.loads((directory / _INFO).read_text())
    for field, expected in wanted.items():
        if info[field] != expected:
            raise ValueError(f"its {field} is {info[field]!r}, not {expected!r}")
    images = np.load(directory / _IMAGES, mmap_mode="r", allow_pickle=False)
    labels = np.load(directory / _LABELS, allow_pickle=False)
    count = info["num_train"] + info["num_test"]
    shape = (count, wanted["resolution"], wanted["resolution"], 3)
    if images.dtype != np.uint8 or images.shape != shape or labels.dtype != np.int32 or labels.shape != (count,):
        raise ValueError(f"its arrays are {images.dtype}{images.shape} and {labels.dtype}{labels.shape}, not {shape}")
    if _digests(images, labels) != info["digests"]:
        raise ValueError("its arrays have other checksums than when they were written")
    return DecodedImages(images, labels, info["num_train"], info["num_classes"])


def _write(directory: Path, wanted: dict, source: ImageSource) -> None:
    num_train, num_test = source.lengths
    labels = np.empty(num_train + num_test, np.int32)
    shape = (len(labels), wanted["resolution"], wanted["resolution"], 3)
    with (directory / _IMAGES).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        first_byte = file.tell()

        # NOTE: each part is written at its place with pwrite and not through a memory map, which would count as this
        # process's memory and kill it with SIGBUS on a full disk.
        def decode(split: int, part: range) -> None:
            pixels, part_labels = source.decode(split, part)
            start = split * num_train + part.start
            labels[start : start + len(part)] = part_labels
            data = np.ascontiguousarray(pixels, np.uint8).reshape(len(part), *shape[1:]).data.cast("B")
            written = os.pwrite(file.fileno(), data, first_byte + start * (data.nbytes // len(part)))
            if written != data.nbytes:
                raise OSError(f"{directory}: the disk is full")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = [
                pool.submit(decode, split, range(start, min(start + _DECODED_TOGETHER, length)))
                for split, length in enumerate(source.lengths)
                for start in range(0, length, _DECODED_TOGETHER)
            ]
            try:
                for part in parts:
                    part.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    np.save(directory / _LABELS, labels)
    info = {
        **wanted,
        "num_train": num_train,
        "num_test": num_test,
        "num_classes": source.num_classes,
        "digests": _digests(np.load(directory / _IMAGES, mmap_mode="r"), labels),
    }
    (directory / _INFO).write_text(json.dumps(info, indent=1))


def _digests(images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """SHA-256 of all labels, and of some images spread over the array."""
    some = np.unique(np.linspace(0, len(images) - 1, _DIGESTED_IMAGES).astype(int))
    return {
        "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "some_images_sha256": hashlib.sha256(images[some].tobytes()).hexdigest(),
    }
