"""From decoded images to a `Dataset`: its splits, its classes, and what its plan says."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ofav2_jax.checks import refuse
from ofav2_jax.data.array_checks import listed
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import TINY_IMAGENET_NORMALISATION, Dataset, Request, stratified_split
from ofav2_jax.data.image_cache import DecodedImages

# Share of each class's training images that is set aside to test on where there are no test images.
_TEST_FRACTION = 0.2


class PlannedDataset(Dataset):
    """A data set for a plan, whose images are zeros, and whose normalisation is not known if it is that of images."""


@dataclasses.dataclass(frozen=True)
class Undecoded:
    """What is known about images before they are decoded.

    Attributes:
        labels: the labels of each split's images.
        class_names: the names of the classes.
        resolution: height and width to which they will be decoded, pixels.
        directory: the folder in which they will be kept.
    """

    labels: Mapping[str, Sequence[int]]
    class_names: tuple[str, ...]
    resolution: int
    directory: Path


def planned_dataset(
    undecoded: Undecoded, name: str, request: Request, normalisation: Normalisation | None, notes: Sequence[str]
) -> Dataset:
    """The data set that decoding will give, for a plan: its images are zeros, which take no memory.

    Args:
        undecoded: what is known about the images.
        name: the data set's name.
        request: says how they are divided, and how many classes are kept.
        normalisation: mean and deviation; None: not known before the images are decoded.
        notes: goes into `Dataset.notes`.

    Raises:
        ValueError: if the images cannot be divided so, or do not fit the request.
    """
    labels = np.concatenate([np.asarray(labels, np.int32) for labels in undecoded.labels.values()])
    splits, first = {}, 0
    for split, of_split in undecoded.labels.items():
        splits[split] = np.arange(first, first + len(of_split), dtype=np.int32)
        first += len(of_split)
    size = undecoded.resolution
    megabytes = len(labels) * size**2 * 3 / 1e6
    todo = f"not decoded yet: {megabytes:,.1f} MB of pixels will be kept in {undecoded.directory}"
    images = np.broadcast_to(np.uint8(0), (len(labels), size, size, 3))
    known = normalisation or TINY_IMAGENET_NORMALISATION
    dataset = _divided(name, images, labels, splits, undecoded.class_names, known, request, [*notes, todo])
    if request.check is not None:
        request.check(dataset)
    return PlannedDataset(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)})


def dataset_of_decoded(
    decoded: DecodedImages, name: str, request: Request, normalisation: Normalisation | None, notes: Sequence[str]
) -> Dataset:
    """Divides decoded images into splits; nothing is copied.

    Args:
        decoded: the images.
        name: the data set's name.
        request: says how they are divided, and how many classes are kept.
        normalisation: mean and deviation; None: those of the images of the split "train".
        notes: goes into `Dataset.notes`.
    """
    notes = list(notes)
    if decoded.broken:
        notes.append(f"{len(decoded.broken):,} broken images left out: {listed(decoded.broken, 1)}")
    if decoded.duplicates:
        notes.append(
            f"{len(decoded.duplicates):,} images of other splits are also in train: {listed(decoded.duplicates, 1)}"
        )
    normalisation = normalisation or decoded.normalisation
    arrays = decoded.images, decoded.labels, decoded.splits
    dataset = _divided(name, *arrays, decoded.class_names, normalisation, request, notes)
    return dataclasses.replace(dataset, pixel_digest=decoded.digest(dataset.subset))


def _divided(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    splits: Mapping[str, np.ndarray],
    class_names: tuple[str, ...],
    normalisation: Normalisation,
    request: Request,
    notes: Sequence[str],
) -> Dataset:
    num_classes = len(class_names)
    if request.num_classes is not None:
        require_class_count(name, request.num_classes, num_classes)
        num_classes = request.num_classes
        splits = {split: indices[labels[indices] < num_classes] for split, indices in splits.items()}
    kept = np.sort(np.concatenate(list(splits.values())))
    divided, how = divide(labels, splits, request)
    missing = np.setdiff1d(np.arange(num_classes), labels[divided["train"]])
    if len(missing):
        raise ValueError(f"{name} has no training images of class {listed([class_names[i] for i in missing])}")
    return Dataset(
        name=name,
        images=images,
        labels=labels,
        splits=divided,
        num_classes=num_classes,
        normalisation=normalisation,
        class_names=class_names[:num_classes],
        subset=None if len(kept) == len(images) else kept.astype(np.int32),
        notes=(*how, *notes),
    )


def require_class_count(name: str, wanted: int, there: int) -> None:
    """Refuses more classes than there are.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    if not 2 <= wanted <= there:
        refuse("data.num_classes", wanted, f"from 2 to {there}, the classes of {name}")


def divide(
    labels: np.ndarray, splits: Mapping[str, np.ndarray], request: Request
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Sets test and validation images aside where there are no splits of them, class by class.

    Args:
        labels: int [N].
        splits: the indices of the images of "train" and maybe of "test" and "validation".
        request: gives the share of validation images, and the seed.

    Returns:
        The indices of the images of the three splits, int32, and what a plan says about it.
    """
    rest, notes = splits["train"], []
    if (test := splits.get("test")) is None:
        rest, test = (rest[part] for part in stratified_split(labels[rest], _TEST_FRACTION, seed=0))
        notes.append(f"test images: {_TEST_FRACTION:.0%} of each class of the training images, always the same")
    if (validation := splits.get("validation")) is None:
        rest, validation = (
            rest[part] for part in stratified_split(labels[rest], request.validation_fraction, request.seed)
        )
        notes.append(f"validation images: {request.validation_fraction:.0%} of each class of the training images")
    divided = {"train": rest, "validation": validation, "test": test}
    return {split: indices.astype(np.int32) for split, indices in divided.items()}, notes
