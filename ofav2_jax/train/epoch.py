"""One epoch of a phase: its steps in their order, and the losses that are read back from the devices."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.data.dataset import Dataset, epoch_order
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.runtime.feed import ImageFeed, prefetched
from ofav2_jax.settings.phases import learning_rate
from ofav2_jax.settings.settings import Settings
from ofav2_jax.train.engines import Engine
from ofav2_jax.train.optimizer import TrainState
from ofav2_jax.train.step import Metrics, StepInputs

# Tags that keep the streams of random numbers apart.
_RESOLUTION, _SUBNETS, _IMAGES = 1, 2, 3


class NonFiniteLossError(Exception):
    """A loss, or a parameter, became infinite or NaN."""


@dataclasses.dataclass
class TakenStep:
    """A step that was dispatched; the devices may still be computing it.

    Attributes:
        number: the step's number in its phase, from 1.
        state: the state after the step.
        choices: the choices of the step's subnets; None in phase full.
        metrics: see `TrainStep.__call__`.
        learning_rate: the step's learning rate.
    """

    number: int
    state: TrainState
    choices: Choices | None
    metrics: Metrics
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class EpochRunner:
    """Takes the steps of an epoch.

    Attributes:
        settings: the run's settings.
        dataset: the data set to train on.
        feed: makes its images available to the devices.
        engine: takes a step.
        devices: the run's devices.
    """

    settings: Settings
    dataset: Dataset
    feed: ImageFeed
    engine: Engine
    devices: Sequence[jax.Device]

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in the training split; an epoch leaves out the images of an incomplete one."""
        return len(self.dataset.splits["train"]) // self.settings.batch_size

    def steps(
        self, phase: int, first_step: int, state: TrainState, teacher: Params | None, space: SearchSpace
    ) -> Iterator[TakenStep]:
        """Takes the steps of one epoch, from `first_step` of the phase to the epoch's end; yields after each.

        A run can be resumed because everything below, the order of the images included, is a function of the seed, the
        phase and the step's number, never of earlier steps.

        Args:
            phase: the phase's index, from 0.
            first_step: index of the first step in the phase, from 0; it lies inside an epoch if that is resumed.
            state: the state before that step.
            teacher: parameters of the teacher; None in phase full.
            space: the unlocked subnets.
        """
        settings, per_epoch = self.settings, self.steps_per_epoch
        spec = settings.phases[phase]
        order = epoch_order(self.dataset.splits["train"], settings.seed, phase, first_step // per_epoch)
        batches = order[: per_epoch * settings.batch_size].reshape(per_epoch, len(self.devices), -1)
        of_phase = jax.random.fold_in(jax.random.key(settings.seed), phase)
        numbers = range(first_step, (first_step // per_epoch + 1) * per_epoch)
        feed = prefetched(self.feed, (batches[number % per_epoch].astype(np.int32) for number in numbers))
        for number, (images, places) in zip(numbers, feed):
            rate = learning_rate(spec, number, per_epoch, settings.warmup_learning_rate)
            rng = np.random.default_rng([settings.seed, phase, number, _RESOLUTION])
            resolution = int(rng.choice(settings.resolutions))
            key = jax.random.fold_in(of_phase, number)
            choices = None
            if not spec.is_full:
                choices = self.engine.draw(jax.random.fold_in(key, _SUBNETS), space, spec.num_subnets)
            image_key = jax.random.fold_in(key, _IMAGES)
            inputs = StepInputs(images, places, image_key, jnp.float32(rate), teacher, choices)
            state, metrics = self.engine(state, inputs, resolution)
            if len(self.devices) > 1 and jax.default_backend() == "cpu":
                # Collectives of several virtual CPU devices deadlock if too many steps are in flight.
                jax.block_until_ready((state, metrics))
            yield TakenStep(number + 1, state, choices, metrics, rate)


class EpochMeter:
    """Sums loss and top-1 over the steps of an epoch.

    Each step is read back one step late, so that the devices always have work queued.

    Args:
        refuse: raises an error about a step whose loss is not finite; its arguments are the step, the loss, and the
            place of the subnet among those of the step.
        totals: sums of loss and top-1 over those steps of the epoch that come before the first one added here.
    """

    def __init__(self, refuse: Callable[[TakenStep, float, int], None], totals: tuple[float, float] = (0.0, 0.0)):
        self.totals = totals
        self._refuse = refuse
        self._pending: TakenStep | None = None
        self._loss: float | None = None

    def add(self, taken: TakenStep) -> float:
        """Adds a step; returns the loss of the one before it, or of this one if it is the first."""
        before, self._pending = self._pending, taken
        if before is not None:
            self._read(before)
        elif self._loss is None:
            self.flush()
        assert self._loss is not None
        return self._loss

    def flush(self) -> None:
        """Reads back the step that was added last, after which the totals are complete."""
        if self._pending is not None:
            self._read(self._pending)
            self._pending = None

    def _read(self, taken):
        losses = np.asarray(taken.metrics["loss"], float)
        for place in np.flatnonzero(~np.isfinite(losses)):
            self._refuse(taken, losses[place], place)
        self._loss = float(losses.mean())
        self.totals = (self.totals[0] + losses.mean(), self.totals[1] + float(taken.metrics["top1"]))
