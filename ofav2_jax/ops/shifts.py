"""Depthwise convolution as a sum of k * k shifted products, for large maps; see `depthwise.depthwise_conv`."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops.arrays import out_size, pad, wide
from ofav2_jax.ops.backend import backend


def _steps(start: int, size: int, stride: int) -> slice:
    """`size` indices from `start` on, `stride` apart."""
    return slice(start, start + (size - 1) * stride + 1, stride)


def _shifted_sum(padded: jax.Array, kernel: jax.Array, shape: tuple[int, int], stride: int) -> jax.Array:
    """The convolution of padded images; `shape` is the output's height and width."""
    k = kernel.shape[-1]
    taps = _pixels(wide(kernel)[..., None])
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
def by_shifts(x, kernel, stride):
    """`depthwise.depthwise_conv` by shifted products."""
    return _by_shifts_fwd(x, kernel, stride)[0]


def _by_shifts_fwd(x, kernel, stride):
    height, width = x.shape[2:4]
    padded = pad(x, kernel.shape[-1] // 2, axes=(2, 3))
    y = _shifted_sum(padded, kernel, (out_size(height, stride), out_size(width, stride)), stride)
    return y, (padded, kernel)


def _by_shifts_bwd(stride, residuals, dy):
    padded, kernel = residuals
    dx = _shifts_grad_input(dy, kernel, stride, padded.shape)
    if padded.shape[1] < kernel.shape[1]:
        dx = jnp.sum(dx, axis=1, keepdims=True)
    return dx, _shifts_grad_kernel(padded, dy, kernel.shape, stride)


by_shifts.defvjp(_by_shifts_fwd, _by_shifts_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def by_shifts_of(x, kernels, index, stride):
    """`by_shifts` with one of several kernels [C, 1, k, k], of which the others cost nothing.

    With the automatic gradient of `lax.switch` every size would have residuals of its own.
    """
    return _by_shifts_of_fwd(x, kernels, index, stride)[0]


def _by_shifts_of_fwd(x, kernels, index, stride):
    branches = [lambda x, kernels, i=i: by_shifts(x, kernels[i], stride) for i in range(len(kernels))]
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


by_shifts_of.defvjp(_by_shifts_of_fwd, _by_shifts_of_bwd)


def _shifts_grad_input(dy, kernel, stride, padded_shape):
    k = kernel.shape[-1]
    padded = pad(dy, k // 2, axes=(2, 3))
    height, width = (size - k + 1 for size in padded_shape[2:4])
    if stride == 1:
        return _shifted_sum(padded, kernel[..., ::-1, ::-1], (height, width), 1)

    # Input pixels of one phase (the same row and column modulo the stride) are read by the same taps. So each phase is
    # a small stride-1 sum over dy, and the phases are interleaved at the end. No product with a zero is computed.
    taps = _pixels(wide(kernel)[..., None])

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
    if backend() == "gpu" and k == 3:
        # One kernel with nine sums, where the loop below would be launched row by row.
        windows = [
            padded[:, :, _steps(i, rows, stride), _steps(j, columns, stride)] for i in range(k) for j in range(k)
        ]
        sums = [jnp.sum(wide(window) * wide(dy), axis=(2, 3, 4)) for window in windows]
        return jnp.stack(sums, axis=-1).reshape(kernel_shape).astype(dy.dtype)
    # Two rows at a time share the rows of the image that they read; with more the loop's body would be large.
    group = 2 if rows % 2 == 0 else 1

    def add_rows(total, first):
        x = lax.dynamic_slice_in_dim(padded, first * stride, (group - 1) * stride + k, axis=2)
        dy_rows = wide(lax.dynamic_slice_in_dim(dy, first, group, axis=2))
        dy_pixels = iter(_pixels(dy_rows))
        for row in range(group):
            for column in range(columns):
                window = x[:, :, _steps(row * stride, k, 1), _steps(column * stride, k, 1)]
                total = total + window * next(dy_pixels)
        return total, None

    # Each image has a sum of its own up to the end, so that the loop adds whole vectors of images.
    start = wide(jnp.zeros((*kernel_shape, batch), dy.dtype))
    total, _ = lax.scan(add_rows, start, jnp.arange(0, rows, group))
    return jnp.sum(total, axis=-1).astype(dy.dtype)
