"""Traced choices: picking an option for each of S subnets, masking inactive channels, skipping what is not needed."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops.arrays import wide


def pick(choice: jax.Array, options: dict[int, jax.Array]) -> jax.Array:
    """Picks an option for each of S subnets.

    Args:
        choice: int [S], keys of `options`, traced.
        options: the option for each value of the choice; all are arrays of one shape.

    Returns:
        [S, *shape of an option].
    """
    chosen = jnp.array(list(options))[:, None] == choice
    return _pick(chosen, list(options.values()))


@jax.custom_vjp
def _pick(chosen, options):
    """`pick` with a gradient of its own, without a sum over an axis: operations beside it can be fused with it."""
    result = options[0][None]
    for of_subnet, option in zip(chosen[1:], options[1:]):
        result = jnp.where(of_subnet.reshape(-1, *(1,) * option.ndim), option, result)
    return result


def _pick_bwd(chosen, dy):
    def of_option(of_subnet):
        chosen_by = [jnp.where(chooses, wide(of_one), 0) for chooses, of_one in zip(of_subnet, dy)]
        return functools.reduce(jnp.add, chosen_by).astype(dy.dtype)

    return None, [of_option(of_subnet) for of_subnet in chosen]


_pick.defvjp(lambda chosen, options: (_pick(chosen, options), chosen), _pick_bwd)


def prefix(choice: int | jax.Array, widths: dict[int, int]) -> int | jax.Array:
    """The leading channels that a choice makes active.

    Args:
        choice: an int (static) or int [S] (traced), keys of `widths`.
        widths: the number of active channels for each value of the choice, with which it rises.

    Returns:
        The number of active channels (static), or a mask bool [largest width, S, 1, 1, 1] (traced).
    """
    if isinstance(choice, int):
        return widths[choice]
    # The least choice that makes each channel active. The mask is then one comparison with the choice, whose width
    # would otherwise have to be looked up first.
    least = [min(c for c, width in widths.items() if channel < width) for channel in range(max(widths.values()))]
    return (jnp.array(least)[:, None] <= choice)[..., None, None, None]


def run_if(
    name: str,
    needed: bool | jax.Array,
    function: Callable[[jax.Array], jax.Array],
    result: jax.ShapeDtypeStruct,
    x: jax.Array,
) -> jax.Array:
    """`function(x)` if it is needed, else zeros, for which nothing is computed.

    Args:
        name: the condition's name in the compiled program.
        needed: a bool (static) or a bool scalar (traced).
        function: the function.
        result: shape and dtype of its result.
        x: its argument.
    """
    if isinstance(needed, bool):
        return function(x) if needed else jnp.zeros(result.shape, result.dtype)
    with jax.named_scope(name):
        return lax.cond(needed, function, lambda _: jnp.zeros(result.shape, result.dtype), x)


def apply_mask(x: jax.Array, width: int | jax.Array) -> jax.Array:
    """Zeroes the inactive channels by a mask of `prefix`; with a static width there are none in `x`."""
    return x if isinstance(width, int) else x * width.astype(x.dtype)
