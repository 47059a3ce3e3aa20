"""Writes folders of made-up images: each class has a colour of its own, so that a network learns it in an epoch or two.

python -m tests.helpers.pictures DIR [--classes=N] [--train=N] [--test=N] [--size=N]
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(label, number=0, size=(24, 24)):
    """Pixels of an image: dark noise with one bright channel, whose lower half is darker from the fourth class on."""
    rng = np.random.default_rng([label, number])
    pixels = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
    pixels[..., label % 3] += 120
    if label % 6 >= 3:
        pixels[: size[0] // 2] //= 2
    return pixels


def encoded(image, file_format="PNG", **options):
    """The content of an image file, from pixels or from an image of Pillow's."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, file_format, **options)
    return file.getvalue()


def write_folder(root, splits=None, classes=("bee", "cat", "dog"), size=(24, 24), suffix="png"):
    """Writes ROOT/SPLIT/CLASS/*.

    Args:
        root: the folder.
        splits: the number of images of each class by split; the split "" stands for ROOT/CLASS/*.
        classes: the names of the classes.
        size: height and width of the images, pixels.
        suffix: of the files.
    """
    number = 0
    for split, count in (splits or {"train": 8, "test": 3}).items():
        for label, name in enumerate(classes):
            folder = Path(root, split, name)
            folder.mkdir(parents=True)
            for _ in range(count):
                number += 1
                Image.fromarray(picture(label, number, size)).save(folder / f"{number:06d}.{suffix}")
    return Path(root)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    for name, default in (("classes", 4), ("train", 30), ("test", 10), ("size", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    classes = [f"class{number}" for number in range(asked.classes)]
    write_folder(asked.root, {"train": asked.train, "test": asked.test}, classes, (asked.size, asked.size), "jpg")


if __name__ == "__main__":
    main()
