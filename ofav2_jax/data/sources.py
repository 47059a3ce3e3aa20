"""`load_dataset`: loads a data set of any source by its name."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from ofav2_jax.checks import refuse, require_fraction, require_normalisation, require_positive, require_text
from ofav2_jax.data.augment import as_normalisation
from ofav2_jax.data.dataset import Dataset, Progress, Request
from ofav2_jax.data.digits import RESOLUTION as DIGITS_RESOLUTION
from ofav2_jax.data.digits import load_digits

DIGITS, FOLDER, NPZ, TINY_IMAGENET = "digits", "folder", "npz", "tiny_imagenet"
# What a source has no use for, by the source's name.
_WITHOUT = {
    DIGITS: ("archive", "data_dir", "num_classes", "test_split", "validation_split", "skip_broken"),
    FOLDER: ("archive",),
    NPZ: ("archive", "data_dir", "test_split", "validation_split", "skip_broken"),
}


def _source_of(name: str) -> str:
    """The key in `SOURCES` of a data set's name; a name that is no key is one of TensorFlow Datasets."""
    return NPZ if name.startswith(f"{NPZ}:") else name


def require_allowed(request: Request) -> None:
    """Refuses a request that its source cannot fulfil, as far as that is known without the data.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    source = _source_of(request.name)
    for field in _WITHOUT.get(source, () if source == TINY_IMAGENET else ("archive",)):
        value = getattr(request, field)
        if value is not None and value is not False:
            value = value if isinstance(value, int) else str(value)
            reason = "the digits have no such choice"
            if source != DIGITS:
                reason = f"data.dataset={source!r} has no such choice"
            if source != DIGITS and field == "archive":
                reason = f"it goes with data.dataset={TINY_IMAGENET!r} only, not with {source!r}"
            raise ValueError(f"data.{field}={value!r} is not allowed: {reason}")
    if request.name == DIGITS and request.base_resolution not in (None, DIGITS_RESOLUTION):
        refuse("data.base_resolution", request.base_resolution, f"{DIGITS_RESOLUTION}, the size of the digits")
    if request.name == FOLDER and request.data_dir is None:
        refuse("data.data_dir", None, f"the folder of the images, which data.dataset={FOLDER!r} reads")


def _digits(request: Request) -> Dataset:
    digits = load_digits(request.seed, request.validation_fraction)
    return digits if request.normalisation is None else dataclasses.replace(digits, normalisation=request.normalisation)


def _npz(request: Request) -> Dataset:
    from ofav2_jax.data.arrays import load_npz

    return load_npz(request)


def _folder(request: Request) -> Dataset:
    from ofav2_jax.data.folder import load_folder

    return load_folder(request)


def _tfds(request: Request) -> Dataset:
    # Imported here because TFDS takes a second to import, which other sources need not spend.
    from ofav2_jax.data.tfds_source import load_tfds

    return load_tfds(request)


# Another source is another entry; every other name is looked up in TensorFlow Datasets.
SOURCES: dict[str, Callable[[Request], Dataset]] = {DIGITS: _digits, FOLDER: _folder, NPZ: _npz}


def load_dataset(
    name: str,
    *,
    seed: int = 0,
    base_resolution: int | None = None,
    num_classes: int | None = None,
    max_test_images: int | None = None,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
    test_split: str | None = None,
    validation_split: str | None = None,
    validation_fraction: float = 0.15,
    normalisation: tuple[tuple[float, ...], ...] | None = None,
    skip_broken: bool = False,
    progress: Progress | None = None,
    plan_only: bool = False,
    check: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Loads a data set by name; downloads, prepares and decodes it at the first use.

    Args:
        name: "digits", "tiny_imagenet", "folder" (of images, `data_dir`), "npz:FILE", or the name of an image
            classification set in TensorFlow Datasets.
        seed: seed of the split between training and validation.
        base_resolution: height and width of the decoded images, pixels; images of another size are resized. None: 64,
            or the data set's only size.
        num_classes: number of classes, at least 2, of which the first are kept; None: all.
        max_test_images: largest number of test images, spread over the classes; None: all.
        data_dir: the folder of images, or the directory of prepared data sets; None: that of TensorFlow Datasets.
        archive: a local copy of Tiny ImageNet's archive, or the folder that it was unpacked to; None: it is downloaded
            if it is needed.
        test_split: the folder, or the split of TensorFlow Datasets, to test on; None: "test" if there is one.
        validation_split: the one to choose the best epoch by; None: a folder "val", "valid" or "validation", else a
            share of the training images.
        validation_fraction: share of each class's training images that becomes the validation split where there is
            none, in (0, 1).
        normalisation: means and standard deviations of the three channels, of pixels in [0, 1]; None: those of the
            training images.
        skip_broken: leave out images that cannot be decoded, instead of refusing the first of them.
        progress: is called while images are decoded, with the numbers of those that are and of all.
        plan_only: download nothing, decode nothing and write nothing: images that are not decoded yet are zeros.
        check: is called with the data set, and before images are decoded with its plan, and raises a ValueError if they
            do not fit, so that nobody waits for images that are then refused.

    Raises:
        ValueError: if no data set has this name, it cannot be used, or an argument does not go with it.
        OSError, ImportError: if the data set cannot be read, downloaded (ConnectionError) or prepared.
    """
    require_text("data.dataset", name)
    if max_test_images is not None:
        require_positive("data.max_test_images", max_test_images)
    if base_resolution is not None:
        require_positive("data.base_resolution", base_resolution)
    require_fraction("data.validation_fraction", validation_fraction)
    if normalisation is not None:
        require_normalisation("data.normalisation", normalisation)
    request = Request(
        name=name,
        seed=seed,
        base_resolution=base_resolution,
        num_classes=num_classes,
        data_dir=data_dir,
        archive=archive,
        test_split=test_split,
        validation_split=validation_split,
        validation_fraction=validation_fraction,
        normalisation=None if normalisation is None else as_normalisation(normalisation),
        skip_broken=skip_broken,
        progress=progress,
        plan_only=plan_only,
        check=None if check is None else lambda planned: check(_limited(planned, max_test_images)),
    )
    require_allowed(request)
    dataset = SOURCES.get(_source_of(name), _tfds)(request)
    dataset = _limited(dataset, max_test_images)
    if check is not None:
        check(dataset)
    return dataset


def _limited(dataset: Dataset, number: int | None) -> Dataset:
    """The data set with at most so many test images."""
    if number is None:
        return dataset
    test = dataset.splits["test"]
    # One image of each class in turn, so that any number of images is balanced.
    rank = np.empty(len(test), int)
    for label in range(dataset.num_classes):
        members = np.flatnonzero(dataset.labels[test] == label)
        rank[members] = np.arange(len(members))
    kept = np.sort(np.argsort(rank, kind="stable")[:number])
    return dataclasses.replace(dataset, splits={**dataset.splits, "test": test[kept]})
