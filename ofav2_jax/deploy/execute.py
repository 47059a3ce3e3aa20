"""Runs a list of layers in JAX, in the layout and by the formulations of `ops`."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.deploy.layers import INPUT, Layer, by_layer
from ofav2_jax.ops.activations import h_sigmoid, h_swish
from ofav2_jax.ops.batch_norm import EPSILON
from ofav2_jax.ops.depthwise import depthwise_conv
from ofav2_jax.ops.pointwise import mix_channels

Arrays = Mapping[str, jax.Array]


def run(layers: Sequence[Layer], arrays: Arrays, outputs: Sequence[str], images: jax.Array) -> tuple[jax.Array, ...]:
    """Runs the layers.

    Args:
        layers: the network.
        arrays: its arrays.
        outputs: the names of the layers whose results are asked for.
        images: float [B, R, R, 3], normalised.

    Returns:
        For each output its logits, float [B, classes].
    """
    # [C, 1, H, W, B] throughout, the layout of the supernet for a single subnet.
    results = {INPUT: jnp.transpose(images, (3, 1, 2, 0))[:, None]}
    own = by_layer(layers, arrays)
    for layer in layers:
        inputs = (results[name] for name in layer.inputs)
        results[layer.name] = _OPERATIONS[layer.op](*inputs, layer=layer, **own[layer.name])
    return tuple(results[name][:, 0, 0, 0].T for name in outputs)


def _with_bias(y, bias):
    return y if bias is None else y + bias[:, None, None, None, None]


def _conv(x, *, layer, kernel, bias=None):
    k, stride = kernel.shape[0], layer.stride
    height, width = x.shape[2:4]
    x = jnp.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = [x[:, :, i : i + height : stride, j : j + width : stride] for i in range(k) for j in range(k)]
    # One product over all windows.
    patches = windows[0] if k == 1 else jnp.concatenate(windows, axis=0)
    return _with_bias(mix_channels(kernel.reshape(-1, kernel.shape[-1]), patches), bias)


def _depthwise(x, *, layer, kernel):
    return depthwise_conv(x, jnp.moveaxis(kernel, -1, 0)[:, None], layer.stride)


def _dense(x, *, layer, kernel, bias=None):
    return _with_bias(mix_channels(kernel, x), bias)


def _batch_norm(x, *, layer, scale, bias, mean, var):
    factor = scale * lax.rsqrt(var + EPSILON)
    along = (slice(None), None, None, None, None)
    return x * factor[along] + (bias - mean * factor)[along]


def _mean(x, *, layer):
    return jnp.mean(x, axis=(2, 3), keepdims=True)


def _max_pool(x, *, layer):
    channels, s, height, width, batch = x.shape
    window = layer.stride
    rows, columns = -(-height // window), -(-width // window)
    pads = ((0, 0), (0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    return jnp.max(x.reshape(channels, s, rows, window, columns, window, batch), axis=(3, 5))


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
