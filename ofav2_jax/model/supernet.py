"""The supernet: stages, the whole network, and the functions that run one or many of its subnets."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.model.blocks import ExitHead, Level, StemBlock, StemConv
from ofav2_jax.model.layers import KEPT, BatchNorm
from ofav2_jax.model.network import LEVELS_PER_STAGE, NUM_STAGES, STAGES, Channels, NetworkSpec, network_spec
from ofav2_jax.model.packing import ROWS
from ofav2_jax.model.space import Choices, SearchSpace, Subnet

Variables = Mapping[str, Any]

# In a loop over the levels of S subnets, what is cheap to compute again is not kept: a third less memory.
_remat = functools.partial(
    jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(KEPT)
)


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
        first = self.level_1(x, choices.at(self.index, 0), train)
        if self.is_initializing():
            self.levels_2_to_4(first)
        return self._following(first, choices, train)

    def _following(self, first, choices, train):
        """The stage's output from that of its first level: one loop over the others where the program allows it.

        A loop compiles one body instead of three. Static choices that differ from level to level cannot share
        a body; those levels run one after the other.
        """
        static = isinstance(choices, Subnet)
        depth = choices.depth[self.index] if static else choices.depth[:, self.index, None, None, None]
        levels = range(1, depth if static else LEVELS_PER_STAGE)
        module = Level(**self._level_shape(1), parent=None)
        variables = jax.tree.map(lambda v: v[: len(levels)], self.levels_2_to_4.variables)
        store = train and self.is_mutable_collection("batch_stats") and not self.is_initializing()
        mutable = ["batch_stats"] if store else []

        def body(carry, xs, choice):
            y, output = carry
            variables, level = xs
            if ROWS in variables["params"]:
                variables = {**variables, "params": variables["params"][ROWS].unpack()}
            if self.spec.dense_skips:
                y = y + first * (level == 3)
            y, stats = module.apply(variables, y, choice, train, mutable=mutable)
            # `output` is that of the stage once its depth is reached; until then y2, which the fourth level adds.
            candidate = y + first * (level >= 2) + output * (level == 3) if self.spec.dense_skips else y
            return (y, jnp.where((level == 1) | (depth == level + 1), candidate, output)), stats

        xs, start = (variables, jnp.arange(1, 1 + len(levels))), (first, first)
        if not static:
            looped = lambda carry, xs: body(carry, xs, choices.at(self.index, xs[1]))  # noqa: E731
            (_, output), stats = lax.scan(_remat(looped), start, xs)
        elif len(of_level := {choices.at(self.index, level) for level in levels}) == 1:
            looped = lambda carry, xs: body(carry, xs, *of_level)  # noqa: E731
            (_, output), stats = lax.scan(looped, start, xs)
        else:
            carry, results = start, []
            for i, level in enumerate(levels):
                of_one = jax.tree.map(lambda v, i=i: v[i], xs)
                carry, result = body(carry, of_one, choices.at(self.index, level))
                results.append(result)
            output = carry[1]
            stats = jax.tree.map(lambda *arrays: jnp.stack(arrays), *results)
        if store:
            self._store(stats["batch_stats"], len(levels))
        return output

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

        x = self.stem_bn(self.stem_conv(jnp.transpose(images, (3, 1, 2, 0))[:, None]), train)
        x = self.stem_block(x, train)
        logits = {}
        for stage in range(height):
            x = self.stages[stage](x, choices, train)
            if stage in self.exit_stages and (all_exits or not static or stage == height - 1):
                logits[stage + 1] = self.exits[str(stage)](x, train, keep, 1 - dropout_rate)

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
