"""Losses: label smoothing and knowledge distillation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy against (1 - smoothing) * one-hot + smoothing / classes.

    Args:
        logits: float [..., classes].
        labels: int, of a shape that broadcasts against [...].
        smoothing: in [0, 1).

    Returns:
        float [...], one value per example.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, smoothing))


def soft_target_cross_entropy(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Cross-entropy against the softmax of a teacher's logits, which receive no gradient.

    Args:
        logits: float [..., classes].
        teacher_logits: float, of a shape that broadcasts against that of `logits`.

    Returns:
        float [...], one value per example.
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits))
    return optax.softmax_cross_entropy(logits, jnp.broadcast_to(targets, logits.shape))


# The distillation losses, by the names that `Recipe.distillation` takes. Each is a function from logits and the
# teacher's logits to one value per example.
DISTILLATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"soft_targets": soft_target_cross_entropy}
