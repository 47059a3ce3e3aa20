"""Reads and checks the archive of Tiny ImageNet, in memory: nothing in it is ever extracted to disk."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

_ROOT = "tiny-imagenet-200"
_WNIDS = f"{_ROOT}/wnids.txt"
_ANNOTATIONS = f"{_ROOT}/val/val_annotations.txt"
_TRAIN_IMAGE = re.compile(rf"{_ROOT}/train/(n\d{{8}})/images/\1_\d+\.JPEG")
_VALIDATION_IMAGE = re.compile(rf"{_ROOT}/val/images/val_\d+\.JPEG")
# The largest published file (the annotations) has 0.3 MB: what is far above did not come from there.
_MAX_FILE_BYTES = 4 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError)
_COMPRESSIONS = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_CHECKED_TOGETHER = 500


class Contents(NamedTuple):
    """What an archive has to contain.

    Attributes:
        wnids: WordNet ids of the classes; their order numbers the classes.
        train_images: of each class.
        validation_images: of all classes together.
        size: height and width of each image, pixels.
    """

    wnids: tuple[str, ...]
    train_images: int
    validation_images: int
    size: int


class LabelledImage(NamedTuple):
    """An image as it is in the archive, and the WordNet id of its class."""

    jpeg: bytes
    wnid: str


class Images(NamedTuple):
    """The images of an archive by file name."""

    train: dict[str, LabelledImage]
    validation: dict[str, LabelledImage]


def published_contents() -> Contents:
    """What tiny-imagenet-200.zip contains, less the unlabelled test images.

    The classes are numbered in the order of their sorted WordNet ids, as torchvision's ImageFolder does (and so
    weights trained in PyTorch agree), not in that of wnids.txt, which is arbitrary.
    """
    wnids = resources.files(__package__).joinpath("wnids.txt").read_text(encoding="utf-8").split()
    return Contents(tuple(wnids), train_images=500, validation_images=10_000, size=64)


def read_archive(path: str | os.PathLike, contents: Contents) -> Images:
    """Reads the labelled images of an archive, once from its beginning to its end.

    Args:
        path: tiny-imagenet-200.zip, or the same tree in a .tar, .tar.gz, .tar.bz2 or .tar.xz, or unpacked in a folder.
        contents: what has to be in it. What else is in it is not read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming what is wrong: no archive, truncated or damaged, an unsafe entry, another layout, a
            missing class, image or label, a broken image.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"archive {path} is not a file")
    train: dict[str, LabelledImage] = {}
    validation: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    checks = []
    unchecked: list[tuple[str, bytes]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for entry, content in _entries(path, _is_wanted):
            name = PurePosixPath(entry).name
            if name in train or name in validation or entry in texts:
                raise ValueError(f"archive {path}: {entry} is in it twice")
            if match := _TRAIN_IMAGE.fullmatch(entry):
                train[name] = LabelledImage(content, match[1])
            elif entry in (_WNIDS, _ANNOTATIONS):
                texts[entry] = content.decode("ascii", errors="replace")
                continue
            else:
                validation[name] = content
            unchecked.append((entry, content))
            if len(unchecked) == _CHECKED_TOGETHER:
                checks.append(pool.submit(_broken_image, unchecked, contents.size))
                unchecked = []
        broken = [check.result() for check in checks] + [_broken_image(unchecked, contents.size)]
    for fault in filter(None, [_wrong_classes(texts, contents), _wrong_train_images(train, contents), *broken]):
        raise ValueError(f"archive {path}: {fault}")
    try:
        labels = _validation_labels(texts, set(validation), contents)
    except ValueError as error:
        raise ValueError(f"archive {path}: {error}") from None
    return Images(train, {name: LabelledImage(validation[name], wnid) for name, wnid in labels.items()})


def _is_wanted(entry: str) -> bool:
    if entry in (_WNIDS, _ANNOTATIONS):
        return True
    return bool(_TRAIN_IMAGE.fullmatch(entry) or _VALIDATION_IMAGE.fullmatch(entry))


def _entries(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the wanted files of a zip or tar archive, in its order, or of a folder.

    Raises:
        ValueError: if it is no archive, is truncated or damaged, or holds a link, a device, an absolute name, or "..".
    """
    if path.is_dir():
        yield from _folder_files(path / _ROOT if (path / _ROOT).is_dir() else path, is_wanted)
        return
    with path.open("rb") as file:
        start = file.read(6)
    is_zip = start.startswith(b"PK")
    if not (is_zip or start.startswith(tuple(_COMPRESSIONS)) or tarfile.is_tarfile(path)):
        raise ValueError(f"archive {path} is neither a zip nor a tar file")
    last = None
    try:
        for name, is_special, size, read in _zip_members(path) if is_zip else _tar_members(path):
            entry = name.removeprefix("./")
            if is_special or entry.startswith("/") or ".." in PurePosixPath(entry).parts:
                kind = "a link or a device" if is_special else "a name that leads out of the archive"
                raise ValueError(f"archive {path}: entry {name!r} is {kind}; the published archive has none")
            if is_wanted(entry):
                if size > _MAX_FILE_BYTES:
                    raise ValueError(f"archive {path}: {entry} has {size} bytes; at most {_MAX_FILE_BYTES} are allowed")
                yield entry, read()
            last = entry
    except _DAMAGE as error:
        where = f"after entry {last}" if last else "at its beginning or its end"
        raise ValueError(f"archive {path} is truncated or damaged {where}: {error}") from error


def _folder_files(folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            entry = f"{_ROOT}/{file.relative_to(folder).as_posix()}"
            if is_wanted(entry):
                if (size := file.stat().st_size) > _MAX_FILE_BYTES:
                    raise ValueError(
                        f"archive {folder}: {entry} has {size} bytes; at most {_MAX_FILE_BYTES} are allowed"
                    )
                yield entry, file.read_bytes()


def _zip_members(path):
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            yield info.filename, is_link, info.file_size, lambda info=info: archive.read(info)


def _tar_members(path):
    with path.open("rb") as file:
        start = file.read(6)
    openers = [opener for mark, opener in _COMPRESSIONS.items() if start.startswith(mark)]
    with (openers[0] if openers else open)(path, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                yield info.name, not info.isreg(), info.size, lambda info=info: archive.extractfile(info).read()
        # tarfile stops at the mark of its end; the checksum of what is compressed comes behind it.
        while stream.read(1 << 20):
            pass


def _broken_image(images: list[tuple[str, bytes]], size: int) -> str | None:
    """What is wrong with the first broken image, or None."""
    for entry, content in images:
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                if image.size != (size, size):
                    return f"image {entry} is {image.width}x{image.height}, not {size}x{size}"
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            return f"broken image {entry}: {str(error) or type(error).__name__}"
    return None


def _wrong_classes(texts: dict[str, str], contents: Contents) -> str | None:
    """What is wrong with the layout or the list of classes, or None."""
    for entry in (_WNIDS, _ANNOTATIONS):
        if entry not in texts:
            return f"{entry} is missing: this is not the layout of tiny-imagenet-200.zip"
    wnids = texts[_WNIDS].split()
    if missing := sorted(set(contents.wnids) - set(wnids)):
        return f"{_WNIDS} lacks {_some(missing)}"
    if unknown := sorted(set(wnids) - set(contents.wnids)):
        return f"{_WNIDS} lists {_some(unknown)}, unknown in Tiny ImageNet"
    return None


def _wrong_train_images(train: dict[str, LabelledImage], contents: Contents) -> str | None:
    """Which classes do not have the images they should, or None."""
    counts = dict.fromkeys(contents.wnids, 0)
    for image in train.values():
        if image.wnid not in counts:
            return f"{_ROOT}/train has class {image.wnid}, unknown in Tiny ImageNet"
        counts[image.wnid] += 1
    if missing := [wnid for wnid, count in counts.items() if count == 0]:
        return f"the training images of {_some(missing)} are missing"
    for wnid, count in counts.items():
        if count != contents.train_images:
            return f"class {wnid} has {count} training images, not {contents.train_images}"
    return None


def _validation_labels(texts: dict[str, str], names: set[str], contents: Contents) -> dict[str, str]:
    """The WordNet id of each validation image.

    Raises:
        ValueError: if there are not as many labelled images as there should be.
    """
    labels = {}
    for line in texts[_ANNOTATIONS].splitlines():
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in contents.wnids:
            raise ValueError(f"{_ANNOTATIONS} gives {name} class {wnid!r}, unknown in Tiny ImageNet")
        labels[name] = wnid
    if missing := sorted(labels.keys() - names):
        raise ValueError(f"{_some([f'{_ROOT}/val/images/{name}' for name in missing])} missing")
    if unlabelled := sorted(names - labels.keys()):
        raise ValueError(f"{_ANNOTATIONS} has no label for {_some(unlabelled)}")
    if len(labels) != contents.validation_images:
        raise ValueError(f"{len(labels)} validation images, not {contents.validation_images}")
    return labels


def _some(names: list[str]) -> str:
    """The first of some names and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
