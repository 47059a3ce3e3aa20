"""An image classification data set in memory, and the order in which training reads it."""

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import refuse, require_normalisation
from ofav2_jax.data.array_checks import (
    described,
    listed,
    require_class_names,
    require_images,
    require_label_range,
    require_labels,
)
from ofav2_jax.data.augment import Normalisation

# Mean and deviation of Tiny ImageNet's training images.
TINY_IMAGENET_NORMALISATION = Normalisation(mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821))
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class PixelDigest:
    """The digest of images that need not be read for it, because it was computed when they were decoded.

    Attributes:
        images: the array, which nobody writes to.
        subset: the indices of the images that the digest covers; None: all.
        sha256: SHA-256 of their pixels.
    """

    images: np.ndarray
    subset: np.ndarray | None
    sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three disjoint splits.

    Attributes:
        name: the data set's name in reports.
        images: uint8 [N, H, W, 3], H = W.
        labels: int32 [N], in [0, num_classes) for every image of a split.
        splits: the indices of the images, int32, in "train" (to train, and to recalibrate batch norm), "validation"
            (to choose the best epoch) and "test" (to report). None of them is empty.
        num_classes: number of classes, at least 2.
        normalisation: mean and standard deviation of each channel.
        class_names: the names of the classes; None: "0", "1", ...
        subset: the indices of the images that belong to the data set, increasing, int32, where `images` holds others
            too; None: all.
        notes: what the plan of a run says about how the images were read.
        pixel_digest: the digest of the pixels, if it is known without reading them.

    Raises:
        ValueError: at construction, naming the field, the value and what is allowed. Classes without training images,
            and images that two splits share, are warned of (UserWarning).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    splits: dict[str, np.ndarray]
    num_classes: int
    normalisation: Normalisation
    class_names: tuple[str, ...] | None = None
    subset: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    pixel_digest: PixelDigest | None = None

    def __post_init__(self):
        if type(self.num_classes) is not int or self.num_classes < 2:
            refuse("num_classes", self.num_classes, "an int of at least 2")
        if self.class_names is None:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.num_classes))))
        require_images("images", self.images)
        require_labels("labels", self.labels, len(self.images))
        self._require_splits()
        if not isinstance(self.normalisation, Normalisation):
            refuse("normalisation", self.normalisation, "a Normalisation(mean, std)")
        require_normalisation("normalisation", self.normalisation)
        require_class_names(self.class_names, self.num_classes)

    def _require_splits(self):
        missing = [name for name in SPLITS if name not in self.splits]
        if missing or len(self.splits) > len(SPLITS):
            refuse("splits", tuple(self.splits), f"the three splits {', '.join(SPLITS)}")
        for name, indices in self.splits.items():
            field = f"splits[{name!r}]"
            if not isinstance(indices, np.ndarray) or indices.ndim != 1 or indices.dtype.kind not in "iu":
                refuse(field, described(indices), "indices of images, ints [n]")
            if not len(indices):
                raise ValueError(f"{field} is empty: {self.name!r} needs images to {_PURPOSES[name]}")
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= len(self.images):
                refuse(field, low if low < 0 else high, f"indices of images, >= 0 and < {len(self.images)}")
            require_label_range(name, self.labels[indices], self.num_classes)
        empty = self.classes_without("train")
        if empty:
            _warn(f"{self.name}: no training images of class {listed(empty)}")
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            is_in_one = np.zeros(len(self.images), bool)
            is_in_one[self.splits[one]] = True
            if number := np.count_nonzero(is_in_one[self.splits[other]]):
                _warn(f"{self.name}: {number:,} images are in {one} and in {other}: scores on them say little")

    @property
    def num_images(self) -> int:
        """The number of images that belong to the data set, in no split included."""
        return len(self.images) if self.subset is None else len(self.subset)

    def class_counts(self, split: str) -> np.ndarray:
        """The number of images of each class in a split, int [num_classes]."""
        return np.bincount(self.labels[self.splits[split]], minlength=self.num_classes)

    def classes_without(self, split: str) -> list[str]:
        """The names of the classes of which a split has no image."""
        assert self.class_names is not None
        return [self.class_names[label] for label in np.flatnonzero(self.class_counts(split) == 0)]

    @staticmethod
    def from_arrays(
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        validation: tuple[Any, Any] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        normalisation: Normalisation | None = None,
        validation_fraction: float = 0.15,
        seed: int = 0,
    ) -> "Dataset":
        """Makes a data set of arrays, see `arrays.dataset_from_arrays`."""
        from ofav2_jax.data.arrays import dataset_from_arrays

        return dataset_from_arrays(
            *(train, test, validation),
            class_names=class_names,
            name=name,
            normalisation=normalisation,
            validation_fraction=validation_fraction,
            seed=seed,
        )


_PURPOSES = {"train": "train on", "validation": "choose the best epoch by", "test": "test on"}


def _warn(message: str) -> None:
    # Points at the caller of the data class's generated __init__.
    warnings.warn(message, UserWarning, stacklevel=5)


# Is called while images are decoded, with the numbers of those that are and of all.
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for a data set; the fields are arguments of `load_dataset`."""

    name: str
    seed: int = 0
    base_resolution: int | None = None
    num_classes: int | None = None
    data_dir: str | os.PathLike | None = None
    archive: str | os.PathLike | None = None
    test_split: str | None = None
    validation_split: str | None = None
    validation_fraction: float = 0.15
    normalisation: Normalisation | None = None
    skip_broken: bool = False
    progress: Progress | None = None
    plan_only: bool = False
    check: Callable[["Dataset"], None] | None = None


def pixels_sha256(images: np.ndarray, subset: np.ndarray | None = None) -> str:
    """SHA-256 of the pixels of some images, or of all; no copy of them is made."""
    sha = hashlib.sha256()
    number = len(images) if subset is None else len(subset)
    step = max(1, (16 << 20) // max(1, images[0].nbytes))
    for first in range(0, number, step):
        part = slice(first, min(first + step, number))
        sha.update(np.ascontiguousarray(images[part] if subset is None else images[subset[part]]).data)
    return sha.hexdigest()


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Identifies a data set: by counts and names, for people to read, and by digests of pixels, labels and splits."""

    def digest(*arrays: np.ndarray) -> str:
        sha = hashlib.sha256()
        for array in arrays:
            sha.update(np.ascontiguousarray(array, np.int32).data)
        return sha.hexdigest()

    known, subset = dataset.pixel_digest, dataset.subset
    if known is None or known.images is not dataset.images or known.subset is not subset:
        known = PixelDigest(dataset.images, subset, pixels_sha256(dataset.images, subset))
    labels, splits = dataset.labels, list(dataset.splits.values())
    if subset is not None:
        labels, splits = labels[subset], [np.searchsorted(subset, indices) for indices in splits]
    return {
        "name": dataset.name,
        "images": [dataset.num_images, *dataset.images.shape[1:]],
        "classes": dataset.num_classes,
        **{f"{name}_images": len(indices) for name, indices in dataset.splits.items()},
        "pixels_sha256": known.sha256,
        "labels_sha256": digest(labels),
        "splits_sha256": digest(*splits),
        "normalisation": [list(values) for values in dataset.normalisation],
        "class_names": list(dataset.class_names or ()),
    }


def completed_fingerprint(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded fingerprint with the fields that older versions did not record.

    Args:
        recorded: the fingerprint in a run's directory.
        found: the fingerprint of the data set that it is to be compared with.
    """
    # All sets but the digits were normalised as Tiny ImageNet; names of classes were not known.
    before = (
        found["normalisation"] if recorded.get("name") == "digits" else list(map(list, TINY_IMAGENET_NORMALISATION))
    )
    return {"normalisation": before, "class_names": found["class_names"], **recorded}


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two, class by class.

    Args:
        labels: int [N].
        fraction: share of each class that goes to the second part (rounded), in (0, 1). A class of at least two
            examples has one of them at least in either part.
        seed: the same seed splits the same way.

    Returns:
        Sorted indices of the first and of the second part.
    """
    rng = np.random.default_rng(seed)
    in_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        in_second[members[: min(max(round(fraction * len(members)), 1), len(members) - 1)]] = True
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)


def epoch_order(indices: np.ndarray, seed: int, phase: int, epoch: int) -> np.ndarray:
    """The order of the training images in one epoch: a function of seed, phase and epoch alone."""
    return np.random.default_rng([seed, phase, epoch]).permutation(indices)
