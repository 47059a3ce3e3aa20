"""Batch norm with the activation that follows it, separate for each of S subnets, and its gradient."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops.activations import ACTIVATIONS, DERIVATIVES
from ofav2_jax.ops.arrays import wide
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.saved import saved_residual

EPSILON = 1e-5


def along_channels(values: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcasts values [C] or [C, S] over the remaining axes of `x` [C, S, ...]."""
    shape = (*values.shape, *x.shape[values.ndim :])
    return lax.broadcast_in_dim(values, shape, range(values.ndim))


def over_devices(means: Any, axis_name: str | None) -> Any:
    """Means of arrays over the devices, given those over their shares of a batch; without a name: one device."""
    return lax.pmean(means, axis_name) if axis_name else means


def _average(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean of [C, S, H, W, B] over pixels, images and devices: [C, S]."""
    return over_devices(jnp.mean(values, axis=(2, 3, 4)), axis_name)


def _moments(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of [C, S, H, W, B] over pixels, images and devices: [C, S] each, float32 or wider.

    The formula E[x^2] - E[x]^2 cancels where the mean is large beside the standard deviation. A CPU, whose caches hold
    x for a second pass, takes E[(x - E[x])^2]. Accelerators make one pass: they apply the formula to x - near, where
    `near` is one of the values of x, which lies within a few standard deviations of the mean. Values of x that are
    rounded to fewer bits than a float32 has cost more of the variance than the formula in float32; there `near` is 0,
    which spares a GPU the launch of a kernel that looks it up.
    """
    if backend() == "cpu":
        mean = _average(wide(x), axis_name)
        return mean, _average(jnp.square(wide(x) - along_channels(mean, x)), axis_name)
    exact = x.dtype == wide(x).dtype
    near = wide(x[:, :, x.shape[2] // 2, x.shape[3] // 2, 0]) if exact else jnp.zeros(x.shape[:2], jnp.float32)
    x, near = _passes_apart(x, near)
    away = wide(x) - along_channels(near, x)
    first, second = _averages(_sums(away, jnp.square(away)), x)
    mean_here = near + first
    mean = over_devices(mean_here, axis_name)
    var = jnp.maximum(second - jnp.square(first), 0)
    # The variance over all devices is the mean of theirs, and the variance of their means.
    return mean, over_devices(var + jnp.square(mean_here - mean), axis_name) if axis_name else var


def _sums(*arrays: jax.Array) -> jax.Array | list[jax.Array]:
    """Sums of several arrays [C, S, H, W, B] over pixels and images, [C, S] each, in one pass."""
    if backend() != "cpu":
        # The compiler of an accelerator would write the concatenated activations, or what they are made of, to memory,
        # and a GPU would launch a kernel that only lays the sums side by side.
        return [jnp.sum(values, axis=(2, 3, 4)) for values in arrays]
    # As one array, so that each operation on the sums, such as the mean over devices, is one.
    sums = jnp.sum(jnp.concatenate(arrays), axis=(2, 3, 4))
    return sums.reshape(len(arrays), -1, sums.shape[-1])


def _averages(sums: Any, x: jax.Array) -> Any:
    """What `_sums` returns for arrays like `x`, divided by the number of pixels and images."""
    return jax.tree.map(lambda values: values / math.prod(x.shape[2:]), sums)


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
    mean, var = _moments(x, axis_name)
    mean, inverse_std = saved_residual(mean), saved_residual(lax.rsqrt(var + EPSILON))
    x, mean, inverse_std = _passes_apart(x, mean, inverse_std)
    y = ACTIVATIONS[activation](normalise(wide(x), mean, inverse_std, scale, bias)).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse_std)


def _normalise_by_batch_bwd(activation, axis_name, residuals, cotangents):
    x, scale, bias, mean, inverse_std = residuals
    x, dy = _passes_apart(x, cotangents[0])

    def before_activation(x, dy):
        """The gradient before the activation, and the normalised x, in float32 or wider."""
        unit = (wide(x) - along_channels(mean, x)) * along_channels(inverse_std, x)
        z = unit * along_channels(scale, x) + along_channels(bias, x)
        return wide(dy) * DERIVATIVES[activation](z), unit

    dz, unit = before_activation(x, dy)
    sums = _sums(dz, dz * unit)
    if backend() != "cpu":
        # Two passes over x and dy. An accelerator's compiler would write dz, or masks and copies that it is made of, to
        # memory between them. Without a barrier for dy, both passes can apply a mask to it themselves.
        x, sums = lax.optimization_barrier((x, sums))
        dz, unit = before_activation(x, dy)
    through_mean, through_std = over_devices(_averages(sums, x), axis_name)
    dx = (dz - along_channels(through_mean, x) - unit * along_channels(through_std, x)) * along_channels(
        scale[:, None] * inverse_std, x
    )
    # Not `jnp.sum`, for which a GPU would launch two kernels of their own.
    dbias, dscale = (functools.reduce(jnp.add, list(values.T)) for values in sums)
    return dx.astype(x.dtype), dscale, dbias


normalise_by_batch.defvjp(_normalise_by_batch_fwd, _normalise_by_batch_bwd)
