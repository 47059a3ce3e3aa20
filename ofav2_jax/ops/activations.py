"""Activations and their derivatives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def h_sigmoid(x: jax.Array) -> jax.Array:
    """The hard sigmoid, relu6(x + 3) / 6."""
    return lax.clamp(jnp.zeros((), x.dtype), x + 3, jnp.full((), 6, x.dtype)) / 6


def h_swish(x: jax.Array) -> jax.Array:
    """The hard swish, x * relu6(x + 3) / 6."""
    return x * h_sigmoid(x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    "h_swish": h_swish,
}
DERIVATIVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": jnp.ones_like,
    "relu": lambda z: (z > 0).astype(z.dtype),
    "h_swish": lambda z: jnp.where(jnp.abs(z) < 3, (2 * z + 3) / 6, z > 0),
}
