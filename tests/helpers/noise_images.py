"""A miniature data set of TensorFlow Datasets: images of noise."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encoded(pixels, file_format="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def noise(seed, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class NoiseImages(tfds.core.GeneratorBasedBuilder):
    """24 training images and 8 test images of 4 classes; class attributes hold the properties that tests change."""

    VERSION = tfds.core.Version("1.2.3")
    splits = {"train": 24, "test": 8}
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=4)}
    supervised_keys = ("image", "label")
    image = staticmethod(lambda number: encoded(noise(number)))
    label = staticmethod(lambda number: number % 4)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**self.features, "id": tfds.features.Text()}),
            supervised_keys=self.supervised_keys,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in self.splits.items()}

    def _generate_examples(self, split, count):
        image_key, label_key = self.features
        for i in range(count):
            number = i + (1000 if split != "train" else 0)
            yield number, {image_key: self.image(number), label_key: self.label(number), "id": str(number)}
