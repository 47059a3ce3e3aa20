"""Extended Progressive Shrinking as data: the phases of Table III, the values each unlocks, learning rates.

A run that fine-tunes a design has a single phase, which is not one of these; see `finetuning_phase`.
"""

import dataclasses
import math
from collections.abc import Sequence

from ofav2_jax.checks import is_number, make_plain, refuse
from ofav2_jax.model.network import CHOICES, network_spec


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of Extended Progressive Shrinking, or the phase that fine-tunes a design.

    Attributes:
        name: the phase's name, for instance "height-2".
        learning_rate: base learning rate, > 0.
        epochs: epochs of the cosine schedule, >= 1.
        warmup_epochs: epochs of the warm-up before the cosine schedule, >= 0.
        num_subnets: subnets sampled per batch, >= 1; 0 in phases that train a single network: in phase full, the
            maximal one, and where a design is fine-tuned, the design.
        unlocks: name of the choice to which this phase adds values; "" in phase full.
        values: the values that it adds.
        width_phase: 1 or 2 if channels are sorted before this phase, for the first or the second time; else 0.
        design: the design that is fine-tuned, as `Design.parse` reads it; None in all other phases.
        start: SHA-256 of the supernet's parameters with which the fine-tuning starts, see `checkpoint.digest`.

    Raises:
        ValueError: at construction, for a number out of range.
    """

    name: str
    learning_rate: float
    epochs: int
    warmup_epochs: int
    num_subnets: int
    unlocks: str = ""
    values: tuple[int, ...] = ()
    width_phase: int = 0
    design: str | None = None
    start: str | None = None

    def __post_init__(self):
        make_plain(self)

        def refuse_field(name, allowed):
            refuse(f"phases.{self.key}.{name}", getattr(self, name), allowed)

        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            refuse_field("learning_rate", "a number > 0")
        if type(self.epochs) is not int or self.epochs < 1:
            refuse_field("epochs", "an int of at least 1")
        if type(self.warmup_epochs) is not int or self.warmup_epochs < 0:
            refuse_field("warmup_epochs", "an int of at least 0")
        is_single = not self.unlocks
        if type(self.num_subnets) is not int or self.num_subnets < 0 or (self.num_subnets == 0) is not is_single:
            single = "0, which trains the maximal network" if self.is_full else "0, which trains the design"
            refuse_field("num_subnets", single if is_single else "an int of at least 1")

    @property
    def key(self) -> str:
        """The phase's name as an identifier, the form used in configs."""
        return self.name.replace("-", "_")

    @property
    def is_full(self) -> bool:
        """Whether this is phase full, which trains the maximal network itself and unlocks nothing."""
        return not self.unlocks and self.design is None

    @property
    def total_epochs(self) -> int:
        """The number of epochs, warm-up included."""
        return self.epochs + self.warmup_epochs


# Table III. The level phases belong to parallel networks (P), the height phases to early-exit ones (EE).
TABLE_III = (
    Phase("full", 1.0e-3, 180, 0, 0),
    Phase("kernel", 3.0e-2, 120, 5, 1, "kernel", (5, 3)),
    Phase("level-1", 2.5e-3, 25, 0, 2, "level", (6, 5, 3)),
    Phase("level-2", 7.5e-3, 120, 5, 2, "level", (4, 2, 1)),
    Phase("height-1", 2.5e-3, 25, 0, 2, "height", (4,)),
    Phase("height-2", 7.5e-3, 60, 5, 2, "height", (3,)),
    Phase("height-3", 1.0e-2, 90, 5, 2, "height", (2,)),
    Phase("height-4", 3.0e-2, 120, 5, 2, "height", (1,)),
    Phase("depth-1", 2.5e-3, 25, 0, 2, "depth", (3,)),
    Phase("depth-2", 7.5e-3, 120, 5, 2, "depth", (2,)),
    Phase("width-1", 2.5e-3, 25, 0, 4, "expand", (4,), width_phase=1),
    Phase("width-2", 7.5e-3, 120, 5, 4, "expand", (3,), width_phase=2),
)


def paper_phases(network: str) -> tuple[Phase, ...]:
    """The phases of Table III for one of the eight networks, in order.

    Raises:
        ValueError: for an unknown network.
    """
    spec = network_spec(network)
    return tuple(phase for phase in TABLE_III if phase.is_full or CHOICES[phase.unlocks].is_elastic(spec))


def finetuning_phase(design: str, start: str, learning_rate: float, epochs: int, warmup_epochs: int = 0) -> Phase:
    """The only phase of a run that fine-tunes a design; see `Phase` for the arguments."""
    return Phase("finetune", learning_rate, epochs, warmup_epochs, num_subnets=0, design=design, start=start)


def unlocked_values(phases: Sequence[Phase], index: int) -> dict[str, tuple[int, ...]]:
    """The values that are unlocked in a phase: those of the maximal network, of this phase and of all before it.

    Args:
        phases: the phases of the run, in order.
        index: the phase's index, from 0.

    Returns:
        For each choice its values, largest first: the arguments of `SearchSpace.restrict`.
    """
    unlocked = {name: {choice.values[0]} for name, choice in CHOICES.items()}
    for phase in phases[: index + 1]:
        if phase.unlocks:
            unlocked[phase.unlocks] |= set(phase.values)
    return {name: tuple(sorted(values, reverse=True)) for name, values in unlocked.items()}


def sorting(phases: Sequence[Phase], index: int) -> int:
    """How channels are sorted before a phase: the argument `width_phase` of `sort_channels`; 0: not at all.

    The first width phase of a run sorts all of them, also if it is not the first one of Table III.

    Args:
        phases: the phases of the run, in order.
        index: the phase's index, from 0; `len(phases)` at the run's end.
    """
    if index == len(phases) or not phases[index].width_phase:
        return 0
    return sum(phase.width_phase > 0 for phase in phases[: index + 1])


def learning_rate(phase: Phase, step: int, steps_per_epoch: int, warmup_learning_rate: float | None = None) -> float:
    """Learning rate of one step of a phase: a linear warm-up, then a cosine to 0, both per iteration.

    Args:
        phase: the phase.
        step: the step's index in the phase, from 0.
        steps_per_epoch: iterations in one epoch.
        warmup_learning_rate: the rate from which the warm-up rises; None: the warm-up starts and stays at the base
            rate, as in the authors' code.
    """
    warmup_steps = phase.warmup_epochs * steps_per_epoch
    base = phase.learning_rate
    if step < warmup_steps:
        start = base if warmup_learning_rate is None else warmup_learning_rate
        return start + (base - start) * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (phase.epochs * steps_per_epoch)
    return 0.5 * base * (1 + math.cos(math.pi * progress))
