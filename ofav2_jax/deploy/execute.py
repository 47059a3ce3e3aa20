"""Runs a list of layers in JAX: the network by itself, for one design, without a gradient.

Maps are [B, H, W, C] here, unlike in the supernet, whose programs are for large batches and for S subnets at once. With
channels innermost a product of matrices takes a map as it is, the shifted products of a depthwise convolution are over
whole vectors of channels, and both are as fast for a single image.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.deploy.layers import INPUT, Layer, by_layer, shapes
from ofav2_jax.ops.activations import h_sigmoid, h_swish
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.batch_norm import EPSILON

Arrays = Mapping[str, jax.Array]

# A CPU runs so many images at a time that the largest map has at most so many bytes, and stays in its caches: 32 images
# of 224 pixels take a quarter less time than as a whole, and more take no more memory.
_MAX_MAP_BYTES = 2**23


def run(layers: Sequence[Layer], arrays: Arrays, outputs: Sequence[str], images: jax.Array) -> jax.Array:
    """Runs the layers, which may be those of `fold_batch_norm`.

    Args:
        layers: the network.
        arrays: its arrays.
        outputs: the names of the layers whose results are asked for.
        images: float [B, R, R, 3], normalised.

    Returns:
        The logits of the outputs, float [outputs, B, classes].
    """
    number = images.shape[0]
    parts = 1
    # A program for any number of images, as in exported files, cannot be divided.
    if backend() == "cpu" and isinstance(number, int):
        largest = max(size * size * channels for channels, size in shapes(layers, arrays, images.shape[1]).values())
        parts = -(-number // max(_MAX_MAP_BYTES // (largest * images.dtype.itemsize), 1))
    if parts == 1:
        return _run(layers, arrays, outputs, images)
    part = -(-number // parts)
    padded = jnp.pad(images, ((0, parts * part - number), (0, 0), (0, 0), (0, 0)))
    logits = lax.map(functools.partial(_run, layers, arrays, outputs), padded.reshape(parts, part, *images.shape[1:]))
    return jnp.moveaxis(logits, 0, 1).reshape(len(outputs), parts * part, -1)[:, :number]


def _run(layers, arrays, outputs, images):
    results, own = {INPUT: images}, by_layer(layers, arrays)
    for layer in layers:
        inputs = (results[name] for name in layer.inputs)
        results[layer.name] = _OPERATIONS[layer.op](*inputs, layer=layer, **own[layer.name])
    return jnp.stack([results[name][:, 0, 0] for name in outputs])


def _windows(x, k, stride):
    """What the taps of a kernel [k, k] read, row by row, each [B, ceil(H / stride), ceil(W / stride), C]."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    return [padded[:, i : i + height : stride, j : j + width : stride] for i in range(k) for j in range(k)]


def _conv(x, *, layer, kernel, bias=0):
    k, _, inputs, outputs = kernel.shape
    if k == 1:
        return x[:, :: layer.stride, :: layer.stride] @ kernel[0, 0] + bias
    # That of the images' three channels: as products with single channels it is one pass, whereas a product of matrices
    # needs a copy of all windows.
    channels = [window[..., c : c + 1] for window in _windows(x, k, layer.stride) for c in range(inputs)]
    return _sum_of_products(channels, kernel.reshape(-1, outputs), bias)


def _depthwise(x, *, layer, kernel, bias=0):
    # XLA's own grouped convolution is thirty times slower on a CPU.
    k, _, channels = kernel.shape
    return _sum_of_products(_windows(x, k, layer.stride), kernel.reshape(-1, channels), bias)


def _sum_of_products(maps, weights, bias):
    return functools.reduce(lambda total, pair: total + pair[0] * pair[1], zip(maps, weights, strict=True), bias)


def _dense(x, *, layer, kernel, bias=0):
    return x @ kernel + bias


def _batch_norm(x, *, layer, scale, bias, mean, var):
    factor = scale * lax.rsqrt(var + EPSILON)
    return x * factor + (bias - mean * factor)


def _mean(x, *, layer):
    return jnp.mean(x, axis=(1, 2), keepdims=True)


def _max_pool(x, *, layer):
    window = 1, layer.stride, layer.stride, 1
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "SAME")


def _activation(function):
    return lambda x, *, layer: function(x)


def _add(*values, layer):
    return functools.reduce(jnp.add, values)


def _mul(x, gates, *, layer):
    return x * gates


_OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "dense": _dense,
    "batch_norm": _batch_norm,
    "relu": _activation(jax.nn.relu),
    "h_swish": _activation(h_swish),
    "h_sigmoid": _activation(h_sigmoid),
    "mean": _mean,
    "max_pool": _max_pool,
    "add": _add,
    "mul": _mul,
}
