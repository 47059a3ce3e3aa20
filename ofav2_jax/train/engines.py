"""The two ways to run the sampled subnets of a step: as arrays in one program, or as a program for each subnet."""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.model.choices import Candidates, Choices, draw, sandwiched
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.ops.backend import backend, one_at_a_time
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.train.optimizer import TrainState, update
from ofav2_jax.train.step import Metrics, StepInputs, TrainStep


class Engine(Protocol):
    """How the sampled subnets of a step are drawn and run.

    Attributes:
        max_steps: the number of steps that one dispatch can take, for which there is `several`; 1: there is not.
    """

    max_steps: int

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws the subnets of one step; for several keys those of as many steps, with a leading axis."""

    def __call__(self, state: TrainState, inputs: StepInputs, resolution: int) -> tuple[TrainState, Metrics]:
        """Trains on one batch; see `TrainStep.__call__`."""

    def several(self, state: TrainState, inputs: StepInputs, count: int, resolution: int) -> tuple[TrainState, Metrics]:
        """Trains on up to `max_steps` batches, one after another; see `TrainStep.several`."""


# One dispatch takes so many steps at most: a run can be stopped, and saves itself, only between dispatches.
_STEPS_PER_DISPATCH = 10


class MaskedEngine:
    """All subnets of a step in one program, which serves every subnet: the whole space is sampled."""

    def __init__(self, step: TrainStep, max_subnets: int = 1, sampling: str = "random"):
        self._step = step
        self._max_subnets = max_subnets
        self._sandwich = sampling == "sandwich"
        # A step takes a CPU so long that its dispatch does not count.
        self.max_steps = 1 if backend() == "cpu" else _STEPS_PER_DISPATCH

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws every choice of every level and stage independently and uniformly."""
        return (_draw if key.ndim == 0 else _draw_several)(key, space.candidates(), num_subnets, self._sandwich)

    def __call__(self, state: TrainState, inputs: StepInputs, resolution: int) -> tuple[TrainState, Metrics]:
        """See `Engine`."""
        return self._run(functools.partial(self._step, state), inputs, resolution)

    def several(self, state: TrainState, inputs: StepInputs, count: int, resolution: int) -> tuple[TrainState, Metrics]:
        """See `Engine`."""
        return self._run(lambda *args: self._step.several(state, args[0], np.int32(count), args[1]), inputs, resolution)

    def _run(self, run, inputs, resolution):
        if inputs.choices is None or not one_at_a_time():
            return run(inputs, resolution)
        # One program serves the steps of all phases but full.
        num_subnets = inputs.choices.height.shape[-1]
        choices = _padded(inputs.choices, max(num_subnets, self._max_subnets))
        inputs = inputs.replace(choices=choices, num_subnets=np.int32(num_subnets))
        state, metrics = run(inputs, resolution)
        return state, {**metrics, "loss": _leading(metrics["loss"], num_subnets)}


class StaticEngine:
    """A program for each subnet, which contains this subnet and nothing else; only uniform subnets are drawn.

    The number of programs is bounded by (resolutions) x (uniform subnets + 1) + 1.
    """

    max_steps = 1

    def __init__(self, step: TrainStep, max_subnets: int = 1, sampling: str = "random"):
        self._step = step
        self._sandwich = sampling == "sandwich"

    def draw(self, key: jax.Array, space: SearchSpace, num_subnets: int) -> Choices:
        """Draws uniform subnets: each makes one choice of each kind for the whole network."""
        return _draw_uniform(key, space.candidates(), num_subnets, self._sandwich)

    def __call__(self, state: TrainState, inputs: StepInputs, resolution: int) -> tuple[TrainState, Metrics]:
        """See `Engine`."""
        if inputs.choices is None:
            return self._step(state, inputs, resolution)
        step, programs = self._step, self._step.programs

        def load(inputs, *, resolution):
            image_keys, _ = step.keys(inputs.key, len(inputs.indices), jnp.arange(0))
            return step.load(inputs, image_keys, resolution)

        def add_gradient(total, params, batch, key, place, *, subnet):
            _, dropout_keys = step.keys(key, len(batch.labels), place[None])
            gradient, metrics = step.sum_over_devices(
                step.gradient(step.objective_student, params, batch, subnet, dropout_keys)
            )
            return jax.tree.map(jnp.add, total, gradient), metrics

        common = inputs.replace(choices=None)  # type: ignore[attr-defined]
        batch = programs.run(
            "load",
            resolution,
            lambda r: programs.pmap(functools.partial(load, resolution=r), (inputs.mapped_axes(),), 0),
            common,
        )
        gradient = replicate(jax.tree.map(jnp.zeros_like, state.params), programs.devices)
        metrics = []
        for place, subnet in enumerate(inputs.choices.subnets()):
            add = programs.pmap(
                functools.partial(add_gradient, subnet=subnet), (None, None, 0, None, None), (None, None), (0,)
            )
            # The shape of the images depends on the resolution, so each resolution is a program of its own.
            name = f"gradient of {subnet} at {resolution}"
            args = (gradient, state.params, batch, inputs.key, jnp.int32(place))
            gradient, of_subnet = programs.run_single(name, add, *args, donate=(0,))
            metrics.append(of_subnet)
        apply = functools.partial(update, step.recipe)
        state = programs.run_single("update", apply, state, gradient, inputs.learning_rate, donate=(0,))
        losses = jnp.concatenate([of_subnet["loss"] for of_subnet in metrics])
        return state, {"loss": losses, "top1": sum(of_subnet["top1"] for of_subnet in metrics) / len(metrics)}

    def several(self, state: TrainState, inputs: StepInputs, count: int, resolution: int) -> tuple[TrainState, Metrics]:
        """Not possible: the subnets of a step decide which programs it runs."""
        raise NotImplementedError


ENGINES: dict[str, Callable[[TrainStep, int, str], Engine]] = {"masked": MaskedEngine, "static": StaticEngine}


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(key: jax.Array, candidates: Candidates, num_subnets: int, sandwich: bool) -> Choices:
    choices = draw(key, candidates, num_subnets)
    return sandwiched(choices, candidates) if sandwich else choices


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw_several(keys: jax.Array, candidates: Candidates, num_subnets: int, sandwich: bool) -> Choices:
    return jax.vmap(lambda key: _draw(key, candidates, num_subnets, sandwich))(keys)


_leading = jax.jit(lambda values, count: values[..., :count], static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def _padded(choices: Choices, num_subnets: int) -> Choices:
    """The choices of so many subnets, for one step or for several."""
    if choices.height.ndim == 1:
        return choices.padded(num_subnets)
    return jax.vmap(lambda of_step: of_step.padded(num_subnets))(choices)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw_uniform(key: jax.Array, candidates: Candidates, num_subnets: int, sandwich: bool) -> Choices:
    one_each = draw(key, candidates, num_subnets)

    def spread(values):
        return jnp.broadcast_to(values[:, :1], values.shape) if values.ndim == 2 else values

    choices = jax.tree.map(spread, one_each)
    return sandwiched(choices, candidates) if sandwich else choices
