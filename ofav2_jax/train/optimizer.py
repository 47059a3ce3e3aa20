"""SGD with Nesterov momentum on the two vectors of a supernet's parameters."""

import contextlib
from typing import Any

import flax.struct
import jax
import optax
from jax import export

from ofav2_jax.model.packing import DECAYED, Vectors
from ofav2_jax.runtime.trace_cache import name_in_files
from ofav2_jax.settings.recipe import Recipe


@flax.struct.dataclass
class TrainState:
    """The state that a step changes: parameters in two vectors, see `model.packing`, and the optimiser's state."""

    params: Vectors
    opt_state: Any


name_in_files(TrainState)
for _type in (optax.EmptyState, optax.MaskedState, optax.TraceState):
    # A type can have only one name, and another package may have given it one.
    with contextlib.suppress(ValueError):
        export.register_namedtuple_serialization(_type, serialized_name=f"optax.{_type.__name__}")


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Weight decay and Nesterov momentum. The learning rate is applied in `update`, so that it can be traced."""
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, lambda vectors: {name: name == DECAYED for name in vectors}),
        optax.trace(recipe.momentum, nesterov=True),
    )


def init_state(recipe: Recipe, params: Vectors) -> TrainState:
    """The state before the first step of a phase; it takes over `params`, which must not be used elsewhere."""
    return TrainState(params, optimizer(recipe).init(params))


def update(recipe: Recipe, state: TrainState, gradient: Vectors, learning_rate: jax.Array) -> TrainState:
    """One step of SGD."""
    updates, opt_state = optimizer(recipe).update(gradient, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    return TrainState(optax.apply_updates(state.params, updates), opt_state)
