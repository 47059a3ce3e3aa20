"""Traced choices: one option for each of S subnets, and masks of active channels."""

import jax
import jax.numpy as jnp
from jax import lax


def pick(choice: jax.Array, options: dict[int, jax.Array]) -> jax.Array:
    """For each of S traced choices its option.

    Args:
        choice: int [S], with values among the keys of `options`.
        options: what each value stands for, arrays of one shape.

    Returns:
        [S, *shape of an option].
    """
    chosen = jnp.array(list(options))[:, None] == choice
    return _pick(chosen, list(options.values()))


@jax.custom_vjp
def _pick(chosen, options):
    """Its own gradient: the automatic one is a sum over the subnets for each option by itself."""
    result = options[0][None]
    for of_subnet, option in zip(chosen[1:], options[1:]):
        result = jnp.where(of_subnet.reshape(-1, *(1,) * option.ndim), option, result)
    return result


def _pick_bwd(chosen, dy):
    return None, list(jnp.tensordot(chosen.astype(dy.dtype), dy, axes=1, precision=lax.Precision.HIGHEST))


_pick.defvjp(lambda chosen, options: (_pick(chosen, options), chosen), _pick_bwd)


def prefix(choice: int | jax.Array, widths: dict[int, int]) -> int | jax.Array:
    """The active leading channels: how many (static), or a mask bool [largest width, S, 1, 1, 1] (traced)."""
    if isinstance(choice, int):
        return widths[choice]
    # What makes each channel active: one comparison with the choice, where a width would have to be looked up first.
    least = [min(c for c, width in widths.items() if channel < width) for channel in range(max(widths.values()))]
    return (jnp.array(least)[:, None] <= choice)[..., None, None, None]


def apply_mask(x: jax.Array, width: int | jax.Array) -> jax.Array:
    """Zeroes the inactive channels; a static width has none."""
    return x if isinstance(width, int) else x * width.astype(x.dtype)
