"""Decoded images on disk: a uint8 array that later runs map into memory instead of decoding the images again."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.data.augment import Normalisation, as_normalisation
from ofav2_jax.data.dataset import PixelDigest, Progress, pixels_sha256
from ofav2_jax.data.decoding import BROKEN, ImageSource, broken_image_error, channel_statistics, decode_all
from ofav2_jax.locking import locked

_IMAGES, _LABELS, _RECORDS, _INFO = "images.npy", "labels.npy", "records.npy", "info.json"
# The number of images that are compared with their digest at each start; reading all of them would take too long.
_COMPARED_IMAGES = 256
# The exceptions from reading a file that is missing, cut short or something else.
_UNUSABLE = (OSError, EOFError, ValueError, KeyError, TypeError)
# Bumped when the same files would give other contents.
_FORMAT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images and labels, split after split.

    Attributes:
        images: uint8 [N, R, R, 3], read-only, mapped from a file.
        labels: int32 [N]; of images that are broken, a number that means nothing.
        splits: for each split the indices of its images, int32, without those that are broken.
        class_names: the names of the classes.
        normalisation: mean and standard deviation of the images of the split "train".
        broken: a description of each broken image.
        duplicates: descriptions of images of other splits that are also in the split "train".
        directory: where all of that is.
        sha256: SHA-256 of all pixels.
    """

    images: np.ndarray
    labels: np.ndarray
    splits: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    normalisation: Normalisation
    broken: tuple[str, ...]
    duplicates: tuple[str, ...]
    directory: Path
    sha256: str

    def digest(self, subset: np.ndarray | None) -> PixelDigest:
        """The digest of all images, or of a subset, whose pixels are read when it is asked for the first time."""
        if subset is None:
            return PixelDigest(self.images, None, self.sha256)
        file = self.directory / f"subset-{hashlib.sha256(subset.astype('<i4').tobytes()).hexdigest()[:16]}.txt"
        with contextlib.suppress(OSError, ValueError):
            # One that a process was killed amid writing, as older versions could, says nothing.
            if re.fullmatch("[0-9a-f]{64}", sha256 := file.read_text(encoding="ascii")):
                return PixelDigest(self.images, subset, sha256)
        sha256 = pixels_sha256(self.images, subset)
        # The cache may be another user's.
        with contextlib.suppress(OSError):
            files.write_text(file, sha256)
        return PixelDigest(self.images, subset, sha256)


def default_cache_dir() -> Path:
    """The folder `ofav2_jax` in the user's cache folder, $XDG_CACHE_HOME or ~/.cache.

    Raises:
        ValueError: if there is neither that variable nor a home directory.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "ofav2_jax"
    except RuntimeError:
        raise ValueError(
            "there is no home directory to keep decoded images in: set the environment variable XDG_CACHE_HOME to a "
            "directory with room for them"
        ) from None


def load_cached(directory: Path, identity: dict[str, Any], skip_broken: bool = False) -> DecodedImages | None:
    """Loads decoded images from the cache; None if they are not there, or not those of this identity.

    Args:
        directory: the cache folder of this array alone.
        identity: see `cached_images`.
        skip_broken: see `cached_images`.

    Raises:
        BrokenImageError: see `cached_images`.
    """
    try:
        found = _load(directory, _as_json(identity))
    except _UNUSABLE as error:
        if directory.exists():
            logging.warning("the cache %s cannot be used (%s): decoding again", directory, error)
        return None
    return _allowed(found, skip_broken)


def cached_images(
    directory: Path,
    identity: dict[str, Any],
    open_source: Callable[[], ImageSource],
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> DecodedImages:
    """Decodes and caches images that `load_cached` did not find.

    A folder appears under its name only when it is complete. Processes that need the same folder wait for each other.
    What a process that was stopped or killed has decoded so far is kept, and is not decoded again.

    Args:
        directory: the cache folder of this array alone.
        identity: what the images were made from and how, as JSON; "resolution" is their height and width, pixels. A
            cache of another identity is not used.
        open_source: called only if there is something to decode.
        skip_broken: leave out images that cannot be decoded.
        progress: is called with the numbers of images that are decoded and that there are.

    Raises:
        BrokenImageError: naming the first image that cannot be decoded, unless they are skipped.
        OSError: if the disk has no room, or the folder cannot be written.
    """
    identity, found = _as_json(identity), None
    _make_writable(directory.parent)
    # Without a lock two processes at once would write the same bytes to the same places.
    with locked(directory.with_name(directory.name + ".lock"), "decodes the same images"):
        # Another process may have written it while this one waited.
        with contextlib.suppress(*_UNUSABLE):
            found = _load(directory, identity)
        if found is None:
            _decode(directory, identity, open_source(), skip_broken, progress)
    return _allowed(_load(directory, identity) if found is None else found, skip_broken)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"decoded images cannot be kept in {folder} ({error.strerror}): set the environment variable "
            "XDG_CACHE_HOME to a directory that can be written"
        ) from error


def _allowed(found: DecodedImages, skip_broken: bool) -> DecodedImages:
    if found.broken and not skip_broken:
        raise broken_image_error(found.broken)
    return found


def _as_json(identity: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({**identity, "format": _FORMAT}))


def _decode(
    directory: Path, identity: dict[str, Any], source: ImageSource, skip_broken: bool, progress: Progress | None
) -> None:
    incomplete = directory.with_name(directory.name + ".incomplete")
    try:
        _begin(incomplete, identity, source)
        broken = decode_all(incomplete / _IMAGES, incomplete / _RECORDS, source, skip_broken, progress)
        _end(incomplete, identity, source, broken)
        shutil.rmtree(directory, ignore_errors=True)
        incomplete.rename(directory)
    except (ValueError, OSError):
        # Not after an interrupt: what has been decoded by then is used the next time.
        shutil.rmtree(incomplete, ignore_errors=True)
        raise


def _load(directory: Path, identity: dict[str, Any]) -> DecodedImages:
    """Maps a cache into memory.

    Raises:
        _UNUSABLE: if the cache is missing, incomplete, damaged, or of another identity.
    """
    info = json.loads((directory / _INFO).read_text(encoding="utf-8"))
    for field, expected in identity.items():
        if info["identity"].get(field) != expected:
            raise ValueError(f"its {field} is {info['identity'].get(field)!r}, not {expected!r}")
    images = np.load(directory / _IMAGES, mmap_mode="r", allow_pickle=False)
    labels = np.load(directory / _LABELS, allow_pickle=False)
    count, size = sum(info["splits"].values()), identity["resolution"]
    if images.dtype != np.uint8 or images.shape != (count, size, size, 3) or labels.dtype != np.int32:
        raise ValueError(f"its images are {images.dtype}{images.shape}, not {(count, size, size, 3)}")
    if _digests(images, labels) != info["digests"]:
        raise ValueError("its arrays have other checksums than when they were written")
    broken, splits, first = {int(place): text for place, text in info["broken"]}, {}, 0
    for name, length in info["splits"].items():
        indices = np.arange(first, first + length, dtype=np.int32)
        splits[name] = indices[~np.isin(indices, list(broken))] if broken else indices
        first += length
    return DecodedImages(
        images=images,
        labels=labels,
        splits=splits,
        class_names=tuple(info["class_names"]),
        normalisation=as_normalisation(info["normalisation"]),
        broken=tuple(broken.values()),
        duplicates=tuple(info["duplicates"]),
        directory=directory,
        sha256=info["pixels_sha256"],
    )


def _begin(directory: Path, identity: dict[str, Any], source: ImageSource) -> None:
    """Makes the folder of images that are being decoded, or leaves it as it is if it is of the same identity."""
    wanted = {"identity": identity, "splits": dict(source.lengths)}
    with contextlib.suppress(*_UNUSABLE):
        if json.loads((directory / _INFO).read_text(encoding="utf-8")) == wanted:
            return
    shutil.rmtree(directory, ignore_errors=True)
    size = sum(source.lengths.values()) * source.resolution**2 * 3
    free = shutil.disk_usage(directory.parent).free
    if size > free:
        raise OSError(
            f"the decoded images take {size / 1e9:.1f} GB and {directory.parent} has {free / 1e9:.1f} GB left: set the "
            "environment variable XDG_CACHE_HOME to a directory with more room"
        )
    directory.mkdir()
    source.make_files(directory / _IMAGES, directory / _RECORDS)
    (directory / _INFO).write_text(json.dumps(wanted), encoding="utf-8")


def _end(directory: Path, identity: dict[str, Any], source: ImageSource, broken: list[tuple[int, str]]) -> None:
    records = np.load(directory / _RECORDS)
    labels = records["label"].astype(np.int32)
    np.save(directory / _LABELS, labels)
    images = np.load(directory / _IMAGES, mmap_mode="r")
    info = {
        "identity": identity,
        "splits": dict(source.lengths),
        "class_names": source.class_names,
        "normalisation": channel_statistics(records[: source.lengths["train"]], source.resolution),
        "broken": broken,
        "duplicates": _duplicates(records, source),
        "pixels_sha256": _file_sha256(directory / _IMAGES, images.offset),
        "digests": _digests(images, labels),
    }
    (directory / _RECORDS).unlink()
    (directory / _INFO).write_text(json.dumps(info), encoding="utf-8")


def _file_sha256(path: Path, start: int) -> str:
    """SHA-256 of a file from a byte on; read, because what is mapped would count as memory of this process."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _duplicates(records: np.ndarray, source: ImageSource) -> list[str]:
    """Descriptions of the images of other splits whose pixels are also those of a training image."""
    num_train = source.lengths["train"]
    others = records[num_train:]
    is_same = np.isin(others["hash"], records["hash"][:num_train]) & (others["state"] != BROKEN)
    return [source.name_of(num_train + int(place)) for place in np.flatnonzero(is_same)]


def _digests(images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """SHA-256 of all labels, and of some images spread over the array."""
    some = np.unique(np.linspace(0, len(images) - 1, _COMPARED_IMAGES).astype(int))
    return {
        "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "some_images_sha256": hashlib.sha256(images[some].tobytes()).hexdigest(),
    }
