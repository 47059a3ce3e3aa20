"""Elastic layers: for a choice given as an int a layer slices, for one given as an array over S subnets it masks.

Activations are [C, S, H, W, B] throughout. A 1x1 convolution is then one matrix product without a transpose, also in
the backward pass; a depthwise convolution works on whole vectors of images; the values that batch norm sums are
contiguous. A static subnet has S = 1. Everything before the first choice of traced subnets has S = 1 too, so that it is
computed once. If the input of a layer has fewer channels than the layer, the layer uses its leading ones.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.ops import batch_norm, depthwise
from ofav2_jax.ops.activations import ACTIVATIONS, h_sigmoid
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.choose import apply_mask
from ofav2_jax.ops.pointwise import mix_and_normalise, mix_channels
from ofav2_jax.ops.saved import save

# Standard deviation sqrt(2 / fan_out) for a kernel [k, k, in, out]; a normal distribution that is not truncated, as in
# the reference.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# The collection in which a depthwise convolution finds its smaller kernels, where it does not make them itself.
SMALLER_KERNELS = "smaller_kernels"


class Layer(nn.Module):
    """A module with parameters of known shapes."""

    @nn.nowrap
    def parameter(self, name: str, init: Callable[..., jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """The parameter `name`, as `self.param` returns it.

        `self.param` traces the initialiser again at each use, to compare shapes; that is a tenth of all tracing.
        """
        value: jax.Array | None = self.get_variable("params", name)
        return value if value is not None and value.shape == shape else self.param(name, init, shape)


class PointwiseConv(Layer):
    """1x1 convolution (a dense layer over the channels). He fan-out initialisation, biases 0.

    Attributes:
        in_channels, features: channels of the full kernel.
        use_bias: whether there is a bias.
        dtype: dtype of the computation; parameters are float32.
        kernel_init: initialiser of the kernel.
    """

    in_channels: int
    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = he_fan_out

    def setup(self):
        self.kernel = self.parameter("kernel", self.kernel_init, (self.in_channels, self.features))
        if self.use_bias:
            self.bias = self.parameter("bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x: jax.Array, width: int | jax.Array | None = None) -> jax.Array:
        """Maps [c, ...] to [d, ...], with c <= in_channels; d is `width` where that is an int, else features."""
        y = save(mix_channels(self.sliced_kernel(len(x), width), x.astype(self.dtype)))
        return y + batch_norm.along_channels(self.bias[: len(y)].astype(self.dtype), y) if self.use_bias else y

    def sliced_kernel(self, in_channels: int, width: int | jax.Array | None = None) -> jax.Array:
        """The kernel [c, d] for c input channels; d is `width` where that is an int, else features."""
        features = width if isinstance(width, int) else self.features
        return self.kernel[:in_channels, :features].astype(self.dtype)


class BatchNorm(Layer):
    """Batch normalisation of each subnet by itself, with the activation that follows it.

    Training normalises with the statistics of the batch at hand, over all devices of `axis_name`; there are no
    running averages, because averages over a supernet's training belong to no subnet; subnets are recalibrated
    instead. If the collection `batch_stats` is mutable, the batch's statistics (biased variance) are stored there:
    [C] where S = 1, else [S, C].

    Attributes:
        features: channels.
        activation: "relu", "h_swish" or "identity".
        axis_name: pmap axis over which the batch is sharded, or None.
        dtype: dtype of the output; statistics are float32 or wider.
    """

    features: int
    activation: str = "identity"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.scale = self.parameter("scale", nn.initializers.ones, (self.features,))
        self.bias = self.parameter("bias", nn.initializers.zeros, (self.features,))
        if self.is_initializing():
            self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
            self.variable("batch_stats", "var", jnp.ones, (self.features,))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises [c, S, H, W, B], c <= features, by the batch's statistics or the stored ones."""
        channels = x.shape[0]
        scale, bias = self.scale[:channels], self.bias[:channels]
        if train:
            y, mean, var = batch_norm.normalise_by_batch(x, scale, bias, self.activation, self.axis_name)
            self._store_statistics(mean, var)
        else:
            mean, var = (
                jnp.atleast_2d(self.get_variable("batch_stats", name))[:, :channels].T for name in ("mean", "var")
            )
            y = ACTIVATIONS[self.activation](
                batch_norm.normalise(x, mean, lax.rsqrt(var + batch_norm.EPSILON), scale, bias)
            )
        return y.astype(self.dtype)

    def of_product(self, kernel: jax.Array, x: jax.Array, train: bool) -> jax.Array:
        """Normalises `mix_channels(kernel, x)`; a TPU makes no passes over the product for its statistics in training.

        A CPU takes longer for the products of matrices that replace such passes; a GPU would launch more kernels and
        move as many bytes. The product is not saved by a loop over levels: recomputing it from fewer channels is
        cheaper than writing and reading it.
        """
        if not train or backend() != "tpu":
            return self(mix_channels(kernel, x.astype(self.dtype)), train)
        features = kernel.shape[1]
        parameters = self.scale[:features], self.bias[:features]
        y, mean, var = mix_and_normalise(kernel, x.astype(self.dtype), *parameters, self.activation, self.axis_name)
        self._store_statistics(mean, var)
        return y

    def _store_statistics(self, mean, var):
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            self._store("mean", mean)
            self._store("var", var)

    def _store(self, name, value):
        if value.shape[1] == 1:
            value = value[:, 0]
            if value.shape[0] < self.features:
                # Inactive channels keep the statistics that they have.
                value = self.get_variable("batch_stats", name).at[: value.shape[0]].set(value)
        else:
            value = value.T
        self.put_variable("batch_stats", name, value)


def _identity(_key, shape):
    return jnp.eye(*shape)


class DepthwiseConv(Layer):
    """Depthwise convolution with a fixed or an elastic kernel (Once-For-All, section 3.2).

    An elastic 7x7 kernel contains the smaller ones: the centre 5x5, flattened row-major, times a learned 25x25
    matrix shared by all channels (new = old times M transposed), and the centre 3x3 of that, times a 9x9 one.

    Attributes:
        features: channels.
        kernel_size: the largest kernel: 7 where it is elastic, or a fixed size.
        stride: 1 or 2.
        elastic: whether smaller kernels can be chosen.
        dtype: dtype of the computation; parameters are float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    elastic: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        k = self.kernel_size
        # As in the reference, fan-out is k * k * features, although each output channel reads one input channel.
        self.kernel = self.parameter("kernel", self._init_kernel, (k, k, self.features))
        if self.elastic:
            self.to_5 = self.parameter("matrix_7to5", _identity, (25, 25))
            self.to_3 = self.parameter("matrix_5to3", _identity, (9, 9))

    @staticmethod
    def _init_kernel(key, shape):
        k, _, features = shape
        return jnp.sqrt(2.0 / (k * k * features)) * jax.random.normal(key, shape)

    def __call__(self, x: jax.Array, choice: int | jax.Array | None = None) -> jax.Array:
        """Convolves [c, S or 1, H, W, B], c <= features; `choice` is the kernel size, an int or int [S]."""
        x, channels = x.astype(self.dtype), len(x)
        if choice is None or isinstance(choice, int):
            kernel = self._kernels(choice or self.kernel_size, channels)[choice or self.kernel_size]
            return save(depthwise.depthwise_conv(x, kernel[:, None], self.stride))
        return save(depthwise.elastic_conv(x, self._kernels(3, channels), choice, self.stride))

    def _kernels(self, smallest, channels):
        """The kernels [c, k, k] by size, from the largest down to `smallest` or beyond."""
        kernels = {self.kernel_size: self.kernel[..., :channels]}
        if smallest < self.kernel_size:
            # XLA drops the 3x3 kernels where they are not used.
            made = self.variables.get(SMALLER_KERNELS) or smaller_kernels(kernels[7], self.to_5, self.to_3)
            kernels |= {int(size): kernel for size, kernel in made.items()}
        return {size: jnp.moveaxis(kernel, -1, 0).astype(self.dtype) for size, kernel in kernels.items()}


def smaller_kernels(kernel: jax.Array, to_5: jax.Array, to_3: jax.Array) -> dict[str, jax.Array]:
    """The kernels [k, k, c] of 5x5 and 3x3 that elastic kernels [7, 7, c] contain: the variables of SMALLER_KERNELS."""
    of_5 = (to_5 @ kernel[1:6, 1:6].reshape(25, -1)).reshape(5, 5, -1)
    return {"5": of_5, "3": (to_3 @ of_5[1:4, 1:4].reshape(9, -1)).reshape(3, 3, -1)}


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
        """Scales [c, S, H, W, B] channel by channel; `hidden` units are active (an int, or a mask)."""
        return x * self.gates(jnp.mean(x, axis=(2, 3), keepdims=True), hidden)

    def gates(self, pooled: jax.Array, hidden: int | jax.Array) -> jax.Array:
        """The factors of the channels, like `pooled`: their means over the map, float [c, S, 1, 1, B]."""
        units = apply_mask(nn.relu(self.reduce(pooled, hidden)), hidden)
        return h_sigmoid(self.expand(units, len(pooled)))
