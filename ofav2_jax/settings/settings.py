"""`Settings`: everything that defines a run, validated; the defaults are the paper's."""

import dataclasses
import math
from typing import Any

from ofav2_jax.checks import (
    is_number,
    make_plain,
    refuse,
    require_among,
    require_fraction,
    require_normalisation,
    require_positive,
    require_range,
    require_text,
)
from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import Phase, finetuning_phase, paper_phases, unlocked_values
from ofav2_jax.settings.recipe import Evaluation, Recipe

TEACHERS = ("progressive", "fixed")
DTYPES = ("float32", "bfloat16")
ENGINES = ("masked", "static")
SAMPLINGS = ("random", "sandwich")
# The largest subnet, the smallest, and a random one.
_SANDWICH = 3
# Without 64-bit types JAX drops the upper bits of a seed: two larger seeds could give the same run.
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images of a run.

    Attributes:
        dataset: "digits", "tiny_imagenet", "folder" (of images), "npz:FILE" (arrays of numpy), or a name that
            TensorFlow Datasets knows.
        base_resolution: height and width of the decoded images, pixels; images of another size are resized.
        num_classes: number of classes, at least 2, of which the first are kept; None: all.
        max_test_images: largest number of test images, spread over the classes; None: all.
        test_split: the folder, or the split of TensorFlow Datasets, to test on; None: "test", if it has labels.
        validation_split: the folder or split to choose the best epoch by; None: a folder "val", "valid" or
            "validation", else a share of the training images.
        validation_fraction: share of each class's training images that becomes the validation split where there is
            none, in (0, 1).
        normalisation: means and standard deviations of the three channels, of pixels in [0, 1]; None: those of the
            training images (of Tiny ImageNet and the digits: those of the paper and of the whole set).
        skip_broken: whether images that cannot be decoded are left out; else the first of them is refused.
    """

    dataset: str = "tiny_imagenet"
    base_resolution: int = 64
    num_classes: int | None = None
    max_test_images: int | None = None
    test_split: str | None = None
    validation_split: str | None = None
    validation_fraction: float = 0.15
    normalisation: tuple[tuple[float, ...], ...] | None = None
    skip_broken: bool = False

    def require_valid(self) -> None:
        """Refuses values that are not allowed.

        Raises:
            ValueError: naming the field, the value and what is allowed.
        """
        require_text("data.dataset", self.dataset)
        require_positive("data.base_resolution", self.base_resolution)
        if self.num_classes is not None and (type(self.num_classes) is not int or self.num_classes < 2):
            refuse("data.num_classes", self.num_classes, "an int of at least 2")
        if self.max_test_images is not None:
            require_positive("data.max_test_images", self.max_test_images)
        for field in ("test_split", "validation_split"):
            if getattr(self, field) is not None:
                require_text(f"data.{field}", getattr(self, field))
        require_fraction("data.validation_fraction", self.validation_fraction)
        if self.normalisation is not None:
            require_normalisation("data.normalisation", self.normalisation)
        if type(self.skip_broken) is not bool:
            refuse("data.skip_broken", self.skip_broken, "True or False")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of Extended Progressive Shrinking. The same settings draw the same batches, crops and subnets.

    `Settings.paper(network)` has the paper's values; `dataclasses.replace` changes some of them.

    Attributes:
        name: the run's name, printable; the run's directory is runs/<name>.
        network: a name of Table II.
        phases: the phases that Table III has for the network, in its order; all of them, or phase full and some of the
            others. Their learning rates, epochs and numbers of subnets are free. Or `finetuning_phase` alone.
        width_multiplier: factor of all channel counts, > 0; the paper's are 1.0 and 1.2.
        seed: seed of every random draw (initialisation, splits, order, crops, subnets, dropout), an int >= 0 and
            < 2**32.
        resolutions: image resolutions in pixels, one of which is drawn for each batch.
        batch_size: images per step, over all devices.
        dtype: dtype of the activations, "float32" or "bfloat16"; None: bfloat16 on an accelerator, float32 on a CPU.
            Parameters, statistics and losses are always float32.
        engine: "masked" (the whole space is sampled) or "static" (uniform subnets only, a program for each).
        sampling: the subnets of a step: "random" ones, or by the "sandwich" rule the largest one that is unlocked, the
            smallest, and random ones, together as many as the phase samples.
        teacher: "progressive" (each phase learns from the maximal network of the phase before it) or "fixed" (all
            phases learn from that of phase full).
        warmup_learning_rate: the rate from which a phase's warm-up rises; None: the phase's own rate, as in the
            authors' code.
        data: the images.
        recipe: losses, optimiser and augmentation.
        evaluation: how subnets are evaluated.

    Raises:
        ValueError: at construction, naming the field, the value and what is allowed.
    """

    name: str
    network: str
    phases: tuple[Phase, ...]
    width_multiplier: float = 1.0
    seed: int = 0
    resolutions: tuple[int, ...] = (48, 56, 64)
    batch_size: int = 200
    dtype: str | None = None
    engine: str = "masked"
    sampling: str = "random"
    teacher: str = "progressive"
    warmup_learning_rate: float | None = None
    data: DataSettings = DataSettings()
    recipe: Recipe = Recipe()
    evaluation: Evaluation = Evaluation()

    @classmethod
    def paper(cls, network: str, **changes: Any) -> "Settings":
        """The paper's experiment with a network of Table II: Tiny ImageNet, all phases of Table III.

        Args:
            network: ofa_mbv3, se_d, se_p, se_dp, ee_b, ee_d, ee_p or ee_dp.
            **changes: other values for fields, for instance `width_multiplier=1.2` or `teacher="fixed"`.

        Raises:
            ValueError: for an unknown network, or a value that is not allowed.
        """
        unknown = [name for name in changes if name not in {field.name for field in dataclasses.fields(cls)}]
        if unknown:
            raise ValueError(f"{unknown[0]} is not a field of Settings")
        return cls(**{"name": network, "network": network, "phases": paper_phases(network), **changes})

    def __post_init__(self):
        make_plain(self)
        require_text("name", self.name)
        spec = network_spec(self.network)
        if not is_number(self.width_multiplier) or self.width_multiplier <= 0:
            refuse("width_multiplier", self.width_multiplier, "a number > 0")
        if type(self.seed) is not int or not 0 <= self.seed < _SEEDS:
            refuse("seed", self.seed, f"an int >= 0 and < {_SEEDS}")
        self._require_resolutions()
        require_positive("batch_size", self.batch_size)
        if self.dtype is not None:
            require_among("dtype", self.dtype, DTYPES)
        require_among("engine", self.engine, ENGINES)
        require_among("sampling", self.sampling, SAMPLINGS)
        require_among("teacher", self.teacher, TEACHERS)
        if self.warmup_learning_rate is not None:
            require_range("warmup_learning_rate", self.warmup_learning_rate, 0)
        for field, kind in (("data", DataSettings), ("recipe", Recipe), ("evaluation", Evaluation)):
            if not isinstance(getattr(self, field), kind):
                refuse(field, getattr(self, field), f"a {kind.__name__}")
            make_plain(getattr(self, field))
        self.data.require_valid()
        self._require_phases()
        self.recipe.require_valid(num_exits=5 if spec.early_exits else 1)
        self.evaluation.require_valid()

    def _require_resolutions(self):
        if not isinstance(self.resolutions, tuple):
            refuse("resolutions", self.resolutions, "a tuple")
        if not self.resolutions:
            refuse("resolutions", self.resolutions, "at least one positive int")
        for resolution in self.resolutions:
            if type(resolution) is not int or resolution < 1:
                refuse("resolutions", resolution, "positive ints")
        if len(set(self.resolutions)) < len(self.resolutions):
            refuse("resolutions", self.resolutions, "different ints")

    @property
    def design(self) -> str | None:
        """The design that the run fine-tunes, as `Design.parse` reads it; None: the run trains a supernet."""
        return self.phases[0].design

    def _require_finetuning(self):
        (phase, *others) = self.phases
        require_text("phases.finetune.start", phase.start)
        if others or phase != finetuning_phase(
            phase.design, phase.start, phase.learning_rate, phase.epochs, phase.warmup_epochs
        ):
            names = ", ".join(each.name for each in self.phases)
            raise ValueError(f"phases={names} is not allowed: a design is fine-tuned in one phase, finetune")
        require_text("phases.finetune.design", phase.design)
        # It would let the weights decay that the design does not use.
        require_among("recipe.optimizer", self.recipe.optimizer, ("adamw",))

    def _require_phases(self):
        def identity(phase):
            return phase.name, phase.unlocks, phase.values, phase.width_phase

        if not isinstance(self.phases, tuple) or not all(isinstance(phase, Phase) for phase in self.phases):
            refuse("phases", self.phases, "a tuple of Phases")
        if any(phase.design is not None or phase.start is not None for phase in self.phases):
            self._require_finetuning()
            return
        wanted = list(map(identity, paper_phases(self.network)))
        ours = list(map(identity, self.phases))
        if not ours or ours[0] != wanted[0] or ours != [each for each in wanted if each in ours]:
            names, allowed = (", ".join(name for name, *_ in phases) for phases in (ours, wanted))
            raise ValueError(
                f"phases={names} is not allowed: {self.network} goes through {allowed}, in this order; all but "
                f"{wanted[0][0]} can be left out"
            )
        for phase in self.phases:
            if self.sampling == "sandwich" and 0 < phase.num_subnets < _SANDWICH:
                allowed = f"at least {_SANDWICH}: the largest, the smallest and a random one (sampling='sandwich')"
                refuse(f"phases.{phase.key}.num_subnets", phase.num_subnets, allowed)
        if self.engine == "static":
            for index, phase in enumerate(self.phases):
                # This engine draws uniform subnets only, of which there can be fewer than a step samples.
                uniform = math.prod(map(len, unlocked_values(self.phases, index).values()))
                if phase.num_subnets > uniform:
                    allowed = f"at most {uniform}, the uniform subnets that are unlocked then (engine='static')"
                    refuse(f"phases.{phase.key}.num_subnets", phase.num_subnets, allowed)

    def as_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values; `from_nested(Settings, ...)` reads them."""
        return dataclasses.asdict(self)
