"""The supernet: Table I's body and exits as one module that runs a static subnet or S traced ones."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ofav2_jax.checks import plain, refuse, require_among, shown
from ofav2_jax.model.blocks import ExitHead, StemBlock, StemConv
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.layers import BatchNorm
from ofav2_jax.model.network import EXIT_WIDTHS, NUM_STAGES, Channels, NetworkSpec, network_spec
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.stage import Stage, UnpackLevel
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.ops.backend import one_at_a_time
from ofav2_jax.ops.choose import run_if

Variables = Mapping[str, Any]


class SuperNet(nn.Module):
    """The OFAv2 supernet: Table I's MobileNetV3-like body as one of the eight networks of Table II.

    `init(key, images, subnet)` creates the variables of the whole supernet, whichever subnet is given.

    Attributes:
        network: a name of Table II: ofa_mbv3, se_d, se_p, se_dp, ee_b, ee_d, ee_p or ee_dp.
        width_multiplier: factor > 0 of all channel counts; the paper's are 1.0 and 1.2.
        num_classes: classes, at least 2.
        dtype: dtype of activations; parameters and BN statistics are float32.
        axis_name: pmap axis over which a training batch is sharded, for the statistics of batch norm; None: no axis.
        exit_widths: "ofav2", or "ofa" for the widths of Once-For-All's own networks, which differ where the width
            multiplier is not 1.

    Raises:
        ValueError: at construction, for an unknown network or a number out of range.
    """

    network: str
    width_multiplier: float = 1.0
    num_classes: int = 200
    dtype: Any = jnp.float32
    axis_name: str | None = None
    exit_widths: str = EXIT_WIDTHS[0]

    def __post_init__(self):
        network_spec(self.network)
        require_among("exit_widths", self.exit_widths, EXIT_WIDTHS)
        for field in ("width_multiplier", "num_classes"):
            object.__setattr__(self, field, plain(getattr(self, field)))
        number = isinstance(self.width_multiplier, int | float) and not isinstance(self.width_multiplier, bool)
        if not number or not 0 < self.width_multiplier < math.inf:
            raise ValueError(f"width_multiplier={shown(self.width_multiplier)} is not allowed: it must be a number > 0")
        if type(self.num_classes) is not int or self.num_classes < 2:
            raise ValueError(f"num_classes={shown(self.num_classes)} is not allowed: it must be an int of at least 2")
        super().__post_init__()

    @property
    def spec(self) -> NetworkSpec:
        return network_spec(self.network)

    @property
    def channels(self) -> Channels:
        return Channels.at(self.width_multiplier, self.exit_widths)

    @property
    def exit_stages(self) -> range:
        """The stages (from 0) after which there is an exit."""
        return range(NUM_STAGES) if self.spec.early_exits else range(NUM_STAGES - 1, NUM_STAGES)

    @nn.nowrap
    def init(self, rngs: Any, images: jax.Array, choices: Subnet) -> dict[str, Any]:  # type: ignore[override]
        """Creates the variables in one compiled program; operation by operation it would take four times as long.

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
        # Outside of `pmap` there is no axis of devices to average over.
        return _init(self.clone(axis_name=None), rngs, images[:1], choices)

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
        all_exits: bool | tuple[int, ...] = False,
        dropout_rate: float = 0.0,
        dropout_keys: jax.Array | None = None,
        unpack_level: UnpackLevel | None = None,
    ) -> jax.Array:
        """Runs one static subnet or S traced ones.

        Args:
            images: float [B, H, W, 3], normalised.
            choices: a `Subnet`, whose weights are sliced, or `Choices` of S subnets, whose channels are masked.
            train: whether batch norm uses the batch's statistics instead of the stored ones.
            all_exits: whether every exit is evaluated; the height is then ignored. For a static subnet also the stages,
                in ascending order, after which exits are evaluated.
            dropout_rate: in [0, 1); only used where `dropout_keys` are given.
            dropout_keys: typed PRNG keys [S, B] (S = 1 for a static subnet), one per subnet and image.
            unpack_level: unpacks the stacked levels of packed parameters, see `stage.UnpackLevel`; None: the parameters
                are not packed.

        Returns:
            float32 (or wider) logits: [B, classes] for a Subnet, [S, B, classes] for Choices, with a leading
            axis over the exits if `all_exits`.
        """
        static = isinstance(choices, Subnet)
        if self.is_initializing():
            choices, all_exits = Subnet.uniform(), True
        some_exits = all_exits if isinstance(all_exits, tuple) else ()
        height = choices.height if static and not all_exits else max(some_exits, default=NUM_STAGES)
        keep = None
        if dropout_keys is not None and dropout_rate > 0:
            keep = self._dropout_mask(dropout_keys, 1 - dropout_rate)

        x = self.stem_bn(self.stem_conv(jnp.transpose(images, (3, 1, 2, 0))[:, None]), train)
        x = self.stem_block(x, train)
        logits = {}
        own_exit: Any = None
        # What is skipped has no statistics to store.
        may_skip = self.spec.early_exits and not all_exits and not self.is_mutable_collection("batch_stats")
        if may_skip and isinstance(choices, Choices) and choices.num_subnets == 1 and one_at_a_time():
            own_exit = choices.height[0]
        for stage in range(height):
            run = functools.partial(self.stages[stage], choices=choices, train=train, unpack_level=unpack_level)
            is_below_exit = stage == 0 or own_exit is None or own_exit > stage
            x = run_if(f"if_stage_{stage + 1}_is_reached", is_below_exit, run, self.stages[stage].result(x), x)
            is_asked = stage + 1 in some_exits if some_exits else all_exits or not static or stage == height - 1
            if stage in self.exit_stages and is_asked:
                head = functools.partial(self.exits[str(stage)], train=train, keep=keep, keep_rate=1 - dropout_rate)
                is_own_exit = own_exit is None or own_exit == stage + 1
                logits[stage + 1] = run_if(
                    f"if_exit_{stage + 1}_is_own", is_own_exit, head, self.exits[str(stage)].result(x), x
                )

        if all_exits:
            result = jnp.stack(list(logits.values()))
        else:
            result = logits[height] if isinstance(choices, Subnet) else _pick_subnets(choices.height, logits)
        # [..., classes, S, B]
        result = jnp.moveaxis(result, -3, -1)
        return result[..., 0, :, :] if static else result

    def _dropout_mask(self, keys, keep_rate):
        """The features that the exits keep, bool [features, S, B]; each exit uses the leading ones."""
        shape = (max(self.channels.exits[stage][1] for stage in self.exit_stages),)
        draw = functools.partial(jax.random.bernoulli, p=keep_rate, shape=shape)
        return jnp.moveaxis(jax.vmap(jax.vmap(draw))(keys), -1, 0)


def check_images(images: jax.Array) -> None:
    """Requires a batch of images.

    Raises:
        ValueError: unless `images` is an array [B, H, W, 3] with B >= 1.
    """
    if not hasattr(images, "ndim"):
        raise ValueError(f"images is a {type(images).__name__}, which is not allowed: it must be an array [B, H, W, 3]")
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}, which is not allowed: they must be [B, H, W, 3]")
    if images.shape[-1] != 3:
        raise ValueError(f"images have {images.shape[-1]} channels, which is not allowed: they must be [B, H, W, 3]")
    if not len(images):
        raise ValueError(f"images have shape {images.shape}, which is not allowed: there must be at least one")


def check_params(net: SuperNet, variables: Any) -> None:
    """Requires variables with the parameters of a supernet, as far as the names of its parts say.

    Raises:
        ValueError: unless `net` is a supernet and `variables` a mapping with "params" that lack no part of it.
    """
    if not isinstance(net, SuperNet):
        refuse("net", net, "a SuperNet")
    if not isinstance(variables, Mapping):
        kind = type(variables).__name__
        raise ValueError(
            f"variables is a {kind}, which is not allowed: it must be a mapping with params and batch_stats"
        )
    if "params" not in variables:
        keys = ", ".join(map(str, variables))
        raise ValueError(f"variables has no params: it must be a mapping with params and batch_stats, not with {keys}")
    params = variables["params"]
    stages = (f"stage_{stage + 1}" for stage in range(NUM_STAGES))
    parts = ("stem_conv", "stem_bn", "stem_block", *stages, *(f"exit_{stage + 1}" for stage in net.exit_stages))
    missing = [part for part in parts if not isinstance(params, Mapping) or part not in params]
    if missing:
        raise ValueError(f"variables['params'] are not those of network={net.network!r}: {', '.join(missing)} missing")


@functools.partial(jax.jit, static_argnames=("net", "subnet"))
def _init(net, rngs, images, subnet):
    return nn.Module.init(net, rngs, images, subnet)


def variable_shapes(net: SuperNet) -> dict[str, Any]:
    """Shapes and dtypes of the variables of `net`, without creating any.

    Returns:
        {"params", "batch_stats"} with a `jax.ShapeDtypeStruct` for every array.
    """

    def init(key):
        return net.init(key, jnp.zeros((1, 32, 32, 3)), Subnet.uniform())

    return jax.eval_shape(init, jax.random.key(0))


def neutral_statistics(net: SuperNet) -> dict[str, Any]:
    """`batch_stats` of a network that was just initialised: mean 0, variance 1."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (jnp.zeros if path[-1].key == "mean" else jnp.ones)(leaf.shape, leaf.dtype),
        variable_shapes(net)["batch_stats"],
    )


def _pick_subnets(choice: jax.Array, options: dict[int, jax.Array]) -> jax.Array:
    """Picks for each subnet its own option by `choice` [S]; the options are [C, S, ...] of one shape."""
    keys = list(options)
    result = options[keys[0]]
    for key in keys[1:]:
        result = jnp.where((choice == key).reshape(-1, *(1,) * (result.ndim - 2)), options[key], result)
    return result
