"""Runs an exported file and compares it with the network that it was made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.checks import require_package
from ofav2_jax.deploy.standalone import Standalone

# The largest difference that is allowed, divided by the largest logit. Rounding makes one of about 1e-6; where channels
# hardly vary, batch norm magnifies it to some 1e-5.
TOLERANCE = 1e-4
# A file is written for any number of images.
BATCH_SIZES = (1, 64)


def verify(path: Path, alone: Standalone, input: str) -> float:
    """Runs a file on random images, in batches of several sizes.

    Args:
        path: a file of `to_onnx` or `to_stablehlo`.
        alone: the network.
        input: "uint8" or "float", what the file was written for.

    Returns:
        The largest difference between the logits, divided by the largest logit.

    Raises:
        ValueError: if the file does not run, or its logits differ by more than `TOLERANCE`.
        ImportError: if its runtime is not installed.
    """
    shape = max(BATCH_SIZES), *(alone.design.resolution,) * 2, 3
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    images = np.asarray(alone.normalisation(jnp.asarray(pixels, jnp.float32)))
    expected = np.asarray(alone.apply(images), np.float32)
    run, largest = _RUNNERS[path.suffix](path), 0.0
    for batch_size in BATCH_SIZES:
        try:
            found = run((pixels if input == "uint8" else images)[:batch_size])
        except Exception as error:  # a runtime has classes of its own, without a common base
            raise ValueError(f"{path} does not run: {' '.join(str(error).split())}") from error
        if found.shape != (batch_size, alone.num_classes):
            raise ValueError(f"{path} gives logits {found.shape} instead of {(batch_size, alone.num_classes)}")
        off = float(np.abs(found - expected[:batch_size]).max() / np.abs(expected).max())
        # Not `off > TOLERANCE`, because NaN is not.
        if not off <= TOLERANCE:
            raise ValueError(f"{path} gives other logits than the network: off by {off:.2g} of the largest")
        largest = max(largest, off)
    return largest


def run_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a batch of images to the logits of an ONNX file.

    Raises:
        ImportError: without the extra `export`.
        ValueError: if the file cannot be read.
    """
    return onnx_session(path)[0]


def onnx_session(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, str]]:
    """What `run_onnx` returns, and the file's metadata."""
    onnxruntime = require_package("onnxruntime", "export")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes of its own, without a common base
        raise ValueError(
            f"{path} is not an ONNX file that onnxruntime reads: {' '.join(str(error).split())}"
        ) from error
    metadata = session.get_modelmeta().custom_metadata_map
    return lambda images: session.run(["logits"], {"images": images})[0], metadata


def _run_stablehlo(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    exported: Any = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))


_RUNNERS = {".onnx": run_onnx, ".stablehlo": _run_stablehlo}
