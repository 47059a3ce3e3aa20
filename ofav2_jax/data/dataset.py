"""An image classification data set in memory, and the order in which training reads it."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from ofav2_jax.data.augment import Normalisation


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three disjoint splits.

    Attributes:
        name: the data set's name in reports.
        images: uint8 [N, H, W, 3], H = W.
        labels: int32 [N].
        splits: the indices of the images, int32, in "train" (to train, and to recalibrate batch norm), "validation"
            (to choose the best epoch) and "test" (to report).
        num_classes: number of classes.
        normalisation: mean and standard deviation of each channel.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    splits: dict[str, np.ndarray]
    num_classes: int
    normalisation: Normalisation


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for a data set; the fields are arguments of `load_dataset`."""

    name: str
    seed: int
    base_resolution: int | None
    num_classes: int | None
    data_dir: str | os.PathLike | None
    archive: str | os.PathLike | None


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Identifies a data set: by counts, for people to read, and by digests of pixels, labels and splits."""

    def digest(*arrays: np.ndarray) -> str:
        sha = hashlib.sha256()
        for array in arrays:
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    return {
        "name": dataset.name,
        "images": list(dataset.images.shape),
        "classes": dataset.num_classes,
        **{f"{name}_images": len(indices) for name, indices in dataset.splits.items()},
        "pixels_sha256": digest(dataset.images),
        "labels_sha256": digest(dataset.labels.astype(np.int32)),
        "splits_sha256": digest(*(indices.astype(np.int32) for indices in dataset.splits.values())),
    }


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two, class by class.

    Args:
        labels: int [N].
        fraction: share of each class that goes to the second part (rounded), in [0, 1].
        seed: the same seed splits the same way.

    Returns:
        Sorted indices of the first and of the second part.
    """
    rng = np.random.default_rng(seed)
    in_second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        in_second[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)


def epoch_order(indices: np.ndarray, seed: int, phase: int, epoch: int) -> np.ndarray:
    """The order of the training images in one epoch: a function of seed, phase and epoch alone."""
    return np.random.default_rng([seed, phase, epoch]).permutation(indices)
