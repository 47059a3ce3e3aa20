"""The optimisers, SGD with Nesterov momentum and AdamW, on the two vectors of a supernet's parameters."""

import contextlib
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
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
for _type in (optax.EmptyState, optax.MaskedState, optax.TraceState, optax.ScaleByAdamState):
    # A type can have only one name, and another package may have given it one.
    with contextlib.suppress(ValueError):
        export.register_namedtuple_serialization(_type, serialized_name=f"optax.{_type.__name__}")


def _decays(vectors: Vectors) -> dict[str, bool]:
    return {name: name == DECAYED for name in vectors}


def _sgd(recipe: Recipe) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, _decays),
        optax.trace(recipe.momentum, nesterov=True),
    )


def _adamw(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW, but parameters without any gradient so far stay as they are, bit for bit.

    These are the parts of a supernet that a design which is fine-tuned does not use.
    """
    adam = optax.scale_by_adam()

    def update(gradient, state, params):
        updates, state = adam.update(gradient, state)
        has_had = jax.tree.map(lambda square: square > 0, state.nu)
        decay = {name: recipe.weight_decay if decays else 0.0 for name, decays in _decays(params).items()}
        updates = jax.tree.map(lambda u, w, has, p: u + w * jnp.where(has, p, 0), updates, decay, has_had, params)
        return updates, state

    return optax.GradientTransformation(adam.init, update)


# By the names that `Recipe.optimizer` takes. The learning rate is applied in `update`, so that it can be traced.
OPTIMIZERS: dict[str, Callable[[Recipe], optax.GradientTransformation]] = {"sgd": _sgd, "adamw": _adamw}


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The recipe's optimiser, without the learning rate."""
    return OPTIMIZERS[recipe.optimizer](recipe)


def init_state(recipe: Recipe, params: Vectors) -> TrainState:
    """The state before the first step of a phase; it takes over `params`, which must not be used elsewhere."""
    return TrainState(params, optimizer(recipe).init(params))


def update(recipe: Recipe, state: TrainState, gradient: Vectors, learning_rate: jax.Array) -> TrainState:
    """One step of the optimiser."""
    updates, opt_state = optimizer(recipe).update(gradient, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    return TrainState(optax.apply_updates(state.params, updates), opt_state)
