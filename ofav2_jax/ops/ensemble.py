"""The ensemble of early exits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def weighted_sum(weights: Sequence[float] | np.ndarray, values: jax.Array) -> jax.Array:
    """The weighted sum over the exits; of their logits it is the ensemble's output (AEP, ENS-KD).

    Args:
        weights: one number per exit, first exit first.
        values: float [exits, ...].

    Returns:
        float [...].
    """
    return jnp.tensordot(jnp.asarray(weights, values.dtype), values, 1)
