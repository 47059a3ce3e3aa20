"""Decodes many images at once, on all cores, into one file; what was stopped goes on where it was."""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from ofav2_jax.data.dataset import Progress
from ofav2_jax.data.decode import BrokenImageError, decode_image

# Bytes of pixels that are decoded between two records of what is done, which wait for the disk.
_PART_BYTES = 8 << 20
DECODED, BROKEN = 1, 2
# What is known about an image once it was tried: `state` is 0 before, `sum` and `squares` are those of its pixels.
RECORD = np.dtype([("label", "<i4"), ("state", "u1"), ("hash", "<u8"), ("sum", "<u8", 3), ("squares", "<u8", 3)])


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Encoded images that can be decoded in any order.

    Attributes:
        lengths: number of images of each split; the first one is "train".
        class_names: the names of the classes.
        resolution: height and width to which the images are decoded, pixels.
        read: a function from a split and a range of its images to their contents, or the paths of their files, and
            their labels; called by several threads.
        describe: a function from a split and the index of an image in it to the image's name in error messages.
    """

    lengths: Mapping[str, int]
    class_names: Sequence[str]
    resolution: int
    read: Callable[[str, range], Iterable[tuple[bytes | Path, int]]]
    describe: Callable[[str, int], str]

    def name_of(self, place: int) -> str:
        """The description of the image at a place among all images, counted split after split."""
        for split, length in self.lengths.items():
            if place < length:
                return self.describe(split, place)
            place -= length
        raise IndexError(place)

    def make_files(self, images: Path, records: Path) -> None:
        """Makes the files that `decode_all` writes to: all zeros, and sparse where the file system can."""
        number = sum(self.lengths.values())
        shape = (number, self.resolution, self.resolution, 3)
        for path, dtype, dims in ((images, np.dtype("u1"), shape), (records, RECORD, (number,))):
            np.lib.format.open_memmap(path, "w+", dtype, dims).flush()


def broken_image_error(broken: Sequence[str]) -> BrokenImageError:
    """The error that names the first of some broken images."""
    more = f" ({len(broken) - 1} more are broken)" if len(broken) > 1 else ""
    return BrokenImageError(f"broken image {broken[0]}{more}; --config.data.skip_broken leaves such images out")


def decode_all(
    images: Path, records: Path, source: ImageSource, skip_broken: bool, progress: Progress | None
) -> list[tuple[int, str]]:
    """Decodes the images whose record says that it was not done yet.

    Args:
        images: a file of numpy, uint8 [N, R, R, 3], which is written to.
        records: a file of numpy, RECORD [N], which is written to.
        source: the images.
        skip_broken: go on after an image that cannot be decoded.
        progress: is called with the numbers of images that are decoded and that there are.

    Returns:
        Place and description of each broken image, in order.

    Raises:
        BrokenImageError: naming the first broken image, unless broken ones are skipped.
        OSError: if the disk is full.
    """
    state = np.load(records)["state"]
    together = max(1, _PART_BYTES // (source.resolution**2 * 3))
    parts, first = [], 0
    for split, length in source.lengths.items():
        for start in range(0, length, together):
            part = range(start, min(start + together, length))
            # What is broken is tried again, because the reasons were not kept.
            if (state[first + start : first + part.stop] != DECODED).any():
                parts.append((split, part, first + start))
        first += length
    with contextlib.ExitStack() as stack:
        targets = [_Target(stack.enter_context(path.open("r+b")), path) for path in (images, records)]
        decoder = _Decoder(source, skip_broken, *targets)
        # Pillow warns of what it then refuses, or of what does not matter for the pixels.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _run(decoder, parts, len(state), progress)
    return sorted(decoder.broken.items())


def _run(decoder: "_Decoder", parts: Sequence[tuple[str, range, int]], total: int, progress: Progress | None) -> None:
    done = total - sum(len(part) for _, part, _ in parts)
    with ThreadPoolExecutor(_num_threads()) as pool:
        waiting = {pool.submit(decoder, *part) for part in parts}
        try:
            while waiting and not decoder.errors:
                ended, waiting = wait(waiting, timeout=0.5)
                done += sum(future.result() for future in ended)
                if progress is not None:
                    progress(done, total)
        finally:
            # After an error what comes before it is still decoded, so that the first one is named; after an interrupt
            # nothing is.
            if not decoder.errors:
                decoder.limit = -1
    if decoder.errors:
        raise decoder.errors[min(decoder.errors)]


def _num_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Target:
    """The data of a numpy file, written row by row.

    NOTE: with pwrite and not through a memory map, which would count as memory of this process and kill it with SIGBUS
    on a full disk.
    """

    def __init__(self, file, path: Path):
        self._file, self._path = file, path
        self._start = np.load(path, mmap_mode="r").offset

    def write(self, rows: np.ndarray, first: int) -> None:
        data = np.ascontiguousarray(rows).data.cast("B")
        place = self._start + first * rows[0].nbytes
        if os.pwrite(self._file.fileno(), data, place) != data.nbytes:
            raise OSError(f"{self._path}: the disk is full")

    def flush(self) -> None:
        os.fdatasync(self._file.fileno())


class _Decoder:
    """Decodes parts, in threads.

    Attributes:
        limit: images at places beyond it are not decoded any more.
        errors: what ended the decoding of an image or a part, by place.
        broken: descriptions of broken images by place.
    """

    def __init__(self, source: ImageSource, skip_broken: bool, images: _Target, records: _Target):
        self._source, self._skip_broken = source, skip_broken
        self._images, self._records = images, records
        self.limit = sum(source.lengths.values())
        self.errors: dict[int, Exception] = {}
        self.broken: dict[int, str] = {}

    def __call__(self, split: str, part: range, first: int) -> int:
        """Decodes a part, whose first image has the place `first`; returns the number of images done."""
        if first > self.limit:
            return 0
        try:
            return self._decode(split, part, first)
        except Exception as error:
            self._fail(first, error)
            return 0

    def _fail(self, place: int, error: Exception) -> None:
        self.errors[place] = error
        self.limit = min(self.limit, place)

    def _decode(self, split: str, part: range, first: int) -> int:
        size = self._source.resolution
        images, records = np.zeros((len(part), size, size, 3), np.uint8), np.zeros(len(part), RECORD)
        for i, (encoded, label) in enumerate(self._source.read(split, part)):
            if first + i > self.limit:
                return 0
            try:
                images[i] = decode_image(encoded, size)
            except BrokenImageError as error:
                text = f"{self._source.describe(split, part[i])}: {error}"
                if not self._skip_broken:
                    self._fail(first + i, broken_image_error([text]))
                    return 0
                self.broken[first + i] = text
            digest = hashlib.sha256(images[i].data).digest()[:8]
            state = BROKEN if first + i in self.broken else DECODED
            records[["label", "state", "hash"]][i] = (label, state, int.from_bytes(digest, "little"))
        # Sums over rows come first, and in 32 bits, because numpy is slow where the last axis is short or types differ.
        rows = images.reshape(len(part), size, size * 3)
        for field, values in (("sum", rows), ("squares", np.square(rows.astype(np.uint16)))):
            of_columns = values.sum(1, np.uint32).reshape(len(part), size, 3)
            records[field] = of_columns.sum(1, np.uint64)
        self._images.write(images, first)
        # A record must not reach the disk before the pixels that it vouches for.
        self._images.flush()
        self._records.write(records, first)
        return len(part)


def channel_statistics(records: np.ndarray, resolution: int) -> list[list[float]]:
    """Mean and standard deviation of each channel over decoded images, of pixels in [0, 1], to four digits.

    Args:
        records: RECORD [N].
        resolution: height and width of the images, pixels.

    Returns:
        [means, deviations].
    """
    number = max(1, int(np.sum(records["state"] == DECODED))) * resolution**2
    mean = records["sum"].sum(0, dtype=np.float64) / number / 255
    variance = records["squares"].sum(0, dtype=np.float64) / number / 255**2 - mean**2
    # Pixels that are all the same have no deviation; division by 0 must not make NaNs of them.
    std = np.sqrt(np.maximum(variance, 1 / 255**2))
    return [[round(float(x), 4) for x in values] for values in (mean, std)]
