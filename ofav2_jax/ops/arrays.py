"""What several operations do with arrays."""

import jax
import jax.numpy as jnp
from jax import lax


def wide(x: jax.Array) -> jax.Array:
    """`x` in float32 or wider, in which sums are accumulated whatever their terms are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pad(x: jax.Array, border: int, axes: tuple[int, ...]) -> jax.Array:
    """`x` with a border of zeros along some axes."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(border * (axis in axes),) * 2 + (0,) for axis in range(x.ndim)])


def out_size(size: int, stride: int) -> int:
    """The height (or width) of what a convolution makes of a map of that height, padded with half of its kernel."""
    return -(-size // stride)
