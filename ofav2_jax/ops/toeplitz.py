"""Depthwise convolution as a dense (Toeplitz) matrix over the pixels for each channel: small maps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from ofav2_jax.ops.arrays import out_size, wide
from ofav2_jax.ops.backend import backend


def _positions(k: int, height: int, width: int, stride: int, output_first: bool) -> np.ndarray:
    """The kernel position in each entry of a matrix, int [input pixels, output pixels]; k * k where the entry is 0.

    If `output_first`, the matrix is transposed.
    """

    def offsets(size):
        return np.arange(size)[:, None] - np.arange(out_size(size, stride)) * stride + k // 2

    rows, columns = offsets(height)[:, None, :, None], offsets(width)[None, :, None, :]
    inside = (rows >= 0) & (rows < k) & (columns >= 0) & (columns < k)
    positions = np.where(inside, rows * k + columns, k * k).reshape(height * width, -1)
    return positions.T if output_first else positions


def _taps(positions: np.ndarray, k: int, dtype: Any) -> jax.Array:
    """[k * k, entries of a matrix]: 1 where the entry has the kernel position, else 0."""
    return jax.nn.one_hot(positions.reshape(-1), k * k, axis=0, dtype=dtype)


def _matrices(kernel: jax.Array, height: int, width: int, stride: int, output_first: bool = False) -> jax.Array:
    """The matrices [C, S, input pixels, output pixels] of kernels [C, S, k, k]; if `output_first`, they are transposed.

    A GPU gathers their entries, and with them reads little but what it writes. Elsewhere a gather is slow, and they are
    a product with a matrix of zeros and ones.
    """
    channels, s, k, _ = kernel.shape
    positions, kernel = _positions(k, height, width, stride, output_first), kernel.reshape(channels, s, k * k)
    if backend() == "gpu":
        matrices = jnp.take(kernel, positions.reshape(-1), axis=-1, mode="fill", fill_value=0)
    else:
        matrices = jnp.tensordot(kernel, _taps(positions, k, kernel.dtype), axes=1)
    return matrices.reshape(channels, s, *positions.shape)


def _kernels(
    matrices: jax.Array, k: int, height: int, width: int, stride: int, output_first: bool = False
) -> jax.Array:
    """The gradient [C, S, k, k] of kernels, from that of their matrices, which are laid out as by `_matrices`."""
    channels, s = matrices.shape[:2]
    positions, matrices = _positions(k, height, width, stride, output_first), matrices.reshape(channels, s, -1)
    if backend() == "gpu":
        # Few entries of a matrix belong to a kernel; a product would read them all.
        summed = jnp.take(matrices, _entries(positions, k), axis=-1, mode="fill", fill_value=0)
        kernels = jnp.sum(wide(summed), axis=-1).astype(matrices.dtype)
        # Otherwise XLA chooses the layout that the parameters have, in which neighbouring threads read other matrices.
        kernels = with_layout_constraint(kernels, Layout((0, 1, 2)))
    else:
        kernels = jnp.einsum("cst,kt->csk", matrices, _taps(positions, k, matrices.dtype))
    return kernels.reshape(channels, s, k, k)


def _entries(positions: np.ndarray, k: int) -> np.ndarray:
    """The entries of a flattened matrix that have each kernel position: int [k * k, most entries of a position].

    Rows with fewer entries end with the number of all entries, which is none.
    """
    of_position = [np.flatnonzero(positions == position) for position in range(k * k)]
    entries = np.full((k * k, max(map(len, of_position))), positions.size)
    for row, found in zip(entries, of_position):
        row[: len(found)] = found
    return entries


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_matrix(x, kernel, stride):
    """`depthwise.depthwise_conv` by a matrix for each channel and subnet."""
    return _by_matrix_fwd(x, kernel, stride)[0]


def _by_matrix_fwd(x, kernel, stride):
    channels, s, height, width, batch = x.shape
    matrices = _matrices(kernel, height, width, stride)
    y = jnp.einsum("cspq,cspb->csqb", matrices, x.reshape(channels, s, -1, batch))
    return y.reshape(channels, s, out_size(height, stride), out_size(width, stride), batch), (x, kernel)


def _by_matrix_bwd(stride, residuals, dy):
    x, kernel = residuals
    channels, s, height, width, batch = x.shape
    dy = dy.reshape(channels, s, -1, batch)
    dx = jnp.einsum("cspq,csqb->cspb", _matrices(kernel, height, width, stride), dy).reshape(x.shape)
    per_pair = jnp.einsum("cspb,csqb->cspq", x.reshape(channels, s, -1, batch), dy)
    return dx, _kernels(per_pair, kernel.shape[-1], height, width, stride)


by_matrix.defvjp(_by_matrix_fwd, _by_matrix_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def by_common_matrix(x, kernel, stride):
    """`by_matrix` with a single image for all subnets [C, 1, H, W, B]: the rows of their matrices are those of one."""
    return _by_common_matrix_fwd(x, kernel, stride)[0]


def _by_common_matrix_fwd(x, kernel, stride):
    channels, _, height, width, batch = x.shape
    matrices = _matrices(kernel, height, width, stride, output_first=True).reshape(channels, -1, height * width)
    y = jnp.einsum("crp,cpb->crb", matrices, x.reshape(channels, -1, batch))
    shape = channels, kernel.shape[1], out_size(height, stride), out_size(width, stride), batch
    return y.reshape(shape), (x, kernel)


def _by_common_matrix_bwd(stride, residuals, dy):
    x, kernel = residuals
    channels, _, height, width, batch = x.shape
    s = kernel.shape[1]
    matrices = _matrices(kernel, height, width, stride, output_first=True).reshape(channels, -1, height * width)
    dy = dy.reshape(channels, -1, batch)
    dx = jnp.einsum("crp,crb->cpb", matrices, dy).reshape(x.shape)
    per_pair = jnp.einsum("crb,cpb->crp", dy, x.reshape(channels, -1, batch))
    return dx, _kernels(per_pair.reshape(channels, s, -1), kernel.shape[-1], height, width, stride, output_first=True)


by_common_matrix.defvjp(_by_common_matrix_fwd, _by_common_matrix_bwd)
