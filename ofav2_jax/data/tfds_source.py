"""Image classification data sets that TensorFlow Datasets knows, and Tiny ImageNet, as arrays in memory."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofav2_jax.checks import local_path
from ofav2_jax.data.array_checks import listed
from ofav2_jax.data.dataset import TINY_IMAGENET_NORMALISATION, Dataset, Request
from ofav2_jax.data.decoding import ImageSource
from ofav2_jax.data.from_cache import Undecoded, dataset_of_decoded, planned_dataset, require_class_count
from ofav2_jax.data.image_cache import cached_images, default_cache_dir, load_cached
from ofav2_jax.data.tfds_builder import TINY_IMAGENET, find_builder, is_prepared, prepare
from ofav2_jax.data.tfds_records import Records, feature_keys
from ofav2_jax.data.tiny_imagenet.archive import published_contents

# Records whose labels are looked at to find out whether a split has any.
_LOOKED_AT = 16
# Of larger sets reading all labels takes minutes, so that only a dry run does so before decoding.
_PLANNED_IMAGES = 200_000


def load_tfds(request: Request, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set, prepares it first if that has not been done, and decodes its images once and for all.

    The split "train" is divided class by class into training and validation images, unless the request names a
    validation split; the test images are those of the test split. Later calls map the decoded images from the cache,
    as long as the prepared data set is the one that they came from.

    Args:
        request: what is wanted; its name is "tiny_imagenet", or one in TFDS: "cifar10", "imagenet_resized/64x64",
            "cifar10:3.0.2". Without a test split it is "test" if that has labels, else "validation" (ImageNet's and
            Tiny ImageNet's labelled one).
        cache_dir: the folder of decoded images; None: `ofav2_jax` in the user's cache folder.

    Returns:
        The data set. Its images are a read-only memory map.

    Raises:
        ValueError: if TFDS does not know the name, the set is not one for image classification or lacks a split, an
            image is broken, or the archive is damaged or another one.
        ImportError: if TFDS needs TensorFlow to prepare this data set.
        ConnectionError: if the data set cannot be downloaded.
    """
    builder = find_builder(request.name, request.data_dir, request.archive)
    _, label_key = feature_keys(builder.info)
    if request.num_classes is not None and (classes := builder.info.features[label_key].num_classes) is not None:
        require_class_count(request.name, request.num_classes, classes)
    normalisation = request.normalisation
    if normalisation is None and request.name == TINY_IMAGENET:
        normalisation = TINY_IMAGENET_NORMALISATION
    resolution = request.base_resolution or 64
    full_name = builder.info.full_name
    choice = filter(None, [request.test_split, request.validation_split])
    key = "-".join([re.sub(r"[^\w.]+", "-", full_name), str(resolution), *choice])
    directory = (local_path("cache_dir", cache_dir) if cache_dir is not None else default_cache_dir()) / key
    if request.plan_only and not is_prepared(builder):
        undecoded = Undecoded(
            _labels_before_preparing(builder), _class_names(builder, label_key), resolution, directory
        )
        todo = (
            "not prepared yet: it will be downloaded"
            if request.archive is None
            else f"to be read from {request.archive}"
        )
        return planned_dataset(undecoded, request.name, request, normalisation, [todo])
    if not is_prepared(builder):
        prepare(builder)
        builder = find_builder(request.name, request.data_dir, request.archive)
    chosen = choose_splits(builder, request, lambda split: _has_labels(builder, split))
    unread = sorted(set(builder.info.splits) - set(chosen.values()))
    notes = [f"splits that are not read: {listed(unread)}"] if unread else []
    identity = {
        "name": full_name,
        "splits": list(chosen.values()),
        "resolution": resolution,
        "files_sha256": _preparation(Path(builder.data_dir)),
    }
    decoded = load_cached(directory, identity, request.skip_broken)
    if decoded is None:
        records = Records(builder, chosen)
        if request.plan_only or sum(records.lengths.values()) <= _PLANNED_IMAGES:
            labels = {split: records.labels(split) for split in chosen}
            undecoded = Undecoded(labels, _class_names(builder, label_key), resolution, directory)
            planned = planned_dataset(undecoded, request.name, request, normalisation, notes)
            if request.plan_only:
                return planned
        decoded = cached_images(
            directory, identity, lambda: _source(builder, chosen, resolution), request.skip_broken, request.progress
        )
    return dataset_of_decoded(decoded, request.name, request, normalisation, notes)


def _preparation(folder: Path) -> str:
    """A digest of a data set's description and of names, sizes and times of its files: another one for another set."""
    sha = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        status = file.stat()
        sha.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        if file.suffix == ".json":
            sha.update(file.read_bytes())
    return sha.hexdigest()


def _class_names(builder: Any, label_key: str) -> tuple[str, ...]:
    feature = builder.info.features[label_key]
    if not feature.num_classes:
        raise ValueError(f"{builder.info.full_name} does not say how many classes it has")
    # A class without a name has its number as its name.
    return tuple(feature.names)


def _labels_before_preparing(builder: Any) -> dict[str, Sequence[int]]:
    """The labels of Tiny ImageNet, whose contents are known."""
    if builder.name != TINY_IMAGENET:
        raise ValueError(
            f"{builder.info.full_name} is not prepared in {builder.data_dir}: a dry run downloads nothing, so that its "
            "images are not known"
        )
    contents = published_contents()
    each = np.arange(len(contents.wnids))
    per_class = contents.validation_images // len(each)
    return {"train": np.repeat(each, contents.train_images).tolist(), "test": np.repeat(each, per_class).tolist()}


def _has_labels(builder: Any, split: str) -> bool:
    return min(Records(builder, {split: split}).labels(split, _LOOKED_AT), default=0) >= 0


def _source(builder: Any, chosen: Mapping[str, str], resolution: int) -> ImageSource:
    records, name = Records(builder, chosen), builder.info.full_name
    names = _class_names(builder, feature_keys(builder.info)[1])

    def read(split: str, part: range) -> Iterator[tuple[bytes, int]]:
        for index, (encoded, label) in zip(part, records.read(split, part)):
            if not 0 <= label < len(names):
                raise ValueError(
                    f"image {records.describe(split, index)} has label {label}, and {name} has {len(names)} classes"
                    + (": choose another --config.data.test_split" if label < 0 and split == "test" else "")
                )
            yield encoded, label

    return ImageSource(records.lengths, names, resolution, read, records.describe)


def choose_splits(builder: Any, request: Request, has_labels: Callable[[str], bool]) -> dict[str, str]:
    """The name in TFDS of the splits "train" and "test", and of "validation" if the request names one.

    Raises:
        ValueError: if a split is missing or has no labels.
    """
    splits = list(builder.info.splits)
    has = f"{builder.info.full_name} has the splits {', '.join(splits)}"
    if "train" not in splits:
        raise ValueError(f"{has}; a split 'train' is needed")
    chosen = {"train": "train"}
    for split, field in (("test", "test_split"), ("validation", "validation_split")):
        wanted = getattr(request, field)
        if wanted is not None:
            if wanted not in splits or wanted in chosen.values():
                others = [name for name in splits if name not in chosen.values()]
                raise ValueError(
                    f"data.{field}={wanted!r} is not allowed: {has}; free are {', '.join(others) or 'none'}"
                )
            if not has_labels(wanted):
                raise ValueError(f"data.{field}={wanted!r} is not allowed: its images have no labels")
            chosen[split] = wanted
        elif split == "test":
            candidates = [
                name for name in ("test", "validation") if name in splits and name != request.validation_split
            ]
            labelled = [name for name in candidates if has_labels(name)]
            if not labelled:
                kind = "no split with labels" if candidates else "no split test or validation"
                raise ValueError(f"{has}, and {kind} to test on: choose one with --config.data.test_split")
            chosen[split] = labelled[0]
    return chosen
