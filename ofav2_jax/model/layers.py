"""Elastic layers: each takes a choice as an int, and slices, or as an array over S subnets, and masks.

Activations are [C, S, H, W, B] throughout: a 1x1 convolution is then one matrix product without a transpose, also
in the backward pass, a depthwise convolution a sum or a batch of products of whole vectors of images, and what batch
norm sums is contiguous. A static subnet has S = 1; so has everything before the first choice of traced subnets, which
is therefore computed once. Where a layer's channels are cut, it takes the leading ones: how many is read off its input.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from ofav2_jax.ops import depthwise

BATCH_NORM_EPSILON = 1e-5

# The name, for `jax.checkpoint`, of what is dear to compute again: most convolutions, the batch's statistics.
KEPT = "kept for the backward pass"


def _kept(x):
    """`x` under the name of `KEPT`: its bits, because JAX would pass numbers of that name through an operation.

    That operation, which rounds to the precision that they have, is there for compilers that work with a higher one;
    it makes two copies of whole activations out of one.
    """
    bits = lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return lax.bitcast_convert_type(checkpoint_name(bits, KEPT), x.dtype)


# With a gradient, which bits have none of. Where a function's own gradient is written out, it has to be `_kept`: names
# inside a further function with a gradient of its own are not found there, and everything is computed again.
_keep = jax.custom_vjp(_kept)
_keep.defvjp(lambda x: (_kept(x), None), lambda _, dy: (dy,))

# sqrt(2 / fan_out) over kernel [k, k, in, out]; a plain normal distribution, as in the reference.
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def h_sigmoid(x: jax.Array) -> jax.Array:
    """The hard sigmoid, relu6(x + 3) / 6."""
    return lax.clamp(jnp.zeros((), x.dtype), x + 3, jnp.full((), 6, x.dtype)) / 6


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
    "h_swish": lambda z: jnp.where(jnp.abs(z) < 3, (2 * z + 3) / 6, z > 0),
}


def pick(choice: jax.Array, options: dict[int, jax.Array]) -> jax.Array:
    """For each of S traced choices its option.

    Args:
        choice: int [S], with values among the keys of `options`.
        options: what each value stands for, arrays of one shape.

    Returns:
        [S, *shape of an option].
    """
    chosen = jnp.array(list(options))[:, None] == choice
    return _pick(chosen, list(options.values()))


@jax.custom_vjp
def _pick(chosen, options):
    """Its own gradient: the automatic one is a sum over the subnets for each option by itself."""
    result = options[0][None]
    for of_subnet, option in zip(chosen[1:], options[1:]):
        result = jnp.where(of_subnet.reshape(-1, *(1,) * option.ndim), option, result)
    return result


def _pick_bwd(chosen, dy):
    return None, list(jnp.tensordot(chosen.astype(dy.dtype), dy, axes=1, precision=lax.Precision.HIGHEST))


_pick.defvjp(lambda chosen, options: (_pick(chosen, options), chosen), _pick_bwd)


def prefix(choice: int | jax.Array, widths: dict[int, int]) -> int | jax.Array:
    """The active leading channels: how many (static), or a mask bool [largest width, S, 1, 1, 1] (traced)."""
    if isinstance(choice, int):
        return widths[choice]
    # What makes each channel active: one comparison with the choice, where a width would have to be looked up first.
    least = [min(c for c, width in widths.items() if channel < width) for channel in range(max(widths.values()))]
    return (jnp.array(least)[:, None] <= choice)[..., None, None, None]


def apply_mask(x: jax.Array, width: int | jax.Array) -> jax.Array:
    """Zeroes the inactive channels; a static width has none."""
    return x if isinstance(width, int) else x * width.astype(x.dtype)


class Layer(nn.Module):
    """A module with parameters of known shapes."""

    @nn.nowrap
    def parameter(self, name: str, init: Callable[..., jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """`self.param`, which traces the initialiser for its shape again at each use: a tenth of all tracing."""
        value: jax.Array | None = self.get_variable("params", name)
        return value if value is not None and value.shape == shape else self.param(name, init, shape)


@jax.custom_vjp
def mix_channels(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """For kernel [c, d] and x [c, ...]: [d, ...], each output channel a weighted sum of the input channels.

    Its own gradient, because the automatic one asks for products whose results and operands are transposed, and
    XLA copies whole activations to give it those.
    """
    return _product(kernel, x, axis=0)


def _product(kernel, x, axis):
    """Along one axis of the kernel and the first of x; of matrices, because XLA copies a larger result with S = 1."""
    product = jnp.tensordot(kernel, x.reshape(len(x), -1), axes=(axis, 0))
    return product.reshape(-1, *x.shape[1:])


def _mix_channels_fwd(kernel, x):
    return mix_channels(kernel, x), (kernel, x)


def _mix_channels_bwd(residuals, dy):
    kernel, x = residuals
    dkernel = jnp.einsum("cp,dp->cd", x.reshape(x.shape[0], -1), dy.reshape(dy.shape[0], -1))
    return dkernel, _product(kernel, dy, axis=1)


mix_channels.defvjp(_mix_channels_fwd, _mix_channels_bwd)


class PointwiseConv(Layer):
    """1x1 convolution (a dense layer over the channels). He fan-out initialisation, biases 0.

    Attributes:
        in_channels, features: channels of the full kernel.
        use_bias: whether there is a bias.
        dtype: dtype of the computation; parameters are float32.
        kept: whether a loop over levels keeps the product for its backward pass; else it computes it again.
    """

    in_channels: int
    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = he_fan_out
    kept: bool = True

    def setup(self):
        self.kernel = self.parameter("kernel", self.kernel_init, (self.in_channels, self.features))
        if self.use_bias:
            self.bias = self.parameter("bias", nn.initializers.zeros, (self.features,))

    def __call__(self, x: jax.Array, width: int | jax.Array | None = None) -> jax.Array:
        """Maps [c, ...] to [d, ...], with c <= in_channels; d is `width` where that is an int, else features."""
        features = width if isinstance(width, int) else self.features
        kernel = self.kernel[: x.shape[0], :features].astype(self.dtype)
        y = mix_channels(kernel, x.astype(self.dtype))
        y = _keep(y) if self.kept else y
        return y + _along_channels(self.bias[:features].astype(self.dtype), y) if self.use_bias else y


class BatchNorm(Layer):
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
            y, mean, var = _normalise_by_batch(x, scale, bias, self.activation, self.axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                self._store("mean", mean)
                self._store("var", var)
        else:
            mean, var = (
                jnp.atleast_2d(self.get_variable("batch_stats", name))[:, :channels].T for name in ("mean", "var")
            )
            y = ACTIVATIONS[self.activation](_normalise(x, mean, lax.rsqrt(var + BATCH_NORM_EPSILON), scale, bias))
        return y.astype(self.dtype)

    def _store(self, name, value):
        if value.shape[1] == 1:
            value = value[:, 0]
            if value.shape[0] < self.features:
                value = self.get_variable("batch_stats", name).at[: value.shape[0]].set(value)
        else:
            value = value.T
        self.put_variable("batch_stats", name, value)


def _along_channels(values: jax.Array, x: jax.Array) -> jax.Array:
    """[C] or [C, S], spread over the further axes of `x`."""
    shape = (*values.shape, *x.shape[values.ndim :])
    return lax.broadcast_in_dim(values, shape, range(values.ndim))


def _over_devices(mean: jax.Array, axis_name: str | None) -> jax.Array:
    return lax.pmean(mean, axis_name) if axis_name else mean


def _average(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean of [C, S, H, W, B] over pixels, images and devices: [C, S]."""
    return _over_devices(jnp.mean(values, axis=(2, 3, 4)), axis_name)


def _normalise(x, mean, inverse_std, scale, bias):
    gain = scale[:, None] * inverse_std
    return x * _along_channels(gain, x) + _along_channels(bias[:, None] - mean * gain, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise_by_batch(x, scale, bias, activation, axis_name):
    """activation(batch norm of x), and the batch's mean and variance [C, S], which carry no gradient.

    Its own gradient, because what automatic differentiation keeps for the backward pass is several arrays of
    the size of x where x itself suffices; that halves a step's memory traffic and its compile time.
    """
    return _normalise_by_batch_fwd(x, scale, bias, activation, axis_name)[0]


def _normalise_by_batch_fwd(x, scale, bias, activation, axis_name):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _average(wide, axis_name)
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
    var = _average(jnp.square(wide - _along_channels(mean, x)), axis_name)
    mean, inverse_std = _kept(mean), _kept(lax.rsqrt(var + BATCH_NORM_EPSILON))
    y = ACTIVATIONS[activation](_normalise(wide, mean, inverse_std, scale, bias)).astype(x.dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse_std)


def _normalise_by_batch_bwd(activation, axis_name, residuals, cotangents):
    x, scale, bias, mean, inverse_std = residuals
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    unit = (wide - _along_channels(mean, x)) * _along_channels(inverse_std, x)
    z = unit * _along_channels(scale, x) + _along_channels(bias, x)
    dz = cotangents[0].astype(wide.dtype) * DERIVATIVES[activation](z)
    # [2 C, S]: as one array the two sums are one operation, and so is what follows from them.
    sums = jnp.sum(jnp.concatenate([dz, dz * unit]), axis=(2, 3, 4))
    through_mean, through_std = jnp.split(_over_devices(sums / math.prod(x.shape[2:]), axis_name), 2)
    dx = (dz - _along_channels(through_mean, x) - unit * _along_channels(through_std, x)) * _along_channels(
        scale[:, None] * inverse_std, x
    )
    dbias, dscale = jnp.split(jnp.sum(sums, axis=1), 2)
    return dx.astype(x.dtype), dscale, dbias


_normalise_by_batch.defvjp(_normalise_by_batch_fwd, _normalise_by_batch_bwd)


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
    """

    features: int
    kernel_size: int
    stride: int = 1
    elastic: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        k = self.kernel_size
        # Reference: fan-out counts k * k * features although each output channel reads one input channel.
        self.kernel = self.parameter("kernel", self._init_kernel, (k, k, self.features))
        if self.elastic:
            self.to_5 = self.parameter("matrix_7to5", _identity, (25, 25))
            self.to_3 = self.parameter("matrix_5to3", _identity, (9, 9))

    @staticmethod
    def _init_kernel(key, shape):
        k, _, features = shape
        return jnp.sqrt(2.0 / (k * k * features)) * jax.random.normal(key, shape)

    def __call__(self, x: jax.Array, choice: int | jax.Array | None = None) -> jax.Array:
        """Convolves [c, S or 1, H, W, B], c <= features, with the kernel chosen by an int or ints [S]."""
        kernel = jnp.moveaxis(self._chosen_kernel(choice, x.shape[0]), -1, 0)
        y = depthwise.depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return _keep(y)

    def _chosen_kernel(self, choice, channels):
        """[S, k, k, c]."""
        kernel = self.kernel[..., :channels]
        static = choice is None or isinstance(choice, int)
        if static and choice in (None, 7):
            return kernel[None]
        five = (self.to_5 @ kernel[1:6, 1:6].reshape(25, channels)).reshape(5, 5, channels)
        if static and choice == 5:
            return five[None]
        three = (self.to_3 @ five[1:4, 1:4].reshape(9, channels)).reshape(3, 3, channels)
        if static:
            return three[None]
        padded = {7: kernel}
        for small in (five, three):
            border = (7 - small.shape[0]) // 2
            padded[small.shape[0]] = depthwise.pad(small, border, axes=(0, 1))
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
        """Scales [c, S, H, W, B] channel by channel; `hidden` units are active (an int, or a mask)."""
        pooled = jnp.mean(x, axis=(2, 3), keepdims=True)
        units = apply_mask(nn.relu(self.reduce(pooled, hidden)), hidden)
        return x * h_sigmoid(self.expand(units, x.shape[0]))
