"""StableHLO files of networks that were taken out, by `jax.export`."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax import files
from ofav2_jax.checks import local_file, require_among
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.deploy.onnx_file import INPUTS
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.ops.backend import traced_for

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(alone: Standalone, path: str | os.PathLike, input: str = "uint8") -> None:
    """Writes a file that `jax.export.deserialize(...).call(images)` runs, for any number of images.

    It holds the arrays, and runs on a CPU, a GPU or a TPU. Input and result are those of an ONNX file, see `to_onnx`,
    without the logits of single exits.

    Args:
        alone: the network.
        path: the file, whose name ends in .stablehlo.
        input: "uint8", with the normalisation inside of the network, or "float".

    Raises:
        ValueError: for another input, or a file of another name.
        OSError: if the file cannot be written.
    """
    require_among("input", input, INPUTS)
    file = local_file("path", path, ".stablehlo")
    files.write_bytes(file, bytes(_exported(alone, input).serialize()))


def _exported(alone: Standalone, input: str) -> Any:
    normalisation: Normalisation = alone.normalisation

    def logits(images: jax.Array) -> jax.Array:
        if input == "uint8":
            images = normalisation(images.astype(jnp.float32))
        return alone.function(alone.arrays_on_device, images).mean(0)

    resolution = alone.design.resolution
    (batch,) = jax.export.symbolic_shape("batch")
    dtype = jnp.uint8 if input == "uint8" else jnp.float32
    images = jax.ShapeDtypeStruct((batch, resolution, resolution, 3), dtype)
    # One program for all platforms, in the formulations that need no support of a device.
    with traced_for("cpu"):
        return jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
