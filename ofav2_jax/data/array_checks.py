"""Checks of arrays of images and labels; every refusal says what the array is and how it becomes what is allowed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import refuse


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first of some names and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def described(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def require_images(field: str, images: Any) -> None:
    """Refuses what is not an array of square images with three channels, uint8.

    Raises:
        ValueError: naming the field, what it is and what is allowed.
    """
    found = described(images)

    def no(allowed: str) -> None:
        raise ValueError(f"{field}={found} is not allowed: it must be {allowed}")

    if not isinstance(images, np.ndarray):
        no("an array, uint8 [N, H, W, 3]")
    if images.dtype != np.uint8:
        hint = "; floats in [0, 1] become that by (255 * images).round().astype(numpy.uint8)"
        no(f"uint8, from 0 to 255{hint if images.dtype.kind == 'f' else ''}")
    if images.ndim != 4:
        no(f"[N, H, W, 3]{'; grey images: numpy.repeat(images[..., None], 3, -1)' if images.ndim == 3 else ''}")
    if images.shape[-1] != 3:
        hint = "; grey images: numpy.repeat(images, 3, -1)" if images.shape[-1] == 1 else ""
        if images.shape[1] == 3:
            hint = "; channels last: numpy.moveaxis(images, 1, -1)"
        no(f"[N, H, W, 3], RGB{hint}")
    if images.shape[1] != images.shape[2]:
        no("[N, H, W, 3] with H = W; crop or resize the images")
    if not images.shape[0] or not images.shape[1]:
        no("at least one image of at least one pixel")


def require_labels(field: str, labels: Any, num_images: int) -> None:
    """Refuses what is not one integer label for each image.

    Raises:
        ValueError: naming the field, what it is and what is allowed.
    """
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != (num_images,):
        hint = "; numpy.argmax(labels, -1) if they are one-hot" if getattr(labels, "ndim", 0) == 2 else ""
        raise ValueError(
            f"{field}={described(labels)} is not allowed: it must be ints [{num_images}], one for each image{hint}"
        )


def require_label_range(split: str, labels: np.ndarray, num_classes: int) -> None:
    """Refuses labels of a split that are not in [0, num_classes).

    Raises:
        ValueError: naming split, label and number of classes.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise ValueError(
            f"label {wrong} in split {split!r} is not allowed: with {num_classes} classes labels are "
            f"0 to {num_classes - 1}"
        )


def require_class_names(names: Any, num_classes: int) -> None:
    """Refuses what is not one name for each class, all different.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        refuse("class_names", names, "a tuple of str")
    if len(names) != num_classes:
        raise ValueError(f"class_names has {len(names)} names for {num_classes} classes")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"class_names has {twice!r} twice")
