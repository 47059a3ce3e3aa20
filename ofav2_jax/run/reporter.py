"""The progress that a run reports while it goes on, and the object that receives it."""

import dataclasses
from typing import Any, Protocol

from ofav2_jax.report.records import EpochRecord
from ofav2_jax.settings.phases import Phase


@dataclasses.dataclass(frozen=True)
class StepProgress:
    """Where a run stands after a step.

    Attributes:
        phase, num_phases: index of the phase (from 0) and number of phases.
        phase_name: name of the phase.
        epoch, num_epochs: index of the epoch in the phase (from 0) and number of epochs in the phase.
        loss: mean loss of the subnets in the last step whose loss is known.
        learning_rate: learning rate of the last step.
        images_per_s: mean over this epoch so far.
        remaining_s: estimated training time left in the whole run, seconds.
    """

    phase: int
    num_phases: int
    phase_name: str
    epoch: int
    num_epochs: int
    loss: float
    learning_rate: float
    images_per_s: float
    remaining_s: float


class Reporter(Protocol):
    """Receives a run's progress, and may print it, draw it, or ignore it."""

    def phase_started(self, index: int, phase: Phase) -> None:
        """Is called before the first step of a phase, also if the phase is resumed."""

    def stepped(self, progress: StepProgress) -> None:
        """Is called after each step."""

    def epoch_ended(self, record: EpochRecord) -> None:
        """Is called after an epoch and its validation."""

    def phase_ended(self, index: int, result: dict[str, Any]) -> None:
        """Is called after a phase is evaluated; `result` is the content of its `result.json`."""


class Silent:
    """Prints nothing."""

    def phase_started(self, index: int, phase: Phase) -> None:
        """See `Reporter`."""

    def stepped(self, progress: StepProgress) -> None:
        """See `Reporter`."""

    def epoch_ended(self, record: EpochRecord) -> None:
        """See `Reporter`."""

    def phase_ended(self, index: int, result: dict[str, Any]) -> None:
        """See `Reporter`."""
