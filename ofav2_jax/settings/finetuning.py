"""How a design is fine-tuned."""

import dataclasses

from ofav2_jax.checks import is_number, make_plain, refuse, require_among, require_positive, require_range
from ofav2_jax.settings.phases import finetuning_phase
from ofav2_jax.settings.settings import DTYPES, Settings


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """What can be chosen about the fine-tuning of a design; all else is as in the supernet's run. AdamW, cosine rate.

    Attributes:
        learning_rate: base learning rate, > 0.
        epochs: epochs of the cosine schedule, >= 1.
        warmup_epochs: epochs before it, at the base learning rate, >= 0.
        batch_size: images per step, over all devices; None: as in the supernet's run.
        dtype: dtype of the activations, "float32" or "bfloat16"; None: bfloat16 on an accelerator, float32 on a CPU.
        label_smoothing: share of the label that is spread evenly over all classes, in [0, 1).
        kd_ratio: weight of the distillation loss, whose teacher is the supernet's maximal network, >= 0.
        weight_decay: weight decay of what the design uses, but of BN parameters and biases, >= 0.
        dropout_rate: dropout rate of the exits, in [0, 1).

    Raises:
        ValueError: at construction, naming the field, the value and what is allowed.
    """

    learning_rate: float = 1e-4
    epochs: int = 30
    warmup_epochs: int = 0
    batch_size: int | None = None
    dtype: str | None = None
    label_smoothing: float = 0.1
    kd_ratio: float = 1.0
    weight_decay: float = 0.01
    dropout_rate: float = 0.0

    def __post_init__(self):
        make_plain(self)
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            refuse("learning_rate", self.learning_rate, "a number > 0")
        require_positive("epochs", self.epochs)
        if type(self.warmup_epochs) is not int or self.warmup_epochs < 0:
            refuse("warmup_epochs", self.warmup_epochs, "an int of at least 0")
        if self.batch_size is not None:
            require_positive("batch_size", self.batch_size)
        if self.dtype is not None:
            require_among("dtype", self.dtype, DTYPES)
        for field in ("label_smoothing", "dropout_rate"):
            require_range(field, getattr(self, field), 0, 1)
        for field in ("kd_ratio", "weight_decay"):
            require_range(field, getattr(self, field), 0)

    def settings(self, supernet: Settings, design: str, resolution: int, start: str) -> Settings:
        """The settings of the run.

        Args:
            supernet: those of the supernet's run.
            design: the design, as `Design.parse` reads it.
            resolution: its resolution, pixels.
            start: SHA-256 of the supernet's parameters, see `Phase`.
        """
        phase = finetuning_phase(design, start, self.learning_rate, self.epochs, self.warmup_epochs)
        recipe = dataclasses.replace(
            supernet.recipe,
            optimizer="adamw",
            label_smoothing=self.label_smoothing,
            kd_ratio=self.kd_ratio,
            weight_decay=self.weight_decay,
            dropout_rate=self.dropout_rate,
        )
        return dataclasses.replace(
            supernet,
            name=f"{supernet.name} {design}",
            phases=(phase,),
            resolutions=(resolution,),
            batch_size=supernet.batch_size if self.batch_size is None else self.batch_size,
            dtype=self.dtype,
            engine="masked",
            sampling="random",
            teacher="fixed",
            warmup_learning_rate=None,
            recipe=recipe,
        )
