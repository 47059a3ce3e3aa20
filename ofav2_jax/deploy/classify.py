"""Image files to the names of classes, by a network in one of our files or in an ONNX file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ofav2_jax.checks import local_file
from ofav2_jax.data.decode import BrokenImageError, decode_image
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.deploy.verify import onnx_session

# Images that are computed at a time.
_BATCH_SIZE = 32


class Classifier:
    """A network that reads image files.

    Args:
        path: a file of `Standalone.save` or of `to_onnx`.

    Raises:
        ValueError: if it is neither; names the file and the reason.
        ImportError: for an ONNX file without the extra `export`.
    """

    def __init__(self, path: Path):
        path = local_file("network", path, ".safetensors", ".onnx")
        if not path.is_file():
            raise ValueError(f"network={str(path)!r} is not allowed: there is no such file")
        self._logits: Callable[[np.ndarray], np.ndarray]
        if path.suffix == ".safetensors":
            alone = Standalone.load(path)
            header = alone.header()
            self._logits = lambda pixels: np.asarray(alone.predict(pixels))
        else:
            header, self._logits = _of_onnx(path)
        num_classes = header["num_classes"]
        self._class_names = header["class_names"] or [f"class {number}" for number in range(num_classes)]
        # Images first get the size that the run's images had, as when that data set was read.
        self._resolution = header["about"].get("base_resolution", header["preprocessing"]["resize"])

    def classify(self, paths: Sequence[Path], top: int) -> list[list[tuple[str, float]]]:
        """Names and probabilities of the `top` most probable classes of each image, the most probable one first.

        Raises:
            ValueError: naming an image that cannot be read, before any is classified.
        """
        pixels = np.stack([self._decoded(path) for path in paths])
        found = []
        for first in range(0, len(pixels), _BATCH_SIZE):
            for logits in self._logits(pixels[first : first + _BATCH_SIZE]).astype(np.float64):
                probabilities = np.exp(logits - logits.max())
                probabilities /= probabilities.sum()
                order = np.argsort(-logits, kind="stable")[:top]
                found.append([(self._class_names[place], float(probabilities[place])) for place in order])
        return found

    def _decoded(self, path: Path) -> np.ndarray:
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file")
        try:
            return decode_image(path, self._resolution)
        except BrokenImageError as error:
            raise ValueError(f"{path}: {error}") from None


def _of_onnx(path: Path) -> tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]:
    run, metadata = onnx_session(path)
    if "ofav2_jax" not in metadata:
        raise ValueError(f"{path} is not a network that export wrote: it does not say what its classes are")
    header = json.loads(metadata["ofav2_jax"])
    images = header["preprocessing"]
    first = round((images["resize"] - images["crop"]) / 2)
    box = (first, first, first + images["crop"], first + images["crop"])

    def prepared(pixels: np.ndarray) -> np.ndarray:
        size = (images["resize"],) * 2
        resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(resized.crop(box))

    def logits(pixels: np.ndarray) -> np.ndarray:
        batch = np.stack([prepared(each) for each in pixels])
        if header["input"] == "float":
            batch = (batch.astype(np.float32) / 255 - np.float32(images["mean"])) / np.float32(images["std"])
        return run(batch)

    return header, logits
