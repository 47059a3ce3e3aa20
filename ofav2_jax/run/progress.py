"""`Progress`: where a run stands, which is the content of a checkpoint."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax.model.packing import Packing, Params, Vectors
from ofav2_jax.model.sorting import sort_channels
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.settings.phases import Phase
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.train.optimizer import TrainState, init_state


@dataclasses.dataclass
class Progress:
    """Where a run stands, and everything it has learned.

    Attributes:
        phase: index of the phase, from 0.
        step: steps taken in that phase.
        best_score: validation top-1 in % of the phase's best epoch so far; -1 where there is none yet.
        state: parameters and optimiser state.
        best: parameters after the best epoch, or those that the phase started with.
        totals: sums of loss and of top-1 over the steps of this epoch so far.
        best_epoch: number of the best epoch, from 1; 0: what the phase started with.
    """

    phase: int
    step: int
    best_score: float
    state: TrainState
    best: Vectors
    totals: tuple[float, float] = (0.0, 0.0)
    best_epoch: int = 0

    @classmethod
    def from_saved(cls, arrays: dict[str, Any], position: dict[str, Any]) -> "Progress":
        """The inverse of `arrays` and `position`."""
        totals = tuple(position.get("totals", (0.0, 0.0)))
        state = TrainState(arrays["params"], arrays["opt_state"])
        return cls(**{**position, "totals": totals}, state=state, best=arrays["best"])

    @classmethod
    def at_start(cls, phase: int, arrays: dict[str, Any]) -> "Progress":
        """The progress before the first step of a phase, with the arrays of `arrays_at_start`."""
        return cls.from_saved(arrays, {"phase": phase, "step": 0, "best_score": -1.0})

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays in a tree, as a checkpoint holds them."""
        return {"params": self.state.params, "opt_state": self.state.opt_state, "best": self.best}

    @property
    def position(self) -> dict[str, Any]:
        """The other attributes, as JSON."""
        return {name: getattr(self, name) for name in ("phase", "step", "best_score", "totals", "best_epoch")}


@functools.partial(jax.jit, static_argnames=("net", "recipe", "width_phase"))
def arrays_at_start(params: Params, net: SuperNet, recipe: Recipe, width_phase: int) -> dict[str, Any]:
    """Makes the arrays with which a phase starts.

    Each part has arrays of its own, because a step donates those that it changes.

    Args:
        params: the supernet's parameters, as a tree.
        net: the supernet.
        recipe: the run's recipe.
        width_phase: 1 or 2 if channels are sorted first, see `sort_channels`; else 0.

    Returns:
        Arrays as in `Progress.arrays`.
    """
    if width_phase:
        params = sort_channels(net, {"params": params}, width_phase)["params"]
    vectors = Packing(params).pack(params)
    state = init_state(recipe, vectors)
    return {"params": state.params, "opt_state": state.opt_state, "best": copied(vectors)}


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no number in a tree of arrays is infinite or NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@jax.jit
def copied(tree: Any) -> Any:
    """Copies a tree of arrays to memory of its own."""
    return jax.tree.map(jnp.copy, tree)


def steps_before(phases: Sequence[Phase], phase: int, steps_per_epoch: int) -> int:
    """The number of steps in all phases before a phase.

    Args:
        phases: the run's phases.
        phase: the phase's index, from 0.
        steps_per_epoch: steps of one epoch.
    """
    return steps_per_epoch * sum(each.total_epochs for each in phases[:phase])


def remaining_steps(phases: Sequence[Phase], phase: int, step: int, steps_per_epoch: int) -> float:
    """The training that is left, expressed in steps of the current phase: steps with more subnets take longer.

    Args:
        phases: the run's phases.
        phase: index of the current phase, from 0.
        step: steps taken in it.
        steps_per_epoch: steps of one epoch.
    """

    def cost(each: Phase) -> int:
        # A step runs the sampled subnets and the teacher; in phase full, the maximal network only.
        return 1 + each.num_subnets

    steps = [each.total_epochs * steps_per_epoch for each in phases]
    steps[phase] -= step
    left = sum(number * cost(each) for number, each in zip(steps[phase:], phases[phase:]))
    return left / cost(phases[phase])
