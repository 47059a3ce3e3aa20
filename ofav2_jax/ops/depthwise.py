"""Depthwise convolution of S subnets at once, by whichever of two formulations is faster for the feature map's size.

XLA's own grouped convolution is 10 to 100 times slower than either on a CPU and slow on GPUs too
(`benchmarks/README.md`). Both formulations here compute

    y[c, s, o, p, b] = sum_ij x[c, s, o * stride + i - k // 2, p * stride + j - k // 2, b] * kernel[c, s, i, j]

with zeros outside the image.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.ops.backend import backend, one_at_a_time
from ofav2_jax.ops.choose import pick

# Above so many (input pixel, output pixel) pairs a dense matrix per channel costs more than it saves. On a CPU that was
# measured. For accelerators it is their compilers' estimate (`benchmarks/README.md`): k * k shifted products are bound
# by instructions there, while products of matrices are what these devices are built for.
_MAX_MATRIX_SIZE = {"cpu": 2**14, "gpu": 2**18, "tpu": 2**20}


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves every channel with its own kernel, padding k // 2.

    Args:
        x: float [C, S, H, W, B], or with a single image for all S subnets, [C, 1, H, W, B].
        kernel: float [C, S, k, k], k odd.
        stride: 1 or 2.

    Returns:
        float [C, S, ceil(H / stride), ceil(W / stride), B].
    """
    if takes_shifts(x, stride):
        return _by_shifts(x, kernel, stride)
    return (_by_matrix if x.shape[1] == kernel.shape[1] else _by_common_matrix)(x, kernel, stride)


def elastic_conv(x: jax.Array, kernels: dict[int, jax.Array], choice: jax.Array, stride: int) -> jax.Array:
    """Convolves with the kernels of the size that each of S subnets chooses; see `depthwise_conv`.

    Args:
        x: float [C, S, H, W, B], or with a single image for all S subnets, [C, 1, H, W, B].
        kernels: for each size k that can be chosen the kernels [C, k, k]; the largest first.
        choice: int [S], sizes; traced.
        stride: 1 or 2.
    """
    if choice.shape == (1,) and one_at_a_time() and takes_shifts(x, stride):
        # The cost of shifted products depends on the size.
        index = jnp.argmax(jnp.array(list(kernels)) == choice)
        return _by_shifts_of(x, [kernel[:, None] for kernel in kernels.values()], index, stride)
    largest = max(kernels)
    padded = {size: pad(kernel, (largest - size) // 2, axes=(1, 2)) for size, kernel in kernels.items()}
    return depthwise_conv(x, jnp.moveaxis(pick(choice, padded), 0, 1), stride)


def takes_shifts(x: jax.Array, stride: int) -> bool:
    """Whether `x` [C, S, H, W, B] is convolved by shifted products, because matrices over its map are too large."""
    height, width = x.shape[2:4]
    size = height * width * _out_size(height, stride) * _out_size(width, stride)
    return size > _MAX_MATRIX_SIZE.get(backend(), 2**14)


def _out_size(size: int, stride: int) -> int:
    return -(-size // stride)


def _wide(x: jax.Array) -> jax.Array:
    """`x` in float32 or wider, in which sums of dozens of products are accumulated whatever their factors are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pad(x: jax.Array, border: int, axes: tuple[int, ...]) -> jax.Array:
    """`x` with a border of zeros along some axes."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(border * (axis in axes),) * 2 + (0,) for axis in range(x.ndim)])


def _steps(start: int, size: int, stride: int) -> slice:
    """`size` indices from `start` on, `stride` apart."""
    return slice(start, start + (size - 1) * stride + 1, stride)


# --- a sum of k * k shifted products: large maps --------------------------------------------------------------


def _shifted_sum(padded: jax.Array, kernel: jax.Array, shape: tuple[int, int], stride: int) -> jax.Array:
    """The convolution of padded images; `shape` is the output's height and width."""
    k = kernel.shape[-1]
    taps = _pixels(_wide(kernel)[..., None])
    total = jnp.zeros((), taps[0].dtype)
    for i in range(k):
        for j in range(k):
            window = padded[:, :, _steps(i, shape[0], stride), _steps(j, shape[1], stride)]
            total = total + window * taps[i * k + j]
    return total.astype(padded.dtype)


def _pixels(x):
    """The pixels of [C, S, H, W, B], row by row, each [C, S, 1, 1, B]; one split instead of one slice per pixel."""
    channels, s, height, width, batch = x.shape
    return lax.split(x.reshape(channels, s, height * width, 1, batch), (1,) * (height * width), axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_shifts(x, kernel, stride):
    return _by_shifts_fwd(x, kernel, stride)[0]


def _by_shifts_fwd(x, kernel, stride):
    height, width = x.shape[2:4]
    padded = pad(x, kernel.shape[-1] // 2, axes=(2, 3))
    y = _shifted_sum(padded, kernel, (_out_size(height, stride), _out_size(width, stride)), stride)
    return y, (padded, kernel)


def _by_shifts_bwd(stride, residuals, dy):
    padded, kernel = residuals
    dx = _shifts_grad_input(dy, kernel, stride, padded.shape)
    if padded.shape[1] < kernel.shape[1]:
        dx = jnp.sum(dx, axis=1, keepdims=True)
    return dx, _shifts_grad_kernel(padded, dy, kernel.shape, stride)


_by_shifts.defvjp(_by_shifts_fwd, _by_shifts_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _by_shifts_of(x, kernels, index, stride):
    """`_by_shifts` with one of several kernels [C, 1, k, k], of which the others cost nothing.

    With the automatic gradient of `lax.switch` every size would have residuals of its own.
    """
    return _by_shifts_of_fwd(x, kernels, index, stride)[0]


def _by_shifts_of_fwd(x, kernels, index, stride):
    branches = [lambda x, kernels, i=i: _by_shifts(x, kernels[i], stride) for i in range(len(kernels))]
    return lax.switch(index, branches, x, kernels), (x, kernels, index)


def _by_shifts_of_bwd(stride, residuals, dy):
    x, kernels, index = residuals

    def branch(i):
        def pull_back(x, kernels, dy):
            dx, dkernel = _by_shifts_bwd(stride, _by_shifts_fwd(x, kernels[i], stride)[1], dy)
            return dx, [dkernel if i == j else jnp.zeros_like(kernel) for j, kernel in enumerate(kernels)]

        return pull_back

    dx, dkernels = lax.switch(index, [branch(i) for i in range(len(kernels))], x, kernels, dy)
    return dx, dkernels, None


_by_shifts_of.defvjp(_by_shifts_of_fwd, _by_shifts_of_bwd)


def _shifts_grad_input(dy, kernel, stride, padded_shape):
    k = kernel.shape[-1]
    padded = pad(dy, k // 2, axes=(2, 3))
    height, width = (size - k + 1 for size in padded_shape[2:4])
    if stride == 1:
        return _shifted_sum(padded, kernel[..., ::-1, ::-1], (height, width), 1)

    # Input pixels of one phase (the same row and column modulo the stride) are read by the same taps. So each phase is
    # a small stride-1 sum over dy, and the phases are interleaved at the end. No product with a zero is computed.
    taps = _pixels(_wide(kernel)[..., None])

    def phase(row, column):
        total = jnp.zeros(dy.shape, taps[0].dtype)
        for i in range(k):
            for j in range(k):
                top, left = row + k // 2 - i, column + k // 2 - j
                if top % stride == 0 and left % stride == 0:
                    rows = _steps(k // 2 + top // stride, dy.shape[2], 1)
                    columns = _steps(k // 2 + left // stride, dy.shape[3], 1)
                    window = padded[:, :, rows, columns]
                    total = total + window * taps[i * k + j]
        return total.astype(dy.dtype)

    # [C, S, row, phase of the row, column, phase of the column, B]
    phases = jnp.stack([jnp.stack([phase(r, c) for c in range(stride)], 4) for r in range(stride)], 3)
    channels, s, rows, columns, batch = dy.shape
    return phases.reshape(channels, s, rows * stride, columns * stride, batch)[:, :, :height, :width]


def _shifts_grad_kernel(padded, dy, kernel_shape, stride):
    k = kernel_shape[-1]
    rows, columns, batch = dy.shape[2:]
    # Two rows at a time share the rows of the image that they read; with more the loop's body would be large.
    group = 2 if rows % 2 == 0 else 1

    def add_rows(total, first):
        x = lax.dynamic_slice_in_dim(padded, first * stride, (group - 1) * stride + k, axis=2)
        dy_rows = _wide(lax.dynamic_slice_in_dim(dy, first, group, axis=2))
        dy_pixels = iter(_pixels(dy_rows))
        for row in range(group):
            for column in range(columns):
                window = x[:, :, _steps(row * stride, k, 1), _steps(column * stride, k, 1)]
                total = total + window * next(dy_pixels)
        return total, None

    # Each image has a sum of its own up to the end, so that the loop adds whole vectors of images.
    start = _wide(jnp.zeros((*kernel_shape, batch), dy.dtype))
    total, _ = lax.scan(add_rows, start, jnp.arange(0, rows, group))
    return jnp.sum(total, axis=-1).astype(dy.dtype)


# --- a dense (Toeplitz) matrix over the pixels for each channel: small maps ------------------------------------


def _taps_of_pixels(k: int, height: int, width: int, stride: int, dtype: Any, output_first: bool = False) -> jax.Array:
    """[k * k, input pixels * output pixels]: 1 where a kernel position connects the two pixels, else 0.

    If `output_first`, the output pixels are the first factor.
    """

    def offsets(size):
        return np.arange(size)[:, None] - np.arange(_out_size(size, stride)) * stride + k // 2

    rows, columns = offsets(height)[:, None, :, None], offsets(width)[None, :, None, :]
    inside = (rows >= 0) & (rows < k) & (columns >= 0) & (columns < k)
    positions = np.where(inside, rows * k + columns, -1).reshape(height * width, -1)
    return jax.nn.one_hot((positions.T if output_first else positions).reshape(-1), k * k, axis=0, dtype=dtype)


def _matrices(kernel: jax.Array, height: int, width: int, stride: int, output_first: bool = False) -> jax.Array:
    """The matrices [C, S, input pixels, output pixels] of the kernels; if `output_first`, they are transposed.

    They are made by a product, because a gather, and still more its gradient, is slow.
    """
    channels, s, k, _ = kernel.shape
    taps = _taps_of_pixels(k, height, width, stride, kernel.dtype, output_first)
    matrices = jnp.tensordot(kernel.reshape(channels, s, k * k), taps, axes=1)
    return matrices.reshape(channels, s, *((-1, height * width) if output_first else (height * width, -1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_matrix(x, kernel, stride):
    return _by_matrix_fwd(x, kernel, stride)[0]


def _by_matrix_fwd(x, kernel, stride):
    channels, s, height, width, batch = x.shape
    matrices = _matrices(kernel, height, width, stride)
    y = jnp.einsum("cspq,cspb->csqb", matrices, x.reshape(channels, s, -1, batch))
    return y.reshape(channels, s, _out_size(height, stride), _out_size(width, stride), batch), (x, kernel)


def _by_matrix_bwd(stride, residuals, dy):
    x, kernel = residuals
    channels, s, height, width, batch = x.shape
    k = kernel.shape[-1]
    dy = dy.reshape(channels, s, -1, batch)
    dx = jnp.einsum("cspq,csqb->cspb", _matrices(kernel, height, width, stride), dy).reshape(x.shape)
    per_pair = jnp.einsum("cspb,csqb->cspq", x.reshape(channels, s, -1, batch), dy)
    taps = _taps_of_pixels(k, height, width, stride, x.dtype)
    dkernel = jnp.einsum("cst,kt->csk", per_pair.reshape(channels, s, -1), taps)
    return dx, dkernel.reshape(kernel.shape)


_by_matrix.defvjp(_by_matrix_fwd, _by_matrix_bwd)


# The same with a single image for all S subnets, [C, 1, H, W, B]: the rows of their matrices are those of a single one.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_common_matrix(x, kernel, stride):
    return _by_common_matrix_fwd(x, kernel, stride)[0]


def _by_common_matrix_fwd(x, kernel, stride):
    channels, _, height, width, batch = x.shape
    matrices = _matrices(kernel, height, width, stride, output_first=True).reshape(channels, -1, height * width)
    y = jnp.einsum("crp,cpb->crb", matrices, x.reshape(channels, -1, batch))
    shape = channels, kernel.shape[1], _out_size(height, stride), _out_size(width, stride), batch
    return y.reshape(shape), (x, kernel)


def _by_common_matrix_bwd(stride, residuals, dy):
    x, kernel = residuals
    channels, _, height, width, batch = x.shape
    s, k = kernel.shape[1:3]
    matrices = _matrices(kernel, height, width, stride, output_first=True).reshape(channels, -1, height * width)
    dy = dy.reshape(channels, -1, batch)
    dx = jnp.einsum("crp,crb->cpb", matrices, dy).reshape(x.shape)
    per_pair = jnp.einsum("crb,cpb->crp", dy, x.reshape(channels, -1, batch))
    taps = _taps_of_pixels(k, height, width, stride, x.dtype, output_first=True)
    dkernel = jnp.einsum("cst,kt->csk", per_pair.reshape(channels, s, -1), taps)
    return dx, dkernel.reshape(kernel.shape)


_by_common_matrix.defvjp(_by_common_matrix_fwd, _by_common_matrix_bwd)
