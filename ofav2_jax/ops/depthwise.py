"""Depthwise convolution of S subnets at once, by whichever of two formulations is faster for the feature map's size.

XLA's own grouped convolution is 10 to 100 times slower than either on a CPU and slow on GPUs too
(`benchmarks/README.md`). Both formulations here compute

    y[c, s, o, p, b] = sum_ij x[c, s, o * stride + i - k // 2, p * stride + j - k // 2, b] * kernel[c, s, i, j]

with zeros outside the image.
"""

import jax
import jax.numpy as jnp

from ofav2_jax.ops.arrays import out_size, pad
from ofav2_jax.ops.backend import backend, one_at_a_time
from ofav2_jax.ops.choose import pick
from ofav2_jax.ops.shifts import by_shifts, by_shifts_of
from ofav2_jax.ops.toeplitz import by_common_matrix, by_matrix

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
        return by_shifts(x, kernel, stride)
    return (by_matrix if x.shape[1] == kernel.shape[1] else by_common_matrix)(x, kernel, stride)


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
        return by_shifts_of(x, [kernel[:, None] for kernel in kernels.values()], index, stride)
    largest = max(kernels)
    padded = {size: pad(kernel, (largest - size) // 2, axes=(1, 2)) for size, kernel in kernels.items()}
    return depthwise_conv(x, jnp.moveaxis(pick(choice, padded), 0, 1), stride)


def takes_shifts(x: jax.Array, stride: int) -> bool:
    """Whether `x` [C, S, H, W, B] is convolved by shifted products, because matrices over its map are too large."""
    height, width = x.shape[2:4]
    size = height * width * out_size(height, stride) * out_size(width, stride)
    return size > _MAX_MATRIX_SIZE.get(backend(), 2**14)
