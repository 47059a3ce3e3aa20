"""`load_dataset`: loads a data set of any source by its name."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from ofav2_jax.checks import refuse, require_positive, require_text
from ofav2_jax.data.dataset import Dataset, Request
from ofav2_jax.data.digits import RESOLUTION as DIGITS_RESOLUTION
from ofav2_jax.data.digits import load_digits

DIGITS = "digits"


def require_allowed(request: Request) -> None:
    """Refuses a request that its source cannot fulfil, as far as that is known without the data.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    if request.name != DIGITS:
        return
    for field in ("archive", "data_dir", "num_classes"):
        if getattr(request, field) is not None:
            raise ValueError(f"data.{field}={getattr(request, field)!r} is not allowed: the digits have no such choice")
    if request.base_resolution not in (None, DIGITS_RESOLUTION):
        refuse("data.base_resolution", request.base_resolution, f"{DIGITS_RESOLUTION}, the size of the digits")


def _digits(request: Request) -> Dataset:
    return load_digits(request.seed)


def _tfds(request: Request) -> Dataset:
    # Imported here because TFDS takes a second to import, which other sources need not spend.
    from ofav2_jax.data.tfds_source import load_tfds

    return load_tfds(
        request.name,
        base_resolution=request.base_resolution or 64,
        seed=request.seed,
        data_dir=request.data_dir,
        archive=request.archive,
        num_classes=request.num_classes,
    )


# Another source is another entry; every other name is looked up in TensorFlow Datasets.
SOURCES: dict[str, Callable[[Request], Dataset]] = {DIGITS: _digits}


def load_dataset(
    name: str,
    *,
    seed: int = 0,
    base_resolution: int | None = None,
    num_classes: int | None = None,
    max_test_images: int | None = None,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
) -> Dataset:
    """Loads a data set by name; downloads, prepares and decodes it at the first use.

    Args:
        name: "digits", "tiny_imagenet", or the name of an image classification set in TensorFlow Datasets.
        seed: seed of the split between training and validation.
        base_resolution: height and width of the decoded images, pixels; images of another size are resized. None: 64,
            or the data set's only size.
        num_classes: number of classes, at least 2, of which the first are kept; None: all.
        max_test_images: largest number of test images, spread over the classes; None: all.
        data_dir: the directory of prepared data sets; None: that of TensorFlow Datasets.
        archive: a local copy of Tiny ImageNet's archive; None: it is downloaded if it is needed.

    Raises:
        ValueError: if no data set has this name, it cannot be used, or an argument does not go with it.
        ImportError, ConnectionError: see `tfds_source.load_tfds`.
    """
    require_text("data.dataset", name)
    if max_test_images is not None:
        require_positive("data.max_test_images", max_test_images)
    request = Request(name, seed, base_resolution, num_classes, data_dir, archive)
    require_allowed(request)
    dataset = SOURCES.get(name, _tfds)(request)
    return dataset if max_test_images is None else _with_fewer_test_images(dataset, max_test_images)


def _with_fewer_test_images(dataset: Dataset, number: int) -> Dataset:
    test = dataset.splits["test"]
    # One image of each class in turn, so that any number of images is balanced.
    rank = np.empty(len(test), int)
    for label in range(dataset.num_classes):
        members = np.flatnonzero(dataset.labels[test] == label)
        rank[members] = np.arange(len(members))
    kept = np.sort(np.argsort(rank, kind="stable")[:number])
    return dataclasses.replace(dataset, splits={**dataset.splits, "test": test[kept]})
