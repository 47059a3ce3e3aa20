"""Depthwise convolution of S subnets at once, by whichever of two formulations is faster for the map.

XLA's own grouped convolution is 10 to 100 times slower than either on a CPU and slow on GPUs too
(`benchmarks/README.md`). Both formulations here compute

    y[c, s, b, o, p] = sum_ij x[c, s, b, o * stride + i - k // 2, p * stride + j - k // 2] * kernel[c, s, i, j]

with zeros outside the image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Above this many (input pixel, output pixel) pairs a dense matrix per channel costs more than it saves.
_MAX_MATRIX_SIZE = 16384


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves every channel with its own kernel, padding k // 2.

    Args:
        x: float [C, S, B, H, W].
        kernel: float [C, S, k, k], k odd.
        stride: 1 or 2.

    Returns:
        float [C, S, B, ceil(H / stride), ceil(W / stride)].
    """
    height, width = x.shape[-2:]
    size = height * width * _out_size(height, stride) * _out_size(width, stride)
    return (_by_matrix if size <= _MAX_MATRIX_SIZE else _by_shifts)(x, kernel, stride)


def _out_size(size: int, stride: int) -> int:
    return -(-size // stride)


def _pad(x: jax.Array, pad: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (pad, pad), (pad, pad)))


def _taps(k: int, height: int, width: int) -> list[tuple[int, int]]:
    """Kernel positions that meet the image at all."""
    return [(i, j) for i in range(k) for j in range(k) if abs(i - k // 2) < height and abs(j - k // 2) < width]


def _window(padded: jax.Array, i: int, j: int, shape: tuple[int, ...], stride: int) -> jax.Array:
    """What kernel position (i, j) meets: `shape` pixels of the padded image, `stride` apart."""
    height, width = shape[-2:]
    rows = slice(i, i + (height - 1) * stride + 1, stride)
    return padded[..., rows, j : j + (width - 1) * stride + 1 : stride]


# --- a sum of k * k shifted products: large maps --------------------------------------------------------------


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    k = kernel.shape[-1]
    height, width = x.shape[-2:]
    shape = (_out_size(height, stride), _out_size(width, stride))
    padded = _pad(x, k // 2)
    total = jnp.zeros((), x.dtype)
    for i, j in _taps(k, height, width):
        total = total + _window(padded, i, j, shape, stride) * kernel[:, :, None, i, j, None, None]
    return total


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_shifts(x, kernel, stride):
    return _shifted_sum(x, kernel, stride)


def _by_shifts_fwd(x, kernel, stride):
    return _shifted_sum(x, kernel, stride), (x, kernel)


def _by_shifts_bwd(stride, residuals, dy):
    x, kernel = residuals
    return _shifts_grad_input(dy, kernel, stride, x.shape), _shifts_grad_kernel(x, dy, kernel.shape, stride)


_by_shifts.defvjp(_by_shifts_fwd, _by_shifts_bwd)


def _shifts_grad_input(dy, kernel, stride, shape):
    if stride == 1:
        return _shifted_sum(dy, kernel[..., ::-1, ::-1], 1)
    # Input pixels of one phase (row and column modulo the stride) meet the same taps: each phase is a small
    # stride-1 sum over dy, and the phases are interleaved at the end. No product with a zero is computed.
    k = kernel.shape[-1]
    padded = _pad(dy, k // 2)

    def phase(row, column):
        total = jnp.zeros(dy.shape, dy.dtype)
        for i in range(k):
            for j in range(k):
                top, left = row + k // 2 - i, column + k // 2 - j
                if top % stride == 0 and left % stride == 0:
                    window = _window(padded, k // 2 + top // stride, k // 2 + left // stride, dy.shape, 1)
                    total = total + window * kernel[:, :, None, i, j, None, None]
        return total

    # [..., row, phase of the row, column, phase of the column]
    phases = jnp.stack([jnp.stack([phase(r, c) for c in range(stride)], -1) for r in range(stride)], -3)
    height, width = (size * stride for size in dy.shape[-2:])
    return phases.reshape(*dy.shape[:-2], height, width)[..., : shape[-2], : shape[-1]]


def _shifts_grad_kernel(x, dy, kernel_shape, stride):
    k = kernel_shape[-1]
    taps = np.array(_taps(k, *x.shape[-2:]))

    def add_image(total, image):
        padded, dy = image
        products = [jnp.sum(_window(padded, i, j, dy.shape, stride) * dy, axis=(-2, -1)) for i, j in taps]
        return total + jnp.stack(products, -1), None

    # One image at a time, so that its k * k reductions read it from the cache.
    start = jnp.zeros((*kernel_shape[:2], len(taps)), x.dtype)
    total, _ = lax.scan(add_image, start, (jnp.moveaxis(_pad(x, k // 2), 2, 0), jnp.moveaxis(dy, 2, 0)))
    return jnp.zeros(kernel_shape, x.dtype).at[..., taps[:, 0], taps[:, 1]].set(total)


# --- a dense (Toeplitz) matrix over the pixels for each channel: small maps ------------------------------------


def _tap_of_pixels(k: int, height: int, width: int, stride: int) -> np.ndarray:
    """[input pixels, output pixels]: the flat kernel position that joins them, k * k where none does."""

    def offsets(size):
        return np.arange(size)[:, None] - np.arange(_out_size(size, stride)) * stride + k // 2

    rows, columns = offsets(height)[:, None, :, None], offsets(width)[None, :, None, :]
    inside = (rows >= 0) & (rows < k) & (columns >= 0) & (columns < k)
    return np.where(inside, rows * k + columns, k * k).reshape(height * width, -1)


def _matrices(kernel: jax.Array, height: int, width: int, stride: int) -> jax.Array:
    """[C, S, input pixels, output pixels]."""
    channels, s, k, _ = kernel.shape
    taps = jnp.pad(kernel.reshape(channels, s, k * k), ((0, 0), (0, 0), (0, 1)))
    return jnp.take(taps, _tap_of_pixels(k, height, width, stride), axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_matrix(x, kernel, stride):
    return _by_matrix_fwd(x, kernel, stride)[0]


def _by_matrix_fwd(x, kernel, stride):
    channels, s, b, height, width = x.shape
    matrices = _matrices(kernel, height, width, stride)
    y = jnp.einsum("csbp,cspq->csbq", x.reshape(channels, s, b, -1), matrices)
    return y.reshape(channels, s, b, _out_size(height, stride), _out_size(width, stride)), (x, kernel)


def _by_matrix_bwd(stride, residuals, dy):
    x, kernel = residuals
    channels, s, b, height, width = x.shape
    k = kernel.shape[-1]
    dy = dy.reshape(channels, s, b, -1)
    dx = jnp.einsum("csbq,cspq->csbp", dy, _matrices(kernel, height, width, stride)).reshape(x.shape)
    per_pair = jnp.einsum("csbp,csbq->cspq", x.reshape(channels, s, b, -1), dy)
    # A product with a 0/1 matrix instead of the gather's own gradient, a scatter, which is slow on CPUs.
    tap_of_pair = jax.nn.one_hot(_tap_of_pixels(k, height, width, stride).reshape(-1), k * k, dtype=x.dtype)
    dkernel = jnp.einsum("cst,tk->csk", per_pair.reshape(channels, s, -1), tap_of_pair)
    return dx, dkernel.reshape(kernel.shape)


_by_matrix.defvjp(_by_matrix_fwd, _by_matrix_bwd)
