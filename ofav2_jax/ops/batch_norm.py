"""Batch norm with the activation that follows it, separate for each of S subnets, and its gradient."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops.activations import ACTIVATIONS, DERIVATIVES
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.saved import saved_residual

EPSILON = 1e-5


def along_channels(values: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcasts values [C] or [C, S] over the remaining axes of `x` [C, S, ...]."""
    shape = (*values.shape, *x.shape[values.ndim :])
    return lax.broadcast_in_dim(values, shape, range(values.ndim))


def _over_devices(mean: jax.Array, axis_name: str | None) -> jax.Array:
    return lax.pmean(mean, axis_name) if axis_name else mean


def _average(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean of [C, S, H, W, B] over pixels, images and devices: [C, S]."""
    return _over_devices(jnp.mean(values, axis=(2, 3, 4)), axis_name)


def normalise(x, mean, inverse_std, scale, bias):
    """Batch norm of x [C, S, H, W, B] with given mean and 1 / std [C, S], as one product and one sum."""
    gain = scale[:, None] * inverse_std
    return x * along_channels(gain, x) + along_channels(bias[:, None] - mean * gain, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise_by_batch(x, scale, bias, activation, axis_name):
    """activation(batch norm of x), with the statistics of the batch at hand.

    The gradient is written by hand. Automatic differentiation would save several residuals of the size of x, where x
    itself suffices; that halves a step's memory traffic and its compile time.

    Args:
        x: float [C, S, H, W, B].
        scale: float [C], shared by all subnets.
        bias: float [C], shared by all subnets.
        activation: a key of `ACTIVATIONS` (static).
        axis_name: pmap axis over which the batch is sharded, or None (static).

    Returns:
        The output, like x, and the batch's mean and biased variance [C, S], through which no gradient flows.
    """
    return _normalise_by_batch_fwd(x, scale, bias, activation, axis_name)[0]


def _passes_apart(*arrays):
    """Keeps a TPU's compiler from merging the passes over activations before and after this point.

    Merged passes share a float32 copy of bfloat16 activations in memory, which costs more traffic than converting them
    in each pass. A CPU computes in float32 anyway; on a GPU a compiler option prevents such copies, see `programs.py`.
    """
    return lax.optimization_barrier(arrays) if backend() == "tpu" else arrays


def _normalise_by_batch_fwd(x, scale, bias, activation, axis_name):
    (x,) = _passes_apart(x)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _average(wide, axis_name)
    # The variance takes a second pass, because E[x^2] - E[x]^2 cancels where the mean is large.
    var = _average(jnp.square(wide - along_channels(mean, x)), axis_name)
    mean, inverse_std = saved_residual(mean), saved_residual(lax.rsqrt(var + EPSILON))
    x, mean, inverse_std = _passes_apart(x, mean, inverse_std)
    wide = x.astype(mean.dtype)
    y = ACTIVATIONS[activation](normalise(wide, mean, inverse_std, scale, bias)).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse_std)


def _normalise_by_batch_bwd(activation, axis_name, residuals, cotangents):
    x, scale, bias, mean, inverse_std = residuals
    x, dy = _passes_apart(x, cotangents[0])

    def before_activation(x, dy):
        """The gradient before the activation, and the normalised x, in float32 or wider."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        unit = (wide - along_channels(mean, x)) * along_channels(inverse_std, x)
        z = unit * along_channels(scale, x) + along_channels(bias, x)
        return dy.astype(wide.dtype) * DERIVATIVES[activation](z), unit

    dz, unit = before_activation(x, dy)
    if backend() != "tpu":
        # The two sums are one array [2 C, S], so that each operation on them, such as the mean over devices, is one.
        sums = jnp.sum(jnp.concatenate([dz, dz * unit]), axis=(2, 3, 4))
        # A GPU's compiler would make a second pass over the activations out of the sums over subnets below.
        sums = sums if backend() == "cpu" else lax.optimization_barrier(sums)
    else:
        # A TPU's compiler would write the concatenated activations to memory.
        sums = jnp.concatenate([jnp.sum(values, axis=(2, 3, 4)) for values in (dz, dz * unit)])
        x, dy, sums = _passes_apart(x, dy, sums)
        dz, unit = before_activation(x, dy)
    through_mean, through_std = jnp.split(_over_devices(sums / math.prod(x.shape[2:]), axis_name), 2)
    dx = (dz - along_channels(through_mean, x) - unit * along_channels(through_std, x)) * along_channels(
        scale[:, None] * inverse_std, x
    )
    dbias, dscale = jnp.split(jnp.sum(sums, axis=1), 2)
    return dx.astype(x.dtype), dscale, dbias


normalise_by_batch.defvjp(_normalise_by_batch_fwd, _normalise_by_batch_bwd)
