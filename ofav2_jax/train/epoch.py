"""One epoch of a phase: its steps in their order, and the losses that are read back from the devices."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.data.dataset import Dataset, epoch_order
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
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
class TakenSteps:
    """One step, or several ones, that were dispatched; the devices may still be computing them.

    Attributes:
        number: the number of the last step in its phase, from 1.
        count: the number of steps.
        state: the state after the last step.
        choices: the choices of the step's subnets, or those of several steps' [steps, S, ...]; None in phases that
            train a single network.
        metrics: see `TrainStep.__call__`; with a leading axis of at least `count` steps if they are several.
        learning_rate: the last step's learning rate.
        waited_s: seconds for which the images of these steps were waited for.
    """

    number: int
    count: int
    state: TrainState
    choices: Choices | None
    metrics: Metrics
    learning_rate: float
    waited_s: float = 0.0

    def subnet(self, step: int, place: int) -> Subnet:
        """A subnet of one of the steps, both counted from 0; there must be choices."""
        assert self.choices is not None
        if self.choices.height.ndim == 1:
            return self.choices.subnets()[place]
        return jax.tree.map(lambda values: values[step], self.choices).subnets()[place]


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
    ) -> Iterator[TakenSteps]:
        """Takes the steps of one epoch, from `first_step` of the phase to the epoch's end; yields after each dispatch.

        A run can be resumed because everything below, the order of the images included, is a function of the seed, the
        phase and the step's number, never of earlier steps.

        Args:
            phase: the phase's index, from 0.
            first_step: index of the first step in the phase, from 0; it lies inside an epoch if that is resumed.
            state: the state before that step.
            teacher: parameters of the teacher; None in phase full.
            space: the unlocked subnets.
        """
        settings, per_epoch, num_devices = self.settings, self.steps_per_epoch, len(self.devices)
        spec = settings.phases[phase]
        order = epoch_order(self.dataset.splits["train"], settings.seed, phase, first_step // per_epoch)
        batches = order[: per_epoch * settings.batch_size].reshape(per_epoch, num_devices, -1).astype(np.int32)
        of_phase = jax.random.fold_in(jax.random.key(settings.seed), phase)
        dispatches = self._dispatches(phase, first_step)
        # [devices, steps * images per device]
        indices = (
            np.moveaxis(batches[numbers % per_epoch], 0, 1).reshape(num_devices, -1) for numbers, _, _ in dispatches
        )
        feed = prefetched(self.feed, indices)
        for numbers, count, resolution in dispatches:
            started = time.perf_counter()
            images, places = next(feed)
            waited_s = time.perf_counter() - started
            rates = [learning_rate(spec, int(n), per_epoch, settings.warmup_learning_rate) for n in numbers]
            several = self.engine.max_steps > 1
            key = _fold_in(of_phase, numbers if several else numbers[0])
            choices = None
            if spec.num_subnets:
                choices = self.engine.draw(_fold_in(key, _SUBNETS), space, spec.num_subnets)
            rate = jnp.asarray(rates if several else rates[0], jnp.float32)
            inputs = StepInputs(images, places, _fold_in(key, _IMAGES), rate, teacher, choices)
            if several:
                state, metrics = self.engine.several(state, inputs, count, resolution)
            else:
                state, metrics = self.engine(state, inputs, resolution)
            if len(self.devices) > 1 and jax.default_backend() == "cpu":
                # Collectives of several virtual CPU devices deadlock if too many steps are in flight.
                jax.block_until_ready((state, metrics))
            number, rate_at_end = int(numbers[count - 1]) + 1, rates[count - 1]
            yield TakenSteps(number, count, state, choices, metrics, rate_at_end, waited_s)

    def _dispatches(self, phase: int, first_step: int) -> list[tuple[np.ndarray, int, int]]:
        """Divides the rest of an epoch into dispatches: consecutive steps of one resolution, `max_steps` at most.

        Returns:
            For each dispatch the indices of its steps, padded to `max_steps` of them, how many they are without the
            padding, and the resolution.
        """
        end = (first_step // self.steps_per_epoch + 1) * self.steps_per_epoch
        resolutions = {}
        for number in range(first_step, end):
            rng = np.random.default_rng([self.settings.seed, phase, number, _RESOLUTION])
            resolutions[number] = int(rng.choice(self.settings.resolutions))
        dispatches = []
        for resolution, group in itertools.groupby(resolutions, lambda number: resolutions[number]):
            numbers = list(group)
            for first in range(0, len(numbers), self.engine.max_steps):
                some = np.array(numbers[first : first + self.engine.max_steps])
                padded = np.pad(some, (0, self.engine.max_steps - len(some)), mode="edge")
                dispatches.append((padded, len(some), resolution))
        return dispatches


@jax.jit
def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    """`jax.random.fold_in` for one key and number, or for several of either of them."""
    return jnp.vectorize(jax.random.fold_in)(key, data)


class EpochMeter:
    """Sums loss and top-1 over the steps of an epoch.

    Each step is read back one step late, so that the devices always have work queued.

    Args:
        refuse: raises an error about a step whose loss is not finite; its arguments are the dispatch, the place of the
            step in it, the loss, and the place of the subnet among those of the step.
        totals: sums of loss and top-1 over those steps of the epoch that come before the first one added here.
    """

    def __init__(self, refuse: Callable[[TakenSteps, int, float, int], None], totals: tuple[float, float] = (0.0, 0.0)):
        self.totals = totals
        self._refuse = refuse
        self._pending: TakenSteps | None = None
        self._loss: float | None = None

    def add(self, taken: TakenSteps) -> float:
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
        # [steps, S] and [steps]
        losses = np.atleast_2d(np.asarray(taken.metrics["loss"], float))[: taken.count]
        top1 = np.atleast_1d(np.asarray(taken.metrics["top1"], float))[: taken.count]
        for step, place in np.argwhere(~np.isfinite(losses)):
            self._refuse(taken, step, losses[step, place], place)
        self._loss = float(losses[-1].mean())
        for of_subnets, of_step in zip(losses, top1):
            self.totals = (self.totals[0] + of_subnets.mean(), self.totals[1] + float(of_step))
