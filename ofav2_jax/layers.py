"""Elastic layers: each takes a choice as an int, and slices, or as an array over S subnets, and masks.

Activations are [S, B, H, W, C] throughout. A static subnet has S = 1; so has everything before the first
choice of traced subnets, which is therefore computed once. Where a layer's channels are cut, it takes the
leading ones: how many is read off its input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax import depthwise

BATCH_NORM_EPSILON = 1e-5

# sqrt(2 / fan_out) over kernel [k, k, in, out]; a plain normal distribution, as in the reference.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def h_sigmoid(x: jax.Array) -> jax.Array:
    """The hard sigmoid, relu6(x + 3) / 6."""
    return jnp.clip(x + 3, 0, 6) / 6


def h_swish(x: jax.Array) -> jax.Array:
    """The hard swish, x * relu6(x + 3) / 6."""
    return x * h_sigmoid(x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda z: z,
    "relu": nn.relu,
    "h_swish": h_swish,
}
DERIVATIVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": jnp.ones_like,
    "relu": lambda z: (z > 0).astype(z.dtype),
    "h_swish": lambda z: jnp.where(z < -3, 0, jnp.where(z > 3, 1, (2 * z + 3) / 6)),
}


def is_static(choice: Any) -> bool:
    """Whether a choice is an int, as opposed to an array over subnets."""
    return isinstance(choice, int)


def pick(choice: jax.Array, options: dict[int, Any]) -> jax.Array:
    """For each of S traced choices its option, an int or an array of a common shape.

    Args:
        choice: int [S], with values among the keys of `options`.
        options: what each value stands for.

    Returns:
        [S, *shape of an option].
    """
    keys = list(options)
    result = jnp.asarray(options[keys[0]])[None]
    for key in keys[1:]:
        chosen = (choice == key).reshape(-1, *(1,) * (result.ndim - 1))
        result = jnp.where(chosen, jnp.asarray(options[key])[None], result)
    return result


def prefix(choice: int | jax.Array, widths: dict[int, int]) -> int | jax.Array:
    """The active leading channels: how many (static), or a mask bool [S, 1, 1, 1, largest width] (traced)."""
    if is_static(choice):
        return widths[choice]
    active = pick(choice, widths)
    return (jnp.arange(max(widths.values())) < active[:, None])[:, None, None, None]


def apply_mask(x: jax.Array, width: int | jax.Array) -> jax.Array:
    """Zeroes the inactive channels; a static width has none."""
    return x if is_static(width) else x * width.astype(x.dtype)


class PointwiseConv(nn.Module):
    """1x1 convolution (a dense layer over the channels). He fan-out initialisation, biases 0.

    Attributes:
        in_channels, features: channels of the full kernel.
        use_bias: whether there is a bias.
        dtype: dtype of the computation; parameters are float32.
    """

    in_channels: int
    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = he_fan_out

    def setup(self):
        self.kernel = self.param("kernel", self.kernel_init, (self.in_channels, self.features))
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x: jax.Array, width: int | jax.Array | None = None) -> jax.Array:
        """Maps [..., c] to [..., d], with c <= in_channels; d is `width` where that is an int, else features."""
        features = width if isinstance(width, int) else self.features
        y = x.astype(self.dtype) @ self.kernel[: x.shape[-1], :features].astype(self.dtype)
        return y + self.bias[:features].astype(self.dtype) if self.use_bias else y


class BatchNorm(nn.Module):
    """Batch normalisation of each subnet by itself, with the activation that follows it.

    Training normalises with the statistics of the batch at hand, over all devices of `axis_name`; there are no
    running averages, because averages over a supernet's training belong to no subnet (method: BN
    recalibration). If the collection `batch_stats` is mutable, the batch's statistics (biased variance) are
    stored there: [C] where S = 1, else [S, C].

    Attributes:
        features: channels.
        activation: "relu", "h_swish" or "identity".
        axis_name: pmap axis over which the batch is spread, if any.
        dtype: dtype of the output; statistics are float32 or wider.
    """

    features: int
    activation: str = "identity"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, (self.features,))
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.is_initializing():
            self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
            self.variable("batch_stats", "var", jnp.ones, (self.features,))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises [S, B, H, W, c], c <= features, by the batch's statistics or the stored ones."""
        channels = x.shape[-1]
        scale, bias = self.scale[:channels], self.bias[:channels]
        if train:
            y, mean, var = _normalise_by_batch(x, scale, bias, self.activation, self.axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                self._store("mean", mean)
                self._store("var", var)
        else:
            mean, var = (
                jnp.atleast_2d(self.get_variable("batch_stats", name))[:, :channels] for name in ("mean", "var")
            )
            y = ACTIVATIONS[self.activation](_normalise(x, mean, lax.rsqrt(var + BATCH_NORM_EPSILON), scale, bias))
        return y.astype(self.dtype)

    def _store(self, name, value):
        if value.shape[0] == 1:
            value = value[0]
            if value.shape[0] < self.features:
                value = self.get_variable("batch_stats", name).at[: value.shape[0]].set(value)
        self.put_variable("batch_stats", name, value)


def _per_channel(values: jax.Array) -> jax.Array:
    """[S, C] to [S, 1, 1, 1, C]."""
    return values[:, None, None, None]


def _average(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean of [S, B, H, W, C] over images, pixels and devices: [S, C]."""
    return _over_devices(jnp.mean(values, axis=(1, 2, 3)), axis_name)


def _over_devices(mean, axis_name):
    return lax.pmean(mean, axis_name) if axis_name else mean


def _normalise(x, mean, inverse_std, scale, bias):
    gain = scale * inverse_std
    return x * _per_channel(gain) + _per_channel(bias - mean * gain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise_by_batch(x, scale, bias, activation, axis_name):
    """activation(batch norm of x), and the batch's mean and variance [S, C], which carry no gradient.

    Its own gradient, because what automatic differentiation keeps for the backward pass is several arrays of
    the size of x where x itself suffices; that halves a step's memory traffic and its compile time.
    """
    return _normalise_by_batch_fwd(x, scale, bias, activation, axis_name)[0]


def _normalise_by_batch_fwd(x, scale, bias, activation, axis_name):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _average(wide, axis_name)
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
    var = _average(jnp.square(wide - _per_channel(mean)), axis_name)
    inverse_std = lax.rsqrt(var + BATCH_NORM_EPSILON)
    y = ACTIVATIONS[activation](_normalise(wide, mean, inverse_std, scale, bias)).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse_std)


def _normalise_by_batch_bwd(activation, axis_name, residuals, cotangents):
    x, scale, bias, mean, inverse_std = residuals
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    unit = (wide - _per_channel(mean)) * _per_channel(inverse_std)
    z = _normalise(wide, mean, inverse_std, scale, bias)
    dz = cotangents[0].astype(wide.dtype) * DERIVATIVES[activation](z)
    sum_dz, sum_dz_unit = jnp.sum(dz, axis=(1, 2, 3)), jnp.sum(dz * unit, axis=(1, 2, 3))
    num_pixels = math.prod(x.shape[1:4])
    through_mean = _over_devices(sum_dz / num_pixels, axis_name)
    through_std = _over_devices(sum_dz_unit / num_pixels, axis_name)
    dx = (dz - _per_channel(through_mean) - unit * _per_channel(through_std)) * _per_channel(scale * inverse_std)
    return dx.astype(x.dtype), jnp.sum(sum_dz_unit, axis=0), jnp.sum(sum_dz, axis=0)


_normalise_by_batch.defvjp(_normalise_by_batch_fwd, _normalise_by_batch_bwd)


class DepthwiseConv(nn.Module):
    """Depthwise convolution with a fixed or an elastic kernel (Once-For-All, section 3.2).

    An elastic 7x7 kernel contains the smaller ones: the centre 5x5, flattened row-major, times a learned 25x25
    matrix shared by all channels (new = old times M transposed), and the centre 3x3 of that, times a 9x9 one.

    Attributes:
        features: channels.
        kernel_size: the largest kernel: 7 where it is elastic, or a fixed size.
        stride: 1 or 2.
        elastic: whether smaller kernels can be chosen.
    """

    features: int
    kernel_size: int
    stride: int = 1
    elastic: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        k = self.kernel_size
        # Reference: fan-out counts k * k * features although each output channel reads one input channel.
        self.kernel = self.param("kernel", self._init_kernel, (k, k, self.features))
        if self.elastic:
            self.to_5 = self.param("matrix_7to5", lambda _: jnp.eye(25))
            self.to_3 = self.param("matrix_5to3", lambda _: jnp.eye(9))

    @staticmethod
    def _init_kernel(key, shape):
        k, _, features = shape
        return jnp.sqrt(2.0 / (k * k * features)) * jax.random.normal(key, shape)

    def __call__(self, x: jax.Array, choice: int | jax.Array | None = None) -> jax.Array:
        """Convolves [S or 1, B, H, W, c], c <= features, with the kernel chosen by an int or ints [S]."""
        kernel = self._chosen_kernel(choice, x.shape[-1])
        x = jnp.broadcast_to(x, (kernel.shape[0], *x.shape[1:]))
        return depthwise.depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)

    def _chosen_kernel(self, choice, channels):
        kernel = self.kernel[..., :channels]
        if not self.elastic:
            return kernel[None]
        if choice == 7 if is_static(choice) else False:
            return kernel[None]
        five = (self.to_5 @ kernel[1:6, 1:6].reshape(25, channels)).reshape(5, 5, channels)
        if choice == 5 if is_static(choice) else False:
            return five[None]
        three = (self.to_3 @ five[1:4, 1:4].reshape(9, channels)).reshape(3, 3, channels)
        if is_static(choice):
            return three[None]
        padded = {7: kernel}
        for small in (five, three):
            border = (7 - small.shape[0]) // 2
            padded[small.shape[0]] = jnp.pad(small, ((border, border), (border, border), (0, 0)))
        return pick(choice, padded)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: mean over the map, dense, ReLU, dense, h-sigmoid, multiply.

    Attributes:
        features: channels.
        hidden: hidden units of the full layer.
    """

    features: int
    hidden: int
    dtype: Any = jnp.float32

    def setup(self):
        self.reduce = PointwiseConv(self.features, self.hidden, use_bias=True, dtype=self.dtype)
        self.expand = PointwiseConv(self.hidden, self.features, use_bias=True, dtype=self.dtype)

    def __call__(self, x: jax.Array, hidden: int | jax.Array) -> jax.Array:
        """Scales [S, B, H, W, c] channel by channel; `hidden` units are active (an int, or a mask)."""
        pooled = jnp.mean(x, axis=(2, 3), keepdims=True)
        units = apply_mask(nn.relu(self.reduce(pooled, hidden)), hidden)
        return x * h_sigmoid(self.expand(units, x.shape[-1]))
