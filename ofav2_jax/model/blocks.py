"""The parts of a supernet (Table I): the stem, the three parallel blocks, levels, exit heads."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofav2_jax.model import groups
from ofav2_jax.model.layers import BatchNorm, DepthwiseConv, Layer, PointwiseConv, SqueezeExcite, he_fan_out
from ofav2_jax.model.network import CHOICES, Block, middle_width, squeeze_width
from ofav2_jax.model.subnet import LevelChoice
from ofav2_jax.ops.activations import h_swish
from ofav2_jax.ops.choose import apply_mask, prefix
from ofav2_jax.ops.pointwise import mix_channels


class StemBlock(nn.Module):
    """Depthwise-separable block with a residual: the second row of Table I."""

    channels: int
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        bn = functools.partial(BatchNorm, self.channels, axis_name=self.axis_name, dtype=self.dtype)
        self.depthwise = DepthwiseConv(self.channels, kernel_size=3, dtype=self.dtype)
        self.depthwise_bn = bn("relu")
        self.project = PointwiseConv(self.channels, self.channels, dtype=self.dtype)
        self.project_bn = bn()

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.depthwise_bn(self.depthwise(x), train)
        return x + self.project_bn(self.project(y), train)


class StemConv(Layer):
    """3x3 convolution of stride 2, as one matrix product over the nine shifted images."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        channels, _, height, width, _ = images.shape
        kernel = self.parameter("kernel", he_fan_out, (3, 3, channels, self.features))
        padded = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [padded[:, :, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifts, axis=0).astype(self.dtype)
        return mix_channels(kernel.reshape(9 * channels, self.features).astype(self.dtype), patches)


class InvertedBottleneck(nn.Module):
    """Expand 1x1, depthwise k x k, squeeze-and-excitation where the stage has it, project 1x1 (Table I).

    Attributes:
        in_channels, channels: input and output channels.
        stride: stride of the depthwise convolution.
        activation: "relu" or "h_swish".
        squeeze_excite: whether there is an SE block.
        residual: whether the input is added to the output (every level but a stage's first).
        largest_expand: the expand ratio of the parameters.
    """

    in_channels: int
    channels: int
    stride: int
    activation: str
    squeeze_excite: bool
    residual: bool
    axis_name: str | None = None
    dtype: Any = jnp.float32
    largest_expand: int = max(CHOICES["expand"].values)

    def setup(self):
        # The active channels of the block and the active units of its SE for each expand ratio, computed once.
        self.widths = {expand: middle_width(self.in_channels, expand) for expand in CHOICES["expand"].values}
        self.hidden = {expand: squeeze_width(width) for expand, width in self.widths.items()}
        middle = middle_width(self.in_channels, self.largest_expand)
        bn = functools.partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        self.expand = PointwiseConv(self.in_channels, middle, dtype=self.dtype)
        self.expand_bn = bn(middle, self.activation)
        self.depthwise = DepthwiseConv(middle, kernel_size=7, stride=self.stride, elastic=True, dtype=self.dtype)
        self.depthwise_bn = bn(middle, self.activation)
        if self.squeeze_excite:
            self.se = SqueezeExcite(middle, max(self.hidden.values()), dtype=self.dtype)
        self.project = PointwiseConv(middle, self.channels, dtype=self.dtype)
        self.project_bn = bn(self.channels)

    def __call__(self, x: jax.Array, choice: LevelChoice, train: bool) -> jax.Array:
        stores = train and self.is_mutable_collection("batch_stats")
        if groups.pays(self, x, choice, train, stores) and not self.is_initializing():
            y, stats = groups.project_active(self.clone(parent=None), train, self.variables, x, choice)
            for name, of_norm in stats.items() if stores else ():
                self.put_variable("batch_stats", name, of_norm)
        else:
            y = self.masked(x, choice, train)
        y = self.project_bn(y, train)
        return x + y if self.residual else y

    def masked(self, x: jax.Array, choice: LevelChoice, train: bool) -> jax.Array:
        """The projection before its batch norm; where the choices are traced, of the widest expansion, masked."""
        width = prefix(choice.expand, self.widths)
        # One mask suffices here. Up to this point no middle channel reads another one, and an earlier mask would give
        # a batch norm channels of zeros.
        y = apply_mask(self.middle(x, choice.kernel, train, width), width)
        if self.squeeze_excite:
            y = self.se(y, prefix(choice.expand, self.hidden))
        return self.project(y)

    def middle(
        self, x: jax.Array, kernel: int | jax.Array, train: bool, width: int | jax.Array | None = None
    ) -> jax.Array:
        """The middle channels before squeeze-and-excitation: `width` of them where that is an int, else all."""
        y = self.expand_bn.of_product(self.expand.sliced_kernel(len(x), width), x, train)
        return self.depthwise_bn(self.depthwise(y, kernel), train)


class PointwiseBlock(nn.Module):
    """`Block.POINTWISE` of a parallel level: 1x1 convolution with the level's stride, BN, activation."""

    in_channels: int
    channels: int
    stride: int
    activation: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.conv = PointwiseConv(self.in_channels, self.channels, dtype=self.dtype)
        self.bn = BatchNorm(self.channels, self.activation, self.axis_name, self.dtype)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.bn(self.conv(x[:, :, :: self.stride, :: self.stride]), train)


class LightBlock(nn.Module):
    """`Block.LIGHT` of a parallel level: max-pool, 1x1 convolution with bias, BN, activation.

    The max-pool is there only if the stride is above 1, the convolution only if the number of channels changes.
    """

    in_channels: int
    channels: int
    stride: int
    activation: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        if self.in_channels != self.channels:
            self.conv = PointwiseConv(self.in_channels, self.channels, use_bias=True, dtype=self.dtype)
        self.bn = BatchNorm(self.channels, self.activation, self.axis_name, self.dtype)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _max_pool(x, self.stride) if self.stride > 1 else x
        y = self.conv(y) if self.in_channels != self.channels else y
        return self.bn(y, train)


def _max_pool(x: jax.Array, window: int) -> jax.Array:
    """Non-overlapping max-pool of [C, S, H, W, B] in ceil mode: an incomplete last window counts."""
    channels, s, height, width, batch = x.shape
    rows, columns = -(-height // window), -(-width // window)
    pads = ((0, 0), (0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf).reshape(channels, s, rows, window, columns, window, batch)
    pixels = [x[:, :, :, i, :, j] for i in range(window) for j in range(window)]
    # Not jnp.max: its gradient counts the pixels equal to the maximum and divides by their number. That is 0, and the
    # gradient NaN, where the compiler recomputes a pixel for the comparison and rounds it differently.
    return functools.reduce(lambda first, second: jnp.where(second > first, second, first), pixels)


class Level(nn.Module):
    """One level: an inverted bottleneck or, in parallel networks, the sum of the blocks in the level code."""

    parallel: bool
    in_channels: int
    channels: int
    stride: int
    activation: str
    squeeze_excite: bool
    residual: bool
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        shape = dict(
            in_channels=self.in_channels,
            channels=self.channels,
            stride=self.stride,
            activation=self.activation,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        self.inverted_bottleneck = InvertedBottleneck(
            **shape, squeeze_excite=self.squeeze_excite, residual=self.residual
        )
        if self.parallel:
            self.pointwise = PointwiseBlock(**shape)
            self.light = LightBlock(**shape)

    def __call__(self, x: jax.Array, choice: LevelChoice, train: bool) -> jax.Array:
        if not self.parallel:
            return self.inverted_bottleneck(x, choice, train)
        outputs = {
            Block.BOTTLENECK: lambda: self.inverted_bottleneck(x, choice, train),
            Block.POINTWISE: lambda: self.pointwise(x, train),
            Block.LIGHT: lambda: self.light(x, train),
        }
        if isinstance(choice.level, int):
            return sum(output() for block, output in outputs.items() if choice.level & block)

        def is_active(block):
            return (choice.level & int(block) > 0).astype(self.dtype)[:, None, None, None]

        return sum(is_active(block) * output() for block, output in outputs.items())


class ExitHead(nn.Module):
    """1x1 convolution, BN, h-swish, global mean, dense mix, h-swish, dropout, classifier (Table I's tail)."""

    in_channels: int
    widths: tuple[int, int]
    num_classes: int
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        expanded, mixed = self.widths
        self.expand = PointwiseConv(self.in_channels, expanded, dtype=self.dtype)
        self.expand_bn = BatchNorm(expanded, "h_swish", self.axis_name, self.dtype)
        self.mix = PointwiseConv(expanded, mixed, dtype=self.dtype)
        # Uniform within 1 / sqrt(in), which has variance 1 / (3 in).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.classifier = PointwiseConv(mixed, self.num_classes, True, self._wide, kernel_init=uniform)

    @property
    def _wide(self):
        # The classifier computes in float32: logits rounded to bfloat16 are equal too often.
        return jnp.promote_types(self.dtype, jnp.float32)

    @nn.nowrap
    def result(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the logits for a stage's output `x`."""
        return jax.ShapeDtypeStruct((self.num_classes, x.shape[1], x.shape[-1]), self._wide)

    def __call__(self, x: jax.Array, train: bool, keep: jax.Array | None, keep_rate: float) -> jax.Array:
        """Classifies a stage's output.

        Args:
            x: float [C, S, H, W, B].
            train: whether batch norm uses the batch's statistics instead of the stored ones.
            keep: bool [mixed width or more, S, B], the features that dropout keeps; None: all.
            keep_rate: the probability of keeping a feature, in (0, 1].

        Returns:
            Logits [classes, S, B], float32 or wider.
        """
        y = self.expand_bn.of_product(self.expand.sliced_kernel(len(x)), x, train)
        y = h_swish(self.mix(jnp.mean(y, axis=(2, 3))))
        if keep is not None:
            y = jnp.where(keep[: y.shape[0]], y / keep_rate, 0)
        return self.classifier(y)
