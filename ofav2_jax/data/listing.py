"""Lists the images of a folder, by split and class, without opening any of them."""

import dataclasses
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from ofav2_jax.data.array_checks import listed
from ofav2_jax.data.dataset import Request

TRAIN, TEST = "train", "test"
VALIDATION = ("val", "valid", "validation")
# Folders that are named so are splits and not classes.
_SPLIT_LIKE = (TRAIN, TEST, *VALIDATION, "training", "testing", "eval", "dev")
# What file managers and archives leave behind; names that begin with a dot are hidden anyway.
_LITTER = {"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "@eadir", "lost+found", "$recycle.bin"}
# Formats of Pillow's that it identifies but cannot decode by itself.
_STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}
_UNREADABLE = {".heic", ".heif", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw", ".exr", ".jxl"}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """A file that is an image by its name.

    Attributes:
        path: relative to the folder that is listed.
        label: the number of its class.
        size: bytes.
        modified_ns: time of the last modification, nanoseconds.
    """

    path: str
    label: int
    size: int
    modified_ns: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        root: the folder.
        class_names: the classes, sorted; their order numbers them.
        splits: the images of "train" and, where there are folders for them, of "test" and "validation".
        notes: what a reader should know about what was left out.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, list[ImageFile]]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Changes when a file is added, removed, renamed, moved to another class or split, or written."""
        sha = hashlib.sha256(repr(self.class_names).encode("utf-8", "surrogatepass"))
        for split, files in self.splits.items():
            sha.update(f"{split} {len(files)}\n".encode())
            for file in files:
                sha.update(os.fsencode(file.path) + f"\0{file.label} {file.size} {file.modified_ns}\n".encode())
        return sha.hexdigest()


def list_folder(root: Path, request: Request) -> Listing:
    """Lists DIR/train/CLASS/*, DIR/test/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/*.

    Args:
        root: DIR.
        request: says which folders are the test and the validation split.

    Raises:
        ValueError: in one line, naming the folder and what is wrong with it.
    """
    if not root.is_dir():
        raise ValueError(f"data.data_dir={str(root)!r} is not allowed: it is not a folder")
    folders = {name.lower(): name for name in _folders(root)}
    if not folders:
        raise ValueError(f"{root} has no folders: images lie in DIR/train/CLASS and DIR/test/CLASS, or in DIR/CLASS")
    chosen = _choose_splits(root, folders, request)
    unread = [] if chosen == {TRAIN: ""} else sorted(set(folders.values()) - set(chosen.values()))
    listing = list_splits(root, chosen, request.skip_broken)
    notes = [f"folders that are not read: {listed(unread)}"] if unread else []
    return dataclasses.replace(listing, notes=(*notes, *listing.notes))


def list_splits(root: Path, chosen: Mapping[str, str], skip_broken: bool) -> Listing:
    """Lists the images below a folder of folders of classes for each split.

    Args:
        root: the folder that the others are in.
        chosen: the name of the folder of each split; "train" is one of the splits.
        skip_broken: leave out images of formats that Pillow does not read.

    Raises:
        ValueError: in one line, naming the folder and what is wrong with it.
    """
    classes = {split: _class_folders(root / folder) for split, folder in chosen.items()}
    names = tuple(sorted(classes[TRAIN]))
    _require_classes(root, chosen, classes, names)
    splits: dict[str, list[ImageFile]] = {}
    others: list[str] = []
    unreadable: list[str] = []
    for split, folder in chosen.items():
        splits[split] = []
        for label, name in enumerate(names):
            if name in classes[split]:
                files, of_class, not_readable = _images(root, Path(folder, classes[split][name]), label)
                others += of_class
                unreadable += not_readable
                splits[split] += files
                if split == TRAIN and not files:
                    _refuse_empty(root / folder / classes[split][name], of_class + not_readable)
    if unreadable and not skip_broken:
        raise ValueError(
            f"{root / unreadable[0]} is of a format that Pillow does not read: convert it, or leave such images out "
            "with --config.data.skip_broken"
        )
    for split, files in splits.items():
        if not files:
            raise ValueError(f"{root / chosen[split]} has no images")
    notes = []
    if others:
        notes.append(f"{len(others):,} files are no images by their names: {listed(others, 2)}")
    if unreadable:
        notes.append(f"{len(unreadable):,} images left out whose format Pillow does not read: {listed(unreadable, 2)}")
    return Listing(root, names, splits, tuple(notes))


def _choose_splits(root: Path, folders: Mapping[str, str], request: Request) -> dict[str, str]:
    """The folder of each split; the split "train" alone, with the folder "", if there are no folders of splits."""
    there = f"{root} has the folders {listed(sorted(folders.values()))}"
    for field in ("test_split", "validation_split"):
        wanted = getattr(request, field)
        if wanted is not None and (wanted.lower() not in folders or wanted.lower() == TRAIN):
            raise ValueError(f"data.{field}={wanted!r} is not allowed: {there}")
    if TRAIN not in folders:
        splits = [folders[name] for name in _SPLIT_LIKE if name in folders]
        if splits:
            raise ValueError(f"{there} and no folder 'train': {splits[0]!r} is the name of a split and not of a class")
        inner = [name for name in folders.values() if TRAIN in map(str.lower, _folders(root / name))]
        if inner:
            raise ValueError(f"{there} and no folder 'train'; did you mean data_dir={str(root / inner[0])!r}?")
        return {TRAIN: ""}
    test = (request.test_split or TEST).lower()
    validation = [request.validation_split.lower()] if request.validation_split else list(VALIDATION)
    validation = [name for name in validation if name in folders and (name != test or request.validation_split)]
    if test in validation:
        raise ValueError(f"data.validation_split={request.validation_split!r} is not allowed: it is the test split")
    if len(validation) > 1:
        names = " and ".join(folders[name] for name in validation)
        raise ValueError(f"{root} has {names}: choose one with --config.data.validation_split")
    chosen = {TRAIN: folders[TRAIN]}
    if test in folders:
        chosen[TEST] = folders[test]
    if validation:
        chosen["validation"] = folders[validation[0]]
    return chosen


def _require_classes(
    root: Path, chosen: Mapping[str, str], classes: Mapping[str, Mapping[str, str]], names: tuple[str, ...]
) -> None:
    if len(names) < 2:
        found = f"one folder of a class, {names[0]!r}" if names else "no folders of classes"
        raise ValueError(f"{root / chosen[TRAIN]} has {found}; at least 2 classes are needed")
    for name in names:
        if not name.isprintable():
            raise ValueError(f"{root / chosen[TRAIN]} has a class whose name is not printable: {name!a}")
    for split, folder in chosen.items():
        unknown = sorted(set(classes[split]) - set(names))
        if not set(classes[split]) & set(names):
            raise ValueError(
                f"{root / folder} has no folders of the classes in train, so that its images have no labels: choose "
                f"another folder with --config.data.{'test' if split == TEST else 'validation'}_split"
            )
        if unknown:
            raise ValueError(
                f"{root / folder} has class {listed([ascii(name) for name in unknown])}, which train lacks"
            )


def _refuse_empty(folder: Path, others: list[str]) -> None:
    there = f": its files, such as {os.path.basename(others[0])!r}, are none by their names" if others else ""
    raise ValueError(f"class {folder.name!r} has no training images in {folder}{there}")


def is_visible(name: str) -> bool:
    """Whether a file or a folder is neither hidden nor what file managers leave behind."""
    return not name.startswith(".") and name.lower() not in _LITTER


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if is_visible(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _class_folders(folder: Path) -> dict[str, str]:
    """The folders of the classes by the names of the classes."""
    found: dict[str, str] = {}
    for entry in _entries(folder):
        if entry.is_dir():
            # The same letters can be encoded in two ways; macOS writes another one than Linux.
            name = unicodedata.normalize("NFC", entry.name)
            if name in found:
                raise ValueError(f"{folder} has the class {name!r} twice, in two encodings of its name")
            found[name] = entry.name
        elif _suffix(entry.name) in image_suffixes():
            raise ValueError(f"{folder / entry.name} lies in no folder of a class: it has no label")
    return found


def image_suffixes() -> set[str]:
    """The suffixes of the formats that Pillow reads, in lower case: ".jpg", ..."""
    Image.init()
    formats = set(Image.OPEN) - _STUBS
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _images(root: Path, folder: Path, label: int) -> tuple[list[ImageFile], list[str], list[str]]:
    """The images below a folder of a class; the names of its other files; those of images that Pillow cannot read."""
    files: list[ImageFile] = []
    others: list[str] = []
    unreadable: list[str] = []
    suffixes = image_suffixes()
    for path, entry in _walk(root, folder, ()):
        suffix = _suffix(entry.name)
        if suffix in suffixes:
            files.append(image_file(path, label, entry))
        else:
            (unreadable if suffix in _UNREADABLE else others).append(path)
    return files, others, unreadable


def image_file(path: str, label: int, entry: os.DirEntry) -> ImageFile:
    """An image of a listing."""
    try:
        status = entry.stat()
    except OSError:
        # A link to nothing; decoding names it.
        return ImageFile(path, label, 0, 0)
    return ImageFile(path, label, status.st_size, status.st_mtime_ns)


def _walk(root: Path, folder: Path, above: Iterable[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry]]:
    """Yields the files below a folder, and their paths relative to `root`, in the order of their names."""
    status = os.stat(root / folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise ValueError(f"{root / folder} is a link to a folder that it lies in")
    for entry in _entries(root / folder):
        if entry.is_dir():
            yield from _walk(root, folder / entry.name, (*above, identity))
        else:
            yield os.path.join(folder, entry.name), entry
