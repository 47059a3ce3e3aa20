"""Everything that defines a run, validated."""

import dataclasses
from typing import Any

from ofav2_jax.checks import check_among, check_positive, check_range, check_text, is_number, refuse
from ofav2_jax.evaluate.evaluator import Evaluation
from ofav2_jax.model.network import network_spec
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.settings.phases import Phase, paper_phases, space_after
from ofav2_jax.train.losses import ensemble_weights
from ofav2_jax.train.step import ENGINES, Recipe

TEACHERS = ("progressive", "fixed")
DTYPES = ("float32", "bfloat16")
# Without 64-bit types JAX drops the upper bits of a seed: two seeds would be the same run.
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images a run is about.

    Attributes:
        dataset: "digits", "tiny_imagenet" or a name that TensorFlow Datasets knows.
        base_resolution: height and width to which images are brought when they are decoded.
        num_classes: how many classes, from the first on, at least 2; None: all.
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
        name: of the run, printable.
        network, width_multiplier: of the supernet.
        seed: of every random draw, an int >= 0 and < 2**32.
        resolutions: drawn anew for each batch.
        batch_size: images per step, over all devices.
        dtype: of the activations, "float32" or "bfloat16"; parameters, statistics and losses are float32.
        engine: "masked" (the whole space is sampled) or "static" (uniform subnets only).
        teacher: "progressive" (extracted anew for each phase) or "fixed" (the one of phase full).
        warmup_learning_rate: where the warm-up starts; None: at the phase's own rate.
        data: which images.
        phases: those that Table III has for the network, in its order; their numbers are free.
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
        check_text("name", self.name)
        spec = network_spec(self.network)
        if not is_number(self.width_multiplier) or self.width_multiplier <= 0:
            refuse("width_multiplier", self.width_multiplier, "a number > 0")
        if type(self.seed) is not int or not 0 <= self.seed < _SEEDS:
            refuse("seed", self.seed, f"an int >= 0 and < {_SEEDS}")
        if not self.resolutions:
            refuse("resolutions", self.resolutions, "at least one positive int")
        for resolution in self.resolutions:
            if type(resolution) is not int or resolution < 1:
                refuse("resolutions", resolution, "positive ints")
        if len(set(self.resolutions)) < len(self.resolutions):
            refuse("resolutions", self.resolutions, "different ints")
        check_positive("batch_size", self.batch_size)
        check_among("dtype", self.dtype, DTYPES)
        check_among("engine", self.engine, tuple(ENGINES))
        check_among("teacher", self.teacher, TEACHERS)
        if self.warmup_learning_rate is not None:
            check_range("warmup_learning_rate", self.warmup_learning_rate, 0)
        self._check_data()
        self._check_phases()
        recipe = self.recipe
        for field in ("label_smoothing", "dropout_full", "dropout_rate", "momentum"):
            check_range(f"recipe.{field}", getattr(recipe, field), 0, 1)
        for field in ("kd_ratio", "weight_decay"):
            check_range(f"recipe.{field}", getattr(recipe, field), 0)
        ensemble_weights(recipe.exit_weights, 5 if spec.early_exits else 1)
        for field in dataclasses.fields(self.evaluation):
            check_positive(f"evaluation.{field.name}", getattr(self.evaluation, field.name))

    def _check_data(self):
        data = self.data
        check_text("data.dataset", data.dataset)
        check_positive("data.base_resolution", data.base_resolution)
        if data.num_classes is not None and (type(data.num_classes) is not int or data.num_classes < 2):
            refuse("data.num_classes", data.num_classes, "an int of at least 2")
        if data.max_test_images is not None:
            check_positive("data.max_test_images", data.max_test_images)

    def _check_phases(self):
        def identity(phase):
            return phase.name, phase.unlocks, phase.values, phase.width_phase

        wanted = paper_phases(self.network)
        if list(map(identity, self.phases)) != list(map(identity, wanted)):
            names, allowed = (", ".join(phase.name for phase in phases) for phases in (self.phases, wanted))
            raise ValueError(f"phases={names} is not allowed: {self.network} goes through {allowed}, in this order")
        if self.engine == "static":
            for index, phase in enumerate(self.phases):
                # Of the subnets that this engine draws there are few enough to run out.
                unlocked = space_after(SearchSpace(self), self.phases, index).num_uniform
                if phase.num_subnets > unlocked:
                    allowed = f"at most {unlocked}, the uniform subnets that are unlocked then (engine='static')"
                    refuse(f"phases.{phase.key}.num_subnets", phase.num_subnets, allowed)

    def as_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values."""
        return dataclasses.asdict(self)
