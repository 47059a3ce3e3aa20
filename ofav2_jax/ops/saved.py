"""Which residuals a checkpointed loop saves for its backward pass, and which it recomputes (rematerialisation)."""

import functools

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

# The name by which `jax.checkpoint` knows the residuals that are expensive to recompute: most convolutions, the
# statistics of batch norm.
_SAVED = "saved for the backward pass"

# Wraps the body of a loop: residuals that carry the name are saved, all others are recomputed.
remat = functools.partial(
    jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(_SAVED)
)


def saved_residual(x: jax.Array) -> jax.Array:
    """Marks a residual of a hand-written gradient (`jax.custom_vjp`) as saved.

    `save` cannot be used inside such a gradient: `jax.checkpoint` does not find names inside another function that has
    a gradient of its own, and would recompute everything.

    The name is given to the bits, as unsigned integers. `jax.checkpoint` passes every saved float through
    `lax.reduce_precision`, which makes two copies of whole activations out of one; it leaves unsigned integers alone.
    """
    bits = lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return lax.bitcast_convert_type(checkpoint_name(bits, _SAVED), x.dtype)


@jax.custom_vjp
def save(x: jax.Array) -> jax.Array:
    """Marks an activation as saved; its gradient passes through unchanged.

    The gradient has to be written out because `saved_residual` works on bits, which have none.
    """
    return saved_residual(x)


save.defvjp(lambda x: (saved_residual(x), None), lambda _, dy: (dy,))
