"""`Standalone`: a network that was taken out of a supernet, in memory and in one file."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import ArrayLike

from ofav2_jax import files
from ofav2_jax.checks import local_file, refuse
from ofav2_jax.data.augment import Normalisation, eval_images, resized_size
from ofav2_jax.deploy.execute import run
from ofav2_jax.deploy.layers import Layer, count_macs, fold_batch_norm, require_consistent, shapes
from ofav2_jax.model.design import Design
from ofav2_jax.runtime.programs import compiler_options, quick_compiler_options

FORMAT = "ofav2_jax.network/1"
# A file proves itself on so many images of noise, to within this share of the largest logit.
_CHECK_IMAGES, _CHECK_TOLERANCE = 2, 1e-3
# Of ImageNet, for networks whose data are not known.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True, eq=False)
class Standalone:
    """A network by itself: plain layers with their arrays; `extract` makes it.

    Attributes:
        design: what it is.
        layers: its layers, in the order in which they run.
        arrays: their arrays, by "LAYER/ARRAY".
        outputs: the layer that gives an exit's logits, by exit, in ascending order.
        num_classes: classes.
        class_names: their names, or None.
        normalisation: that of its images.
        about: what else is known of it, as JSON: the supernet, the run, accuracies.
        resized: height and width to which images are resized before the centre crop, pixels; given as None, the
            paper's size, see `resized_size`.

    Raises:
        ValueError: if these do not fit together.
    """

    design: Design
    layers: tuple[Layer, ...]
    arrays: Mapping[str, np.ndarray]
    outputs: Mapping[int, str]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    normalisation: Normalisation = IMAGENET
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resized: int | None = None

    def __post_init__(self):
        resolution = self.design.resolution
        if self.resized is None:
            object.__setattr__(self, "resized", resized_size(resolution))
        if type(self.resized) is not int or self.resized < resolution:
            refuse("resized", self.resized, f"an int of at least {resolution}, the size of the crop")
        require_consistent(self.layers, self.arrays, self.design.resolution)
        found = shapes(self.layers, self.arrays, self.design.resolution)
        fitting = {name for name, shape in found.items() if shape == (self.num_classes, 1)}
        if tuple(self.outputs) != self.design.exits or not set(self.outputs.values()) <= fitting:
            raise ValueError(
                f"outputs={dict(self.outputs)} is not allowed: for each of {self.design.exits} a layer whose result "
                f"is one pixel of {self.num_classes} channels"
            )
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names are {len(self.class_names)}, but there are {self.num_classes} classes")

    # --- cost --------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def params(self) -> int:
        """Weights and biases, counted as `count` does."""
        return sum(array.size for name, array in self.arrays.items() if not name.endswith(("/mean", "/var")))

    @functools.cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image, counted as `count` does."""
        return count_macs(self.layers, self.arrays, self.design.resolution)

    # --- running it --------------------------------------------------------------------------------------------------

    def apply(self, images: ArrayLike) -> jax.Array:
        """Logits, averaged over the exits of the design.

        Args:
            images: float [B, R, R, 3], normalised, R the design's resolution.

        Returns:
            float [B, classes].

        Raises:
            ValueError: for images of another shape.
        """
        return self.apply_exits(images).mean(0)

    def apply_exits(self, images: ArrayLike) -> jax.Array:
        """Logits of each exit of the design, [exits, B, classes]; see `apply`."""
        resolution = self.design.resolution
        shape = np.shape(images)
        if len(shape) != 4 or shape[1:] != (resolution, resolution, 3) or not shape[0]:
            raise ValueError(
                f"images have shape {shape}, which is not allowed: they must be [B, {resolution}, {resolution}, 3]"
            )
        if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
            raise ValueError(
                f"images are {jnp.result_type(images)}, which is not allowed: normalised floats, or predict"
            )
        return self._program(self.arrays_on_device, images)

    def predict(self, images: np.ndarray) -> jax.Array:
        """Logits of images as they come: resized, cropped at the centre and normalised as in the tests of a run.

        Args:
            images: uint8 [B, H, W, 3], RGB, of any size.

        Returns:
            float [B, classes]; `jax.nn.softmax` makes probabilities of them.

        Raises:
            ValueError: for images of another shape or dtype.
        """
        if np.ndim(images) != 4 or np.shape(images)[-1] != 3 or not np.size(images):
            raise ValueError(f"images have shape {np.shape(images)}, which is not allowed: they must be [B, H, W, 3]")
        if np.asarray(images).dtype != np.uint8:
            raise ValueError(f"images are {np.asarray(images).dtype}, which is not allowed: uint8, or apply")
        return self.apply(self._prepare(np.asarray(images)))

    @functools.cached_property
    def _prepare(self):
        return jax.jit(lambda images: eval_images(images, self.design.resolution, self.normalisation, self.resized))

    @functools.cached_property
    def _folded(self) -> tuple[list[Layer], dict[str, np.ndarray]]:
        return fold_batch_norm(self.layers, self.arrays, list(self.outputs.values()))

    @functools.cached_property
    def arrays_on_device(self) -> dict[str, jax.Array]:
        """The arrays that `function` takes, as JAX's: batch norm is a part of the convolutions."""
        # Also where a program that uses them is being traced, because they are kept.
        with jax.ensure_compile_time_eval():
            return jax.tree.map(jnp.asarray, self._folded[1])

    def function(self, arrays: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
        """What `apply_exits` compiles: a pure function of `arrays_on_device` and of normalised images."""
        images = images.astype(next(iter(arrays.values())).dtype)
        return run(self._folded[0], arrays, list(self.outputs.values()), images)

    @functools.cached_property
    def _program(self):
        return jax.jit(self.function, compiler_options=compiler_options())

    # --- files -------------------------------------------------------------------------------------------------------

    def header(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON."""
        return {
            "design": self.design.as_json(),
            "layers": [layer.as_json() for layer in self.layers],
            "outputs": {str(stage): name for stage, name in self.outputs.items()},
            "num_classes": self.num_classes,
            "class_names": self.class_names and list(self.class_names),
            "preprocessing": {
                "resize": self.resized,
                "crop": self.design.resolution,
                "mean": list(self.normalisation.mean),
                "std": list(self.normalisation.std),
            },
            "params": self.params,
            "macs": self.macs,
            "about": dict(self.about),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file, which `load` reads; at every moment there is the old file or the new one.

        Raises:
            ValueError: if the name does not end in .safetensors.
            OSError: if it cannot be written.
        """
        file = local_file("path", path, ".safetensors")
        header = {**self.header(), "self_check": np.asarray(self._noise_logits()).tolist()}
        metadata = {"format": FORMAT, "network": json.dumps(header, separators=(",", ":"))}
        data = safetensors.numpy.save({name: np.asarray(array) for name, array in self.arrays.items()}, metadata)
        files.write_bytes(file, data)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Standalone":
        """Reads a file that `save` wrote, and runs it on the images of noise whose logits the file holds.

        Raises:
            ValueError: if it is no such file, is damaged, or computes something else here than where it was written;
                names the file and the reason.
        """
        file = local_file("path", path, ".safetensors")
        try:
            with safetensors.safe_open(file, framework="numpy") as content:
                metadata = content.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
                arrays = {name: content.get_tensor(name) for name in content.keys()}
            header = json.loads(metadata["network"])
            alone = cls._of_header(header, arrays)
            expected = np.array(header["self_check"], np.float64)
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, AttributeError, ValueError) as reason:
            raise ValueError(f"{file} is not a network that extract wrote: {files.reason(reason)}") from reason
        found = np.asarray(alone._noise_logits(), np.float64)
        error = np.abs(found - expected).max() / np.abs(expected).max() if found.shape == expected.shape else np.inf
        if not error <= _CHECK_TOLERANCE:
            raise ValueError(
                f"{file} is damaged, or runs wrongly here: logits of its self-check are off by {error:.1g}"
            )
        return alone

    @classmethod
    def _of_header(cls, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Standalone":
        names, images = header["class_names"], header["preprocessing"]
        return cls(
            design=Design.from_json(header["design"]),
            layers=tuple(Layer.from_json(record) for record in header["layers"]),
            arrays=arrays,
            outputs={int(stage): name for stage, name in header["outputs"].items()},
            num_classes=int(header["num_classes"]),
            class_names=None if names is None else tuple(map(str, names)),
            normalisation=Normalisation(tuple(images["mean"]), tuple(images["std"])),
            about=dict(header["about"]),
            resized=images["resize"],
        )

    def _noise_logits(self) -> jax.Array:
        """Logits of images of noise, [exits, images, classes]."""
        shape = _CHECK_IMAGES, self.design.resolution, self.design.resolution, 3
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        # Compiled to run once.
        return jax.jit(self.function, compiler_options=quick_compiler_options())(self.arrays_on_device, noise)
