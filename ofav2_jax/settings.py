"""Everything that defines a run, validated."""

import dataclasses
import math
from typing import Any

from ofav2_jax.evaluate import Evaluation
from ofav2_jax.losses import ensemble_weights
from ofav2_jax.network import network_spec
from ofav2_jax.phases import Phase
from ofav2_jax.step import ENGINES, Recipe

TEACHERS = ("progressive", "fixed")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images a run is about.

    Attributes:
        dataset: "digits", "tiny_imagenet" or a name that TensorFlow Datasets knows.
        base_resolution: height and width to which images are brought when they are decoded.
        num_classes: how many classes, from the first on; None: all.
        max_test_images: how many test images, spread over the classes; None: all.
    """

    dataset: str
    base_resolution: int
    num_classes: int | None
    max_test_images: int | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of Extended Progressive Shrinking. The same settings give the same parameters, bit for bit.

    Attributes:
        name: of the run.
        network, width_multiplier: of the supernet.
        seed: of every random draw, an int >= 0.
        resolutions: drawn anew for each batch.
        batch_size: images per step, over all devices.
        dtype: of the activations, "float32" or "bfloat16"; parameters, statistics and losses are float32.
        engine: "masked" (the whole space is sampled) or "static" (uniform subnets only).
        teacher: "progressive" (extracted anew for each phase) or "fixed" (the one of phase full).
        warmup_learning_rate: where the warm-up starts; None: at the phase's own rate.
        data: which images.
        phases: in order; the first is phase full.
        recipe: losses and optimiser.
        evaluation: how subnets are tested.

    Raises:
        ValueError: at construction, naming the field, the value and what is allowed.
    """

    name: str
    network: str
    width_multiplier: float
    seed: int
    resolutions: tuple[int, ...]
    batch_size: int
    dtype: str
    engine: str
    teacher: str
    warmup_learning_rate: float | None
    data: DataSettings
    phases: tuple[Phase, ...]
    recipe: Recipe
    evaluation: Evaluation

    def __post_init__(self):
        spec = network_spec(self.network)
        if not _is_number(self.width_multiplier) or not 0 < self.width_multiplier < math.inf:
            _refuse("width_multiplier", self.width_multiplier, "a number > 0")
        if type(self.seed) is not int or self.seed < 0:
            _refuse("seed", self.seed, "an int >= 0")
        if not self.resolutions:
            _refuse("resolutions", self.resolutions, "at least one positive int")
        for resolution in self.resolutions:
            if type(resolution) is not int or resolution < 1:
                _refuse("resolutions", resolution, "positive ints")
        if len(set(self.resolutions)) < len(self.resolutions):
            _refuse("resolutions", self.resolutions, "different ints")
        _check_positive("batch_size", self.batch_size)
        _check_among("dtype", self.dtype, DTYPES)
        _check_among("engine", self.engine, tuple(ENGINES))
        _check_among("teacher", self.teacher, TEACHERS)
        if self.warmup_learning_rate is not None:
            _check_range("warmup_learning_rate", self.warmup_learning_rate, 0, math.inf)
        _check_positive("data.base_resolution", self.data.base_resolution)
        for field in ("num_classes", "max_test_images"):
            if getattr(self.data, field) is not None:
                _check_positive(f"data.{field}", getattr(self.data, field))
        recipe = self.recipe
        for field in ("label_smoothing", "dropout_full", "dropout_rate", "momentum"):
            _check_range(f"recipe.{field}", getattr(recipe, field), 0, 1)
        for field in ("kd_ratio", "weight_decay"):
            _check_range(f"recipe.{field}", getattr(recipe, field), 0, math.inf)
        ensemble_weights(recipe.exit_weights, 5 if spec.early_exits else 1)
        for field in dataclasses.fields(self.evaluation):
            _check_positive(f"evaluation.{field.name}", getattr(self.evaluation, field.name))

    def as_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values."""
        return dataclasses.asdict(self)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(field, value, allowed):
    raise ValueError(f"{field}={value!r} is not allowed: it must be {allowed}")


def _check_positive(field, value):
    if type(value) is not int or value < 1:
        _refuse(field, value, "a positive int")


def _check_among(field, value, allowed):
    if value not in allowed:
        _refuse(field, value, f"one of {', '.join(allowed)}")


def _check_range(field, value, low, high):
    if not _is_number(value) or not low <= value < high:
        _refuse(field, value, f"a number >= {low}" + (f" and < {high}" if high < math.inf else ""))
