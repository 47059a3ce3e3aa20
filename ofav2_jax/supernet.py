"""The supernet: blocks, levels, stages, exits, and the functions that run one or many of its subnets."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.layers import (
    BatchNorm,
    DepthwiseConv,
    PointwiseConv,
    SqueezeExcite,
    apply_mask,
    h_swish,
    prefix,
)
from ofav2_jax.network import (
    LEVELS_PER_STAGE,
    NUM_STAGES,
    STAGES,
    Channels,
    NetworkSpec,
    middle_width,
    network_spec,
    squeeze_width,
)
from ofav2_jax.space import ALLOWED, Choices, LevelChoice, SearchSpace, Subnet

Variables = Mapping[str, Any]


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


class StemConv(nn.Module):
    """3x3 convolution of stride 2, as one matrix product over the nine shifted images."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        channels, _, _, height, width = images.shape
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (3, 3, channels, self.features))
        padded = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
        shifts = [padded[..., i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifts, axis=0).astype(self.dtype)
        return jnp.tensordot(kernel.reshape(9 * channels, self.features).astype(self.dtype), patches, axes=(0, 0))


class InvertedBottleneck(nn.Module):
    """Expand 1x1, depthwise k x k, squeeze-and-excitation where the stage has it, project 1x1 (Table I).

    Attributes:
        in_channels, channels: input and output channels.
        stride: of the depthwise convolution.
        activation: "relu" or "h_swish".
        squeeze_excite: whether there is an SE block.
        residual: whether the input is added to the output (every level but a stage's first).
    """

    in_channels: int
    channels: int
    stride: int
    activation: str
    squeeze_excite: bool
    residual: bool
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        # Set here and not per call: what each expand ratio makes active, in the block and in its SE.
        self.widths = {expand: middle_width(self.in_channels, expand) for expand in ALLOWED["expand"]}
        self.hidden = {expand: squeeze_width(width) for expand, width in self.widths.items()}
        middle = max(self.widths.values())
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
        width = prefix(choice.expand, self.widths)
        y = self.expand_bn(self.expand(x, width), train)
        y = self.depthwise_bn(self.depthwise(y, choice.kernel), train)
        # One mask suffices, here: up to this point no channel reads another one, and masking earlier would
        # show a batch norm a channel of zeros.
        y = apply_mask(y, width)
        if self.squeeze_excite:
            y = self.se(y, prefix(choice.expand, self.hidden))
        y = self.project_bn(self.project(y), train)
        return x + y if self.residual else y


class PointwiseBlock(nn.Module):
    """1x1 convolution with the level's stride, BN, activation: bit 2 of a parallel level."""

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
        return self.bn(self.conv(x[..., :: self.stride, :: self.stride]), train)


class LightBlock(nn.Module):
    """Max-pool where there is a stride, 1x1 convolution with bias where channels change, BN, activation: bit 1."""

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
    """Non-overlapping max-pool of [..., H, W] in ceil mode: an incomplete last window counts."""
    height, width = x.shape[-2:]
    pads = [(0, 0)] * (x.ndim - 2) + [(0, -height % window), (0, -width % window)]
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    rows, columns = (size // window for size in x.shape[-2:])
    x = x.reshape(*x.shape[:-2], rows, window, columns, window)
    pixels = [x[..., i, :, j] for i in range(window) for j in range(window)]
    # Not jnp.max: its gradient counts the pixels equal to the maximum and divides by that. The count is 0, and
    # the gradient NaN, where the compiler computes a pixel once more for the comparison and rounds differently.
    return functools.reduce(lambda first, second: jnp.where(second > first, second, first), pixels)


class Level(nn.Module):
    """One level: an inverted bottleneck or, in parallel networks, the sum of the blocks that the code names."""

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
        blocks = {4: lambda: self.inverted_bottleneck(x, choice, train)}
        if not self.parallel:
            return blocks[4]()
        blocks |= {2: lambda: self.pointwise(x, train), 1: lambda: self.light(x, train)}
        if isinstance(choice.level, int):
            return sum(block() for bit, block in blocks.items() if choice.level & bit)

        def active(bit):
            return (choice.level & bit > 0).astype(self.dtype)[:, None, None, None]

        return sum(active(bit) * block() for bit, block in blocks.items())


class _CreatedLevel(Level):
    """A level that is only ever called to create its variables, as the maximal subnet does."""

    def __call__(self, x):
        return super().__call__(x, Subnet.uniform().at(0, 0), True)


class Stage(nn.Module):
    """Four levels, the first d of which are active, with dense skips (D) or without.

    Dense skips, with y_i the output of level i: the fourth level reads y3 + y1, and the stage's output is y2,
    y3 + y1 or y4 + y1 + y2 for depth 2, 3 or 4.
    """

    index: int
    spec: NetworkSpec
    channels: Channels
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.level_1 = Level(**self._level_shape(0))
        # Levels 2 to 4 have equal shapes; their variables are stacked on a leading axis.
        alike = nn.vmap(
            _CreatedLevel,
            in_axes=None,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            axis_size=LEVELS_PER_STAGE - 1,
        )
        self.levels_2_to_4 = alike(**self._level_shape(1))

    def _level_shape(self, level):
        stage = STAGES[self.index]
        return dict(
            parallel=self.spec.parallel,
            in_channels=self.channels.level_input(self.index, level),
            channels=self.channels.stages[self.index],
            stride=1 if level else stage.stride,
            activation=stage.activation,
            squeeze_excite=stage.squeeze_excite,
            residual=level > 0,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )

    def __call__(self, x: jax.Array, choices: Subnet | Choices, train: bool) -> jax.Array:
        depth = choices.depth[self.index] if isinstance(choices, Subnet) else choices.depth[:, self.index]
        num_levels = depth if isinstance(depth, int) else LEVELS_PER_STAGE
        of_level = [choices.at(self.index, level) for level in range(num_levels)]
        first = self.level_1(x, of_level[0], train)
        if self.is_initializing():
            self.levels_2_to_4(first)
        y = [first, *self._following(first, of_level[1:], train)]
        outputs = {d: self._output(y, d) for d in ALLOWED["depth"] if d <= num_levels}
        return outputs[depth] if isinstance(depth, int) else _pick_subnets(depth, outputs)

    def _output(self, y, depth):
        if not self.spec.dense_skips or depth == 2:
            return y[depth - 1]
        return y[2] + y[0] if depth == 3 else y[3] + y[0] + y[1]

    def _following(self, first, of_level, train):
        """Outputs of levels 2, 3, ...: one loop over the stacked variables where the program allows it.

        A loop compiles one body instead of three. Static choices that differ from level to level cannot share
        a body; those levels run one after the other.
        """
        level = Level(**self._level_shape(1), parent=None)
        variables = jax.tree.map(lambda v: v[: len(of_level)], self.levels_2_to_4.variables)
        is_fourth = jnp.arange(1, 1 + len(of_level)) == 3
        store = train and self.is_mutable_collection("batch_stats") and not self.is_initializing()
        mutable = ["batch_stats"] if store else []

        def run(y, variables, choice, is_fourth):
            if self.spec.dense_skips:
                y = y + is_fourth.astype(y.dtype) * first
            return level.apply(variables, y, choice, train, mutable=mutable)

        def body(y, xs):
            y, stats = run(y, *xs)
            return y, (y, stats)

        if not isinstance(of_level[0].kernel, int):
            stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *of_level)
            _, (outputs, stats) = lax.scan(body, first, (variables, stacked, is_fourth))
        elif len(set(of_level)) == 1:
            static_body = lambda y, xs: body(y, (xs[0], of_level[0], xs[1]))  # noqa: E731
            _, (outputs, stats) = lax.scan(static_body, first, (variables, is_fourth))
        else:
            results = []
            y = first
            for i, choice in enumerate(of_level):
                y, result = body(y, (jax.tree.map(lambda v, i=i: v[i], variables), choice, is_fourth[i]))
                results.append(result)
            outputs, stats = jax.tree.map(lambda *arrays: jnp.stack(arrays), *results)
        if store:
            self._store(stats["batch_stats"], len(of_level))
        return list(outputs)

    def _store(self, stats, num_levels):
        if num_levels < LEVELS_PER_STAGE - 1:
            # The levels beyond a static subnet's depth keep what they have.
            old = self.levels_2_to_4.variables["batch_stats"]
            stats = jax.tree.map(lambda new, old: jnp.concatenate([new, old[num_levels:]]), stats, old)
        for name, values in stats.items():
            self.levels_2_to_4.put_variable("batch_stats", name, values)


def _pick_subnets(choice: jax.Array, options: dict[int, jax.Array]) -> jax.Array:
    """For each subnet the option that it chose; options are [C, S, ...] of one shape, choice is [S]."""
    keys = list(options)
    result = options[keys[0]]
    for key in keys[1:]:
        result = jnp.where((choice == key).reshape(-1, *(1,) * (result.ndim - 2)), options[key], result)
    return result


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
        # variance 1 / (3 in) is uniform within 1 / sqrt(in)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.classifier = PointwiseConv(mixed, self.num_classes, True, self.dtype, kernel_init=uniform)

    def __call__(self, x: jax.Array, train: bool, keep: jax.Array | None, keep_rate: float) -> jax.Array:
        """Logits [classes, S, B]; `keep` [at least the mixed width, S, B] says which features dropout keeps."""
        y = self.expand_bn(self.expand(x), train)
        y = h_swish(self.mix(jnp.mean(y, axis=(3, 4))))
        if keep is not None:
            y = jnp.where(keep[: y.shape[0]], y / keep_rate, 0)
        return self.classifier(y)


class SuperNet(nn.Module):
    """The OFAv2 supernet: Table I's MobileNetV3-like body as one of the eight networks of Table II.

    `init(key, images, subnet)` creates the variables of the whole supernet, whichever subnet is named.

    Attributes:
        network: a name of Table II: ofa_mbv3, se_d, se_p, se_dp, ee_b, ee_d, ee_p or ee_dp.
        width_multiplier: factor > 0 of all channel counts; the paper's are 1.0 and 1.2.
        num_classes: classes, at least 2.
        dtype: dtype of activations; parameters and BN statistics are float32.
        axis_name: pmap axis over which a training batch is spread, for the statistics of batch norm.

    Raises:
        ValueError: at construction, for an unknown network or a number out of range.
    """

    network: str
    width_multiplier: float = 1.0
    num_classes: int = 200
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        network_spec(self.network)
        number = isinstance(self.width_multiplier, int | float) and not isinstance(self.width_multiplier, bool)
        if not number or not 0 < self.width_multiplier < math.inf:
            raise ValueError(f"width_multiplier={self.width_multiplier!r} is not allowed: it must be a number > 0")
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes!r} is not allowed: it must be an int of at least 2")
        super().__post_init__()

    @property
    def spec(self) -> NetworkSpec:
        return network_spec(self.network)

    @property
    def channels(self) -> Channels:
        return Channels.at(self.width_multiplier)

    @property
    def exit_stages(self) -> range:
        """The stages (from 0) after which there is an exit."""
        return range(NUM_STAGES) if self.spec.early_exits else range(NUM_STAGES - 1, NUM_STAGES)

    @nn.nowrap
    def init(self, rngs: Any, images: jax.Array, choices: Subnet) -> dict[str, Any]:  # type: ignore[override]
        """Creates the variables, as one compiled program: operation by operation it takes four times as long.

        Args:
            rngs: a PRNG key.
            images: float [B, H, W, 3]; only their number of channels matters.
            choices: any subnet that the network holds.

        Returns:
            {"params", "batch_stats"}.

        Raises:
            ValueError: for images of another shape or a subnet that the network does not hold.
        """
        check_images(images)
        SearchSpace(self).check(choices)
        return _init(self, rngs, images[:1], choices)

    def setup(self):
        channels, common = self.channels, dict(axis_name=self.axis_name, dtype=self.dtype)
        self.stem_conv = StemConv(channels.stem, self.dtype)
        self.stem_bn = BatchNorm(channels.stem, "h_swish", **common)
        self.stem_block = StemBlock(channels.stem, **common)
        self.stages = [
            Stage(index, self.spec, channels, **common, name=f"stage_{index + 1}") for index in range(NUM_STAGES)
        ]
        self.exits = {
            str(stage): ExitHead(
                channels.stages[stage], channels.exits[stage], self.num_classes, **common, name=f"exit_{stage + 1}"
            )
            for stage in self.exit_stages
        }

    def __call__(
        self,
        images: jax.Array,
        choices: Subnet | Choices,
        *,
        train: bool = False,
        all_exits: bool = False,
        dropout_rate: float = 0.0,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Runs one static subnet or S traced ones.

        Args:
            images: float [B, H, W, 3], normalised.
            choices: a `Subnet`, whose weights are sliced, or `Choices` of S subnets, whose channels are masked.
            train: whether batch norm uses the batch's statistics instead of the stored ones.
            all_exits: whether every exit is evaluated; the height is then ignored.
            dropout_rate: in [0, 1); only used where `dropout_keys` are given.
            dropout_keys: typed PRNG keys [S, B] (S = 1 for a static subnet), one per subnet and image.

        Returns:
            float32 (or wider) logits: [B, classes] for a Subnet, [S, B, classes] for Choices, with a leading
            axis over the exits if `all_exits`.
        """
        static = isinstance(choices, Subnet)
        if self.is_initializing():
            choices, all_exits = Subnet.uniform(), True
        height = NUM_STAGES if all_exits or not static else choices.height
        keep = None
        if dropout_keys is not None and dropout_rate > 0:
            # One draw for all exits: each takes the leading features.
            shape = (max(self.channels.exits[stage][1] for stage in self.exit_stages),)
            draw = functools.partial(jax.random.bernoulli, p=1 - dropout_rate, shape=shape)
            keep = jnp.moveaxis(jax.vmap(jax.vmap(draw))(dropout_keys), -1, 0)

        x = self.stem_bn(self.stem_conv(jnp.moveaxis(images, -1, 0)[:, None]), train)
        x = self.stem_block(x, train)
        logits = {}
        for stage in range(height):
            x = self.stages[stage](x, choices, train)
            if stage in self.exit_stages and (all_exits or not static or stage == height - 1):
                y = self.exits[str(stage)](x, train, keep, 1 - dropout_rate)
                logits[stage + 1] = y.astype(jnp.promote_types(y.dtype, jnp.float32))

        if all_exits:
            result = jnp.stack(list(logits.values()))
        else:
            result = logits[height] if isinstance(choices, Subnet) else _pick_subnets(choices.height, logits)
        # [..., classes, S, B]
        result = jnp.moveaxis(result, -3, -1)
        return result[..., 0, :, :] if static else result


def check_images(images: jax.Array) -> None:
    """Refuses what is no batch of images.

    Raises:
        ValueError: unless `images` is [B, H, W, 3].
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}, which is not allowed: they must be [B, H, W, 3]")
    if images.shape[-1] != 3:
        raise ValueError(f"images have {images.shape[-1]} channels, which is not allowed: they must be [B, H, W, 3]")


@functools.partial(jax.jit, static_argnames=("net", "subnet"))
def _init(net, rngs, images, subnet):
    return nn.Module.init(net, rngs, images, subnet)


@functools.partial(jax.jit, static_argnames=("net", "subnet", "train", "all_exits"))
def _apply_static(net, variables, images, subnet, train, all_exits):
    return net.apply(variables, images, subnet, train=train, all_exits=all_exits)


@functools.partial(jax.jit, static_argnames=("net", "train"))
def _apply_traced(net, variables, images, choices, train):
    return net.apply(variables, images, choices, train=train)


@functools.partial(jax.jit, static_argnames=("net", "subnet"))
def _batch_statistics(net, variables, images, subnet):
    _, updated = net.apply(variables, images, subnet, train=True, mutable=["batch_stats"])
    return updated["batch_stats"]


def forward(net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False) -> jax.Array:
    """Logits of one subnet, in a program that contains this subnet and nothing else.

    Args:
        net: the supernet (static).
        variables: {"params", "batch_stats"} of the supernet.
        images: float [B, H, W, 3], normalised.
        subnet: which subnet (static: another one compiles another program).
        train: use the batch's own statistics instead of `batch_stats` (static).

    Returns:
        float32 [B, classes].

    Raises:
        ValueError: for images of another shape or a subnet that `net` does not hold.
    """
    check_images(images)
    SearchSpace(net).check(subnet)
    return _apply_static(net, variables, images, subnet, train, False)


def forward_exits(
    net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False
) -> jax.Array:
    """Logits of every exit of an early-exit network, with `subnet`'s choices in the body; like `forward`.

    Returns:
        float32 [5, B, classes], the first exit first.

    Raises:
        ValueError: also if `net` has a single exit.
    """
    check_images(images)
    SearchSpace(net).check(subnet)
    if not net.spec.early_exits:
        raise ValueError(f"network={net.network!r} has a single exit: use forward")
    return _apply_static(net, variables, images, subnet, train, True)


def forward_masked(
    net: SuperNet, variables: Variables, images: jax.Array, subnets: Sequence[Subnet], train: bool = False
) -> jax.Array:
    """Logits of S subnets, in one program that serves any S subnets.

    Args:
        net: the supernet (static).
        variables: as for `forward`; entries of `batch_stats` may also be [S, C], one row per subnet.
        images: float [B, H, W, 3], normalised, shared by all subnets.
        subnets: S subnets (traced: other ones compile nothing).
        train: use the batch's own statistics, of each subnet, instead of `batch_stats` (static).

    Returns:
        float32 [S, B, classes].
    """
    check_images(images)
    for subnet in subnets:
        SearchSpace(net).check(subnet)
    return _apply_traced(net, variables, images, Choices.stack(subnets), train)


def recalibrate(net: SuperNet, variables: Variables, batches: Iterable[jax.Array], subnet: Subnet) -> dict[str, Any]:
    """Recomputes the batch-norm statistics of one subnet.

    Args:
        net: the supernet.
        variables: its variables.
        batches: image batches float [B, H, W, 3]; their sizes may differ.
        subnet: whose statistics; those of inactive channels and layers stay as they are.

    Returns:
        `variables` with the means over the batches, weighted by their sizes, of batch mean and biased batch
        variance.

    Raises:
        ValueError: if there is no batch, or for images or a subnet that `forward` would refuse.
    """
    SearchSpace(net).check(subnet)
    total, num_images = None, 0
    for images in batches:
        check_images(images)
        weight = len(images)
        stats = jax.tree.map(lambda v: v * weight, _batch_statistics(net, variables, images, subnet))  # noqa: B023
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
        num_images += weight
    if total is None:
        raise ValueError("batches is empty: give at least one batch of images")
    return {**variables, "batch_stats": jax.tree.map(lambda v: v / num_images, total)}
