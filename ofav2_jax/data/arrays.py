"""Arrays of one's own, from memory or from a file of numpy."""

import dataclasses
import hashlib
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ofav2_jax.checks import local_path, require_fraction, require_text
from ofav2_jax.data.array_checks import listed, require_class_names, require_images, require_label_range, require_labels
from ofav2_jax.data.augment import Normalisation, as_normalisation
from ofav2_jax.data.dataset import Dataset, Request
from ofav2_jax.data.from_cache import divide, require_class_count

_SPLITS = ("train", "test", "validation")
_CLASS_NAMES = "class_names"
# The arrays of a file, of which those of the validation split and the names may be missing.
_ARRAYS = [f"{kind}_{split}" for split in _SPLITS for kind in ("images", "labels")]
_REQUIRED = _ARRAYS[:4]
_EXPLAINED = (
    f"a file of numpy.savez with {', '.join(_REQUIRED)}, and if you like {', '.join(_ARRAYS[4:])}, {_CLASS_NAMES}"
)


def dataset_from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    validation: tuple[Any, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    normalisation: Normalisation | None = None,
    validation_fraction: float = 0.15,
    seed: int = 0,
) -> Dataset:
    """Makes a data set of arrays.

    Args:
        train: images, uint8 [N, H, H, 3], and labels, ints [N] from 0.
        test: the same, to report on.
        validation: the same, to choose the best epoch by; None: a share of the training images, class by class.
        class_names: the names of the classes; None: as many classes as the largest training label asks for, named "0",
            "1", ...
        name: the data set's name in reports.
        normalisation: mean and standard deviation; None: those of the training images.
        validation_fraction: the share that becomes the validation split if there is none, in (0, 1).
        seed: seed of that split.

    Returns:
        The data set; its images are a copy.

    Raises:
        ValueError: naming the array, what is wrong with it, and what is allowed. Images that occur in two splits are
            warned of (`Dataset.notes`, and UserWarning).
    """
    require_text("name", name)
    require_fraction("validation_fraction", validation_fraction)
    given = {"train": train, "test": test, **({} if validation is None else {"validation": validation})}
    for split, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"{split}={type(pair).__name__} is not allowed: it must be (images, labels)")
    arrays = {split: (_as_array(images), _as_array(labels)) for split, (images, labels) in given.items()}
    request = Request(name, seed=seed, validation_fraction=validation_fraction, normalisation=normalisation)
    dataset = _dataset(arrays, None if class_names is None else tuple(class_names), request)
    for leak in _leaks(arrays):
        warnings.warn(f"{name}: {leak}", UserWarning, stacklevel=3)
    return dataset


def _as_array(values: Any) -> Any:
    # A list of numbers can be labels; what else is not an array is refused where it is checked.
    return np.asarray(values) if isinstance(values, list) and all(type(v) is int for v in values) else values


def _dataset(arrays: Mapping[str, tuple[Any, Any]], class_names: tuple[str, ...] | None, request: Request) -> Dataset:
    for split, (images, labels) in arrays.items():
        require_images(f"{split} images", images)
        require_labels(f"{split} labels", labels, len(images))
        size, wanted = images.shape[1], arrays["train"][0].shape[1]
        if size != wanted:
            raise ValueError(f"{split} images have {size} pixels a side and train images {wanted}: they must be equal")
    labels_of_train = arrays["train"][1]
    num_classes = max(int(labels_of_train.max()) + 1, 2) if class_names is None else len(class_names)
    for split, (_, labels) in arrays.items():
        require_label_range(split, labels, num_classes)
    if class_names is None:
        class_names = tuple(map(str, range(num_classes)))
    require_class_names(class_names, num_classes)
    missing = np.setdiff1d(np.arange(num_classes), labels_of_train)
    if len(missing):
        raise ValueError(f"no training images of class {listed([class_names[label] for label in missing])}")
    if request.num_classes is not None:
        require_class_count(request.name, request.num_classes, num_classes)
        num_classes = request.num_classes
        kept = {split: labels < num_classes for split, (_, labels) in arrays.items()}
        arrays = {split: (images[kept[split]], labels[kept[split]]) for split, (images, labels) in arrays.items()}
    images, labels = (np.concatenate([pair[i] for pair in arrays.values()]) for i in (0, 1))
    splits, first = {}, 0
    for split, (_, of_split) in arrays.items():
        splits[split] = np.arange(first, first + len(of_split))
        first += len(of_split)
    divided, notes = divide(labels, splits, request)
    return Dataset(
        name=request.name,
        images=images,
        labels=labels.astype(np.int32),
        splits=divided,
        num_classes=num_classes,
        normalisation=request.normalisation or _normalisation(images[: len(splits["train"])]),
        class_names=class_names[:num_classes],
        notes=(*notes, *_leaks(arrays)),
    )


def _leaks(arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Says how many images of a split have the pixels of an image of an earlier one."""
    leaks: list[str] = []
    seen: dict[str, set[bytes]] = {}
    for split, (images, _) in arrays.items():
        digests = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images]
        for other, known in seen.items():
            number = sum(digest in known for digest in digests)
            if number:
                leaks.append(f"{number:,} images of {split} are also in {other}")
        seen[split] = set(digests)
    return leaks


def _normalisation(images: np.ndarray) -> Normalisation:
    """Mean and standard deviation of each channel, to four digits."""
    counts = [np.zeros(256, np.int64) for _ in range(3)]
    for image in images:
        for channel, of_channel in enumerate(counts):
            of_channel += np.bincount(image[..., channel].ravel(), minlength=256)
    values, means, deviations = np.arange(256) / 255, [], []
    for of_channel in counts:
        mean = float(np.average(values, weights=of_channel))
        means.append(round(mean, 4))
        # Pixels that are all the same have no deviation; division by 0 must not make NaNs of them.
        deviation = float(np.average((values - mean) ** 2, weights=of_channel)) ** 0.5
        deviations.append(round(max(deviation, 1 / 255), 4))
    return as_normalisation((means, deviations))


def load_npz(request: Request) -> Dataset:
    """Loads the arrays of the file in "npz:FILE"; images of another size than the base resolution are resized.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    file = local_path("data.dataset", request.name.partition(":")[2])
    if not file.name or not file.is_file():
        raise ValueError(
            f"data.dataset={request.name!r} is not allowed: {str(file)!r} is not a file; needed: {_EXPLAINED}"
        )
    try:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with opened as content:
            unknown = [name for name in content.files if name not in (*_ARRAYS, _CLASS_NAMES)]
            missing = [name for name in _REQUIRED if name not in content.files]
            if missing or unknown:
                wrong = f"{missing[0]} is missing" if missing else f"it holds {unknown[0]!r}"
                raise ValueError(f"{wrong}; its arrays are {', '.join(content.files) or 'none'}")
            loaded = {name: content[name] for name in content.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be used: {reason}; needed: {_EXPLAINED}") from None
    names = loaded.pop(_CLASS_NAMES, None)
    arrays: dict[str, tuple[Any, Any]] = {}
    for split in _SPLITS:
        pair = [loaded.get(f"{kind}_{split}") for kind in ("images", "labels")]
        if all(array is not None for array in pair):
            arrays[split] = pair[0], pair[1]
        elif any(array is not None for array in pair):
            raise ValueError(f"{file} cannot be used: images_{split} and labels_{split} go together")
    class_names = None if names is None else tuple(map(str, np.atleast_1d(names)))
    try:
        dataset = _dataset(arrays, class_names, dataclasses.replace(request, name=file.stem))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return _resized(dataset, request.base_resolution)


def _resized(dataset: Dataset, resolution: int | None) -> Dataset:
    size = dataset.images.shape[1]
    if resolution is None or resolution == size:
        return dataset
    images = np.empty((len(dataset.images), resolution, resolution, 3), np.uint8)
    for place, image in enumerate(dataset.images):
        images[place] = np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BILINEAR))
    notes = (*dataset.notes, f"images of {size} pixels resized to {resolution}")
    return dataclasses.replace(dataset, images=images, notes=notes)
