"""How a network is trained and evaluated: the numbers of the paper's section 4 and of the authors' code."""

import dataclasses
from typing import NamedTuple

from ofav2_jax.checks import refuse, require_among, require_positive, require_range
from ofav2_jax.settings.exit_weights import ensemble_weights

# The names of `train.losses.DISTILLATIONS`, repeated here so that settings do not import JAX.
DISTILLATIONS = ("soft_targets",)
# The names of `train.optimizer.OPTIMIZERS`, for the same reason.
OPTIMIZERS = ("sgd", "adamw")
PROTOCOLS = ("paper", "authors")


class Augmentation(NamedTuple):
    """How training images are cropped and flipped. Hashable, hence usable as a static argument.

    Attributes:
        area: smallest and largest fraction of the image's area that a crop covers.
        aspect: smallest and largest width / height of a crop.
        flip: whether images are mirrored left to right, with probability 1/2.
    """

    area: tuple[float, float] = (0.85, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The loss that a step minimises, and the optimiser's parameters. Hashable.

    Attributes:
        label_smoothing: share of the label that is spread evenly over all classes, in [0, 1).
        kd_ratio: weight of the distillation loss, which is added to the cross-entropy, >= 0.
        distillation: how a subnet learns from the teacher, a name of `train.losses.DISTILLATIONS`.
        exit_weights: weights of the five exits: "desc", "asc", "unif", "mix", or numbers, first exit first, which are
            divided by their sum; see `exit_weights.ensemble_weights`.
        dropout_full, dropout_rate: dropout rates in phase full and in all other phases, in [0, 1).
        momentum: Nesterov momentum of SGD, in [0, 1).
        weight_decay: weight decay of all parameters but BN parameters and biases, >= 0. That of AdamW acts only on
            parameters that have had a gradient.
        augmentation: augmentation of training images.
        decay_unreached: whether weight decay also acts on what no subnet of a phase contains, as on several GPUs in the
            authors' code; False, as on a single one: the heads of exits that are not unlocked yet, and the kernel
            matrices before phase kernel, end a phase as they started it.
        optimizer: "sgd" with Nesterov momentum, the paper's, or "adamw".
    """

    label_smoothing: float = 0.1
    kd_ratio: float = 1.0
    distillation: str = "soft_targets"
    exit_weights: str | tuple[float, ...] = "desc"
    dropout_full: float = 0.2
    dropout_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    augmentation: Augmentation = Augmentation()
    decay_unreached: bool = True
    optimizer: str = "sgd"

    def __post_init__(self):
        if isinstance(self.exit_weights, list) or getattr(self.exit_weights, "ndim", 0) == 1:
            object.__setattr__(self, "exit_weights", tuple(self.exit_weights))

    def require_valid(self, num_exits: int) -> None:
        """Refuses values that are not allowed.

        Args:
            num_exits: the network's number of exits.

        Raises:
            ValueError: naming the field, the value and what is allowed.
        """
        for field in ("label_smoothing", "dropout_full", "dropout_rate", "momentum"):
            require_range(f"recipe.{field}", getattr(self, field), 0, 1)
        for field in ("kd_ratio", "weight_decay"):
            require_range(f"recipe.{field}", getattr(self, field), 0)
        require_among("recipe.distillation", self.distillation, DISTILLATIONS)
        if type(self.decay_unreached) is not bool:
            refuse("recipe.decay_unreached", self.decay_unreached, "True or False")
        require_among("recipe.optimizer", self.optimizer, OPTIMIZERS)
        ensemble_weights(self.exit_weights, num_exits)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How subnets are evaluated. Hashable.

    Attributes:
        recalibration_images: number of training images from which BN statistics are recomputed for each subnet; all
            of them if there are fewer.
        recalibration_batch_size: images per batch of a recalibration, whatever the number of devices.
        batch_size: images per forward pass of an evaluation, over all devices.
        subnets_per_pass: number of trunks per forward pass; subnets that differ in height only share a trunk.
        protocol: which subnets are evaluated. "paper": after a phase every uniform subnet at every resolution, after an
            epoch the largest and the smallest one at every height and the largest resolution. "authors": those that
            their scripts visit, see `settings.authors`.
        interpolate: whether test images are always interpolated, as those of training and recalibration are. In the
            paper's protocol they are not where ceil(resolution / 0.875), the size to which they are resized before the
            centre crop, is their own; then they are resized to one pixel more.
    """

    recalibration_images: int = 1000
    recalibration_batch_size: int = 100
    batch_size: int = 500
    subnets_per_pass: int = 4
    protocol: str = "paper"
    interpolate: bool = False

    def require_valid(self) -> None:
        """Refuses values that are not allowed.

        Raises:
            ValueError: naming the field, the value and what is allowed.
        """
        for field in ("recalibration_images", "recalibration_batch_size", "batch_size", "subnets_per_pass"):
            require_positive(f"evaluation.{field}", getattr(self, field))
        require_among("evaluation.protocol", self.protocol, PROTOCOLS)
        if type(self.interpolate) is not bool:
            refuse("evaluation.interpolate", self.interpolate, "True or False")
