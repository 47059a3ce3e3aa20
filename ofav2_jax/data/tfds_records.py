"""The encoded examples of a prepared data set of TensorFlow Datasets."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class Records:
    """Images as they were encoded, and their labels.

    Args:
        builder: the builder of TFDS, prepared.
        chosen: the name in TFDS of each split.

    Attributes:
        lengths: the number of examples of each split.

    Raises:
        ValueError: if the data set is prepared in a format that needs TensorFlow.
    """

    def __init__(self, builder: Any, chosen: Mapping[str, str]):
        info = builder.info
        self._image_key, self._label_key = feature_keys(info)
        # TFDS parses only these two features, and decodes no image: it may use OpenCV, whose result differs from
        # Pillow's.
        features = {key: info.features[key] for key in (self._image_key, self._label_key)}
        self._features = tfds.features.FeaturesDict(features)
        self._class_names = info.features[self._label_key].names or []
        self._decoders = {self._image_key: tfds.decode.SkipDecoding()}
        self._names = {
            split: f"split {name!r} of {info.full_name} in {builder.data_dir}" for split, name in chosen.items()
        }
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            self._sources = {
                split: builder.as_data_source(name, deserialize_method=raw) for split, name in chosen.items()
            }
        except NotImplementedError as error:
            raise ValueError(
                f"{info.full_name} is prepared in {builder.data_dir} in the format {info.file_format.value}; only "
                "array_record can be read: prepare it in another `data_dir`"
            ) from error
        self.lengths = {split: len(source) for split, source in self._sources.items()}

    def read(self, split: str, part: range) -> Iterator[tuple[bytes, int]]:
        """Yields some encoded images of a split and their labels.

        Raises:
            OSError: if the records are damaged.
        """
        try:
            records = self._sources[split].__getitems__(list(part))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{self._names[split]} cannot be read: {reason}") from error
        for record in records:
            example = self._features.deserialize_example_np(record, decoders=self._decoders)
            yield example[self._image_key], int(example[self._label_key])

    def labels(self, split: str, number: int | None = None) -> list[int]:
        """The labels of the first images of a split, or of all."""
        length = self.lengths[split] if number is None else min(number, self.lengths[split])
        return [label for _, label in self.read(split, range(length))]

    def describe(self, split: str, index: int) -> str:
        """Names an image and its class in an error message."""
        ((_, label),) = self.read(split, range(index, index + 1))
        name = self._class_names[label] if 0 <= label < len(self._class_names) else label
        return f"{index} of {self._names[split]} (class {name})"


def feature_keys(info: Any) -> tuple[str, str]:
    """Names of the image and the label feature: `supervised_keys` if the set has them, else "image" and "label".

    Raises:
        ValueError: if these features are not an image of 8 bits per channel and a class label.
    """
    keys = info.supervised_keys or ("image", "label")
    if len(keys) == 2 and all(isinstance(key, str) and key in info.features for key in keys):
        image, label = (info.features[key] for key in keys)
        is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if is_image and isinstance(label, tfds.features.ClassLabel):
            return keys
    features = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in info.features.items())
    raise ValueError(
        f"{info.full_name} is not for image classification: it needs an Image of uint8 and a ClassLabel, named by its "
        f"supervised_keys or 'image' and 'label'; its features are {features}"
    )
