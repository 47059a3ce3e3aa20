"""1x1 convolutions as matrix products over the channels, by themselves or with the batch norm that follows them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops.activations import ACTIVATIONS, DERIVATIVES
from ofav2_jax.ops.arrays import wide
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.batch_norm import EPSILON, along_channels, over_devices
from ofav2_jax.ops.saved import saved_residual


@jax.custom_vjp
def mix_channels(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Maps x [c, ...] to [d, ...] by a kernel [c, d]: each output channel is a weighted sum of the input channels.

    The gradient is written by hand. The automatic one consists of products with transposed operands and results, for
    which XLA copies whole activations.
    """
    return _product(kernel, x, axis=0)


def _product(kernel, x, axis):
    """The product along one axis of the kernel and the first axis of x.

    On a TPU it is a convolution, because XLA lays out the operands of a product of matrices anew, which takes longer
    than the product. Elsewhere it is a product of two matrices, because XLA copies a result with more axes where S = 1.
    """
    if backend() == "tpu" and x.ndim == 5:
        kernel = jnp.expand_dims(kernel if axis == 0 else kernel.T, (2, 3))
        y = _conv(x.reshape(len(x), -1, *x.shape[3:]), kernel, dimension_numbers=("CHWN", "IOHW", "CHWN"))
        return y.reshape(-1, *x.shape[1:])
    product = jnp.tensordot(kernel, x.reshape(len(x), -1), axes=(axis, 0))
    return product.reshape(-1, *x.shape[1:])


def _mix_channels_fwd(kernel, x):
    return mix_channels(kernel, x), (kernel, x)


def _mix_channels_bwd(residuals, dy):
    kernel, x = residuals
    if backend() == "tpu" and x.ndim == 5 and x.shape[1] == 1:
        dkernel = _pairs(x, dy)[0].astype(kernel.dtype)
    else:
        dkernel = jnp.einsum("cp,dp->cd", x.reshape(x.shape[0], -1), dy.reshape(dy.shape[0], -1))
    return dkernel, _product(kernel, dy, axis=1)


_conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1), padding="VALID")


def _pairs(x, y):
    """Sums of products over pixels and images of each channel of x with each one of y, in float32 or wider: [S, c, d].

    Args:
        x: float [c, S, H, W, B].
        y: float [d, S, H, W, B].
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if backend() == "tpu" and x.shape[1] == 1:
        # As a convolution of c "images" with d kernels of their size, for the layouts' sake again.
        names = "NHWC", "OHWI", "NHWC"
        return _conv(x[:, 0], y[:, 0], dimension_numbers=names, preferred_element_type=dtype).reshape(1, len(x), -1)
    return jnp.einsum("cshwb,dshwb->scd", x, y, preferred_element_type=dtype)


mix_channels.defvjp(_mix_channels_fwd, _mix_channels_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def mix_and_normalise(kernel, x, scale, bias, activation, axis_name):
    """activation(batch norm of `mix_channels(kernel, x)`), with the statistics of the batch at hand.

    The statistics of a product follow from those of its input: with m the mean of x over pixels and images, and K its
    covariance, channel j of the product has the mean k_j . m and the variance k_j . K k_j, where k_j is its kernel. So
    a layer with more outputs than inputs needs no passes over its outputs for their mean and variance, nor for the
    corresponding sums in the backward pass; the covariance costs a product of the size of the input alone.

    Args:
        kernel: float [c, d], in the dtype of x.
        x: float [c, S, H, W, B].
        scale: float [d], shared by all subnets.
        bias: float [d], shared by all subnets.
        activation: a key of `ACTIVATIONS` (static).
        axis_name: pmap axis over which the batch is sharded, or None (static).

    Returns:
        The output [d, S, H, W, B], and the product's mean and biased variance [d, S], through which no gradient flows.
    """
    return _mix_and_normalise_fwd(kernel, x, scale, bias, activation, axis_name)[0]


_exactly = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _mix_each(matrices, x):
    """Maps x [d, S, ...] to [c, S, ...] by a matrix for each subnet [S, c, d]."""
    matrices = matrices.astype(x.dtype)
    if x.shape[1] == 1:
        return _product(matrices[0], x, axis=1)
    return jnp.einsum("scd,dsp->csp", matrices, x.reshape(*x.shape[:2], -1)).reshape(-1, *x.shape[1:])


def _mix_and_normalise_fwd(kernel, x, scale, bias, activation, axis_name):
    wide_kernel, count = wide(kernel), math.prod(x.shape[2:])
    mean = saved_residual(over_devices(jnp.mean(wide(x), axis=(2, 3, 4)), axis_name))
    centred = (wide(x) - along_channels(mean, x)).astype(x.dtype)
    covariance = saved_residual(over_devices(_pairs(centred, centred) / count, axis_name))
    mixed_covariance = _exactly("sce,ed->scd", covariance, wide_kernel)
    # Rounding can make it negative where it is nearly 0.
    var = jnp.maximum(_exactly("cd,scd->ds", wide_kernel, mixed_covariance), 0)
    inverse_std = lax.rsqrt(var + EPSILON)
    product = mix_channels(kernel, centred)
    y = ACTIVATIONS[activation](_before_activation(product, scale, bias, inverse_std)).astype(x.dtype)
    residuals = kernel, centred, scale, bias, inverse_std, mixed_covariance, product
    return (y, _exactly("cd,cs->ds", wide_kernel, mean), var), residuals


def _before_activation(product, scale, bias, inverse_std):
    gain = scale[:, None] * inverse_std
    return wide(product) * along_channels(gain, product) + along_channels(bias, product)


def _mix_and_normalise_bwd(activation, axis_name, residuals, cotangents):
    kernel, centred, scale, bias, inverse_std, mixed_covariance, product = residuals
    wide_kernel, count = wide(kernel), math.prod(centred.shape[2:])
    z = _before_activation(product, scale, bias, inverse_std)
    dz = (wide(cotangents[0]) * DERIVATIVES[activation](z)).astype(centred.dtype)
    # The sums that batch norm needs, of dz and of its products with the normalised output. A channel of ones makes the
    # former a part of the product, too.
    pairs, sum_dz = jnp.split(_pairs(jnp.concatenate([centred, jnp.ones_like(centred[:1])]), dz), [len(centred)], 1)
    sums = jnp.stack([sum_dz[:, 0].T, inverse_std * _exactly("cd,scd->ds", wide_kernel, pairs)])
    through_mean, through_std = over_devices(sums / count, axis_name)
    gain = scale[:, None] * inverse_std
    through_product = gain * inverse_std * through_std
    dkernel = _exactly("ds,scd->cd", gain, pairs) - count * _exactly("ds,scd->cd", through_product, mixed_covariance)
    constant = _exactly("cd,ds->cs", wide_kernel, gain * through_mean)
    back = _exactly("cd,ds,ed->sce", wide_kernel, through_product, wide_kernel)
    dx = (
        wide(_mix_each(_exactly("cd,ds->scd", wide_kernel, gain), dz))
        - wide(_mix_each(back, centred))
        - along_channels(constant, centred)
    )
    dbias, dscale = jnp.sum(sums, axis=-1)
    return dkernel.astype(kernel.dtype), dx.astype(centred.dtype), dscale, dbias


mix_and_normalise.defvjp(_mix_and_normalise_fwd, _mix_and_normalise_bwd)
