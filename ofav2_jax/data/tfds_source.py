"""Image classification data sets that TensorFlow Datasets knows, and Tiny ImageNet, as arrays in memory."""

import io
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ofav2_jax.checks import did_you_mean
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import Dataset, stratified_split
from ofav2_jax.data.image_cache import ImageSource, cached_images, default_cache_dir

# Mean and deviation of Tiny ImageNet's training images; those of other photographs are close to them.
TINY_IMAGENET_NORMALISATION = Normalisation(mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821))
_TINY_IMAGENET = "tiny_imagenet"


def load_tfds(
    name: str,
    *,
    base_resolution: int,
    seed: int,
    data_dir: str | os.PathLike | None = None,
    archive: str | os.PathLike | None = None,
    num_classes: int | None = None,
    validation_fraction: float = 0.15,
    test_split: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    normalisation: Normalisation = TINY_IMAGENET_NORMALISATION,
) -> Dataset:
    """Loads a data set, prepares it first if that has not been done, and decodes its images once and for all.

    The split "train" is divided class by class into training and validation images; the test images are those of
    `test_split`. Later calls map the decoded images from the cache and do not need the prepared data set.

    Args:
        name: "tiny_imagenet", or a name in TFDS: "cifar10", "imagenet_resized/64x64", "cifar10:3.0.2".
        base_resolution: R, height and width of the decoded images, pixels. Images of another size are resized (Pillow,
            bilinear); of images that are not square, the centre is taken.
        seed: seed of the split between training and validation.
        data_dir: the directory of prepared data sets; None: that of TFDS (~/tensorflow_datasets).
        archive: a local copy of Tiny ImageNet's archive; None downloads it. Not read if the set is prepared already.
        num_classes: keeps only the classes below this number; None: all.
        validation_fraction: share of each class's training images that goes to the validation split, in (0, 1).
        test_split: name of the split with the test images; None takes "test" if there is one, else "validation" (Tiny
            ImageNet's labelled one).
        cache_dir: the folder of decoded images; None: `ofav2_jax` in the user's cache folder.
        normalisation: mean and standard deviation; the default is Tiny ImageNet's.

    Returns:
        The data set. With all classes, its images are a read-only memory map.

    Raises:
        ValueError: if an argument is not allowed, TFDS does not know the name, the set is not one for image
            classification or lacks a split, or the archive is damaged or another one.
        ImportError: if TFDS needs TensorFlow to prepare this data set.
        ConnectionError: if the archive cannot be downloaded.
    """
    if base_resolution < 1:
        raise ValueError(f"base_resolution={base_resolution} is not allowed; it must be at least 1")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} is not allowed; it must be in (0, 1)")
    if archive is not None and name != _TINY_IMAGENET:
        raise ValueError(f"archive={str(archive)!r} goes with {_TINY_IMAGENET!r} only, not with {name!r}")
    builder = _builder(name, data_dir, archive)
    if num_classes is not None:
        # Checked before anything is downloaded, except for sets whose classes are known only once they are prepared.
        classes = builder.info.features[_keys(builder.info)[1]].num_classes
        _check_classes(name, num_classes, classes or num_classes)
    full_name, version = builder.info.full_name, str(builder.version)
    key = "-".join([re.sub(r"[^\w.]+", "-", full_name), str(base_resolution), *([test_split] if test_split else [])])
    decoded = cached_images(
        Path(cache_dir or default_cache_dir()).expanduser() / key,
        full_name,
        version,
        base_resolution,
        lambda: _open_source(builder, base_resolution, test_split),
    )
    images, labels, num_train, classes = decoded.images, decoded.labels, decoded.num_train, decoded.num_classes
    if num_classes is not None:
        _check_classes(name, num_classes, classes)
        if num_classes < classes:
            kept = np.flatnonzero(labels < num_classes)
            # A compact copy, because images that are not used would be held on the device too.
            images, labels, num_train = images[kept], labels[kept], int(np.searchsorted(kept, num_train))
            classes = num_classes
    train, validation = stratified_split(labels[:num_train], validation_fraction, seed)
    splits = {"train": train, "validation": validation, "test": np.arange(num_train, len(labels))}
    return Dataset(
        name=name,
        images=images,
        labels=labels,
        splits={split: indices.astype(np.int32) for split, indices in splits.items()},
        num_classes=classes,
        normalisation=normalisation,
    )


def _check_classes(name: str, num_classes: int, classes: int) -> None:
    if not 1 <= num_classes <= classes:
        raise ValueError(f"num_classes={num_classes} is not allowed; {name} has 1 to {classes}")


def _builder(name, data_dir, archive):
    """The TFDS builder of a name.

    Raises:
        ValueError: if no data set has this name.
    """
    import tensorflow_datasets as tfds

    data_dir = data_dir and Path(data_dir).expanduser()
    if name == _TINY_IMAGENET:
        from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet

        return TinyImagenet(data_dir=data_dir, archive=archive)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        # The message of TFDS itself lists more than a thousand names.
        hint = did_you_mean(name, ["digits", _TINY_IMAGENET, *tfds.list_builders(with_community_datasets=False)])
        raise ValueError(
            f"data set {name!r} is unknown to TensorFlow Datasets {tfds.__version__} and not prepared in {data_dir}; "
            f"https://www.tensorflow.org/datasets/catalog lists the names{hint}"
        ) from None


def _open_source(builder, resolution: int, test_split: str | None) -> ImageSource:
    """Opens the encoded images of a data set, and prepares it if it is not prepared yet.

    Raises:
        ValueError: if the set is not for image classification or lacks a split.
        ImportError: if TFDS needs TensorFlow to prepare it.
    """
    import tensorflow_datasets as tfds

    name = builder.info.full_name
    image_key, label_key = _keys(builder.info)
    try:
        builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except ImportError as error:
        raise ImportError(
            f"{name} is not prepared in {builder.data_dir}, and TensorFlow Datasets cannot prepare it without "
            f"TensorFlow ({error}): pip install tensorflow, or prepare it elsewhere with "
            f"`tfds build {builder.name} --file_format=array_record` and give its `data_dir`"
        ) from error
    splits = ("train", _test_split(name, list(builder.info.splits), test_split))
    # TFDS parses only these two features, and decodes no image: it may use OpenCV, whose result differs from Pillow's.
    features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in (image_key, label_key)})
    try:
        records = [
            builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
            for split in splits
        ]
    except NotImplementedError as error:
        raise ValueError(
            f"{name} is prepared in {builder.data_dir} in the format {builder.info.file_format.value}; only "
            "array_record can be read: prepare it in another `data_dir`"
        ) from error

    def decode(split: int, part: range) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(part), resolution, resolution, 3), np.uint8)
        labels = np.empty(len(part), np.int32)
        for i, record in enumerate(records[split].__getitems__(list(part))):
            example = features.deserialize_example_np(record, decoders={image_key: tfds.decode.SkipDecoding()})
            images[i] = _decode_image(example[image_key], resolution)
            labels[i] = example[label_key]
        if labels.min() < 0:
            raise ValueError(f"split {splits[split]!r} of {name} has images without a label: choose another test_split")
        return images, labels

    return ImageSource((len(records[0]), len(records[1])), builder.info.features[label_key].num_classes, decode)


def _keys(info) -> tuple[str, str]:
    """Names of the image and the label feature: `supervised_keys` if the set has them, else "image" and "label".

    Raises:
        ValueError: if these features are not an image of 8 bits per channel and a class label.
    """
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    if len(keys) == 2 and all(isinstance(key, str) and key in info.features for key in keys):
        image, label = (info.features[key] for key in keys)
        is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if is_image and isinstance(label, tfds.features.ClassLabel):
            return keys
    raise ValueError(
        f"{info.full_name} is not for image classification: it needs an 8-bit image and a class label, named by its "
        f"supervised_keys or 'image' and 'label'; its features are {', '.join(info.features)}"
    )


def _test_split(name: str, splits: list[str], wanted: str | None) -> str:
    """The name of the split with the test images.

    Raises:
        ValueError: if that split, or the split "train", is missing.
    """
    has = f"{name} has the splits {', '.join(splits)}"
    if "train" not in splits:
        raise ValueError(f"{has}; a split 'train' is needed")
    choices = [split for split in ([wanted] if wanted else ["test", "validation"]) if split in splits]
    if not choices:
        raise ValueError(f"{has}; a split {repr(wanted) if wanted else 'test or validation'} is needed to test on")
    return choices[0]


def _decode_image(encoded: bytes, resolution: int) -> np.ndarray:
    """Decodes an image to uint8 [R, R, 3]; grey images get three equal channels."""
    with Image.open(io.BytesIO(encoded)) as file:
        image = file.convert("RGB")
        if image.size != (resolution, resolution):
            image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(image)
