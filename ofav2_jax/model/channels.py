"""The supernet's channels: sorting them by importance, and counting parameters and multiply-accumulates."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax.model.network import (
    NUM_STAGES,
    STAGES,
    Channels,
    middle_width,
    squeeze_width,
)
from ofav2_jax.model.space import SearchSpace, Subnet
from ofav2_jax.model.supernet import SuperNet, Variables

_IMAGE_CHANNELS = 3
# The second width phase keeps apart the channels that the first one made optional.
_KEPT_EXPAND = {1: None, 2: 4}


def variable_shapes(net: SuperNet) -> dict[str, Any]:
    """Shapes and dtypes of the variables of `net`, without creating any.

    Returns:
        {"params", "batch_stats"} with a `jax.ShapeDtypeStruct` for every array.
    """

    def init(key):
        return net.init(key, jnp.zeros((1, 32, 32, _IMAGE_CHANNELS)), Subnet.uniform())

    return jax.eval_shape(init, jax.random.key(0))


def num_parameters(net: SuperNet) -> int:
    """Parameters of the whole supernet, all exits and kernel-transform matrices included."""
    return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(net)["params"]))


# --- sorting --------------------------------------------------------------------------------------------------


def sort_channels(net: SuperNet, variables: Variables, width_phase: int) -> dict[str, Any]:
    """Puts the middle channels of every inverted bottleneck in descending order of importance.

    Narrow subnets take the leading channels, so that a width phase starts with this (Once-For-All, section 3.2).
    A channel's importance is the L1 norm of the project convolution's weights that read it. The hidden units of
    squeeze-and-excitation follow, by the L1 norm of the expand weights that read them, in either phase as a
    whole. The function of the maximal network stays as it is.

    Args:
        net: the supernet.
        variables: its {"params", "batch_stats"}.
        width_phase: 1 sorts all channels. 2 sorts the channels within the width of expand ratio 4 and those
            beyond it, which stay behind, each by themselves.

    Returns:
        `variables` with permuted channels, batch-norm statistics included.

    Raises:
        ValueError: if `width_phase` is not 1 or 2.
    """
    if type(width_phase) is not int or width_phase not in _KEPT_EXPAND:
        raise ValueError(f"width_phase={width_phase!r} is not allowed: it must be 1 or 2")
    expand = _KEPT_EXPAND[width_phase]
    sorted_variables = {name: dict(variables[name]) for name in ("params", "batch_stats")}
    for stage in range(NUM_STAGES):
        name = f"stage_{stage + 1}"
        params, stats = dict(variables["params"][name]), dict(variables["batch_stats"][name])
        for first_level, part, sort in ((0, "level_1", _sort_block), (1, "levels_2_to_4", _sort_stacked_blocks)):
            in_channels = net.channels.level_input(stage, first_level)
            boundary = 0 if expand is None else middle_width(in_channels, expand)
            block, block_stats = sort(params[part]["inverted_bottleneck"], stats[part]["inverted_bottleneck"], boundary)
            params[part] = {**params[part], "inverted_bottleneck": block}
            stats[part] = {**stats[part], "inverted_bottleneck": block_stats}
        sorted_variables["params"][name] = params
        sorted_variables["batch_stats"][name] = stats
    return {**variables, **sorted_variables}


def _sort_stacked_blocks(params, stats, boundary):
    return jax.vmap(_sort_block, in_axes=(0, 0, None))(params, stats, boundary)


def _sort_block(params: Mapping[str, Any], stats: Mapping[str, Any], boundary: int):
    """Sorts one inverted bottleneck; the channels from `boundary` on are a group of their own."""
    importance = jnp.sum(jnp.abs(params["project"]["kernel"]), axis=1)
    order = jnp.concatenate([_descending(importance[:boundary]), boundary + _descending(importance[boundary:])])

    def take(tree):
        # Middle channels are the last axis of everything but the project kernel and SE's reduce kernel.
        return jax.tree.map(lambda leaf: leaf[..., order], tree)

    depthwise = {**params["depthwise"], "kernel": params["depthwise"]["kernel"][..., order]}
    moved = {
        "expand": take(params["expand"]),
        "expand_bn": take(params["expand_bn"]),
        "depthwise": depthwise,
        "depthwise_bn": take(params["depthwise_bn"]),
        "project": {"kernel": params["project"]["kernel"][order]},
    }
    if "se" in params:
        reduce, expand = params["se"]["reduce"], take(params["se"]["expand"])
        units = _descending(jnp.sum(jnp.abs(expand["kernel"]), axis=1))
        moved["se"] = {
            "reduce": {"kernel": reduce["kernel"][order][:, units], "bias": reduce["bias"][units]},
            "expand": {"kernel": expand["kernel"][units], "bias": expand["bias"]},
        }
    moved_stats = {name: take(stats[name]) for name in ("expand_bn", "depthwise_bn")}
    return {**params, **moved}, {**stats, **moved_stats}


def _descending(importance: jax.Array) -> jax.Array:
    return jnp.argsort(-importance, stable=True)


# --- counting -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a subnet costs.

    Attributes:
        params: weights and biases, batch norm's scale and bias included. The matrices that transform kernels
            are not: a subnet by itself needs only their result.
        macs: multiply-accumulates of convolutions and dense layers for one image; biases, batch norm,
            activations, pooling and sums are not counted.
    """

    params: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)


def count(net: SuperNet, subnet: Subnet, resolution: int, all_exits: bool = False) -> Cost:
    """Counts parameters and multiply-accumulates of one subnet.

    Args:
        net: the supernet.
        subnet: which subnet.
        resolution: height and width of the image, a positive int.
        all_exits: whether to count the whole body and all exits of `net`; the subnet's height is then ignored.

    Raises:
        ValueError: if `resolution` is no positive int, or for a subnet that `net` does not hold.
    """
    if type(resolution) is not int or resolution < 1:
        raise ValueError(f"resolution={resolution!r} is not allowed: it must be a positive int")
    SearchSpace(net).check(subnet)
    channels = net.channels
    height = NUM_STAGES if all_exits else subnet.height
    size = _out_size(resolution, 2)
    total = _convolution(_IMAGE_CHANNELS, channels.stem, size, kernel=3)
    total += _depthwise(channels.stem, size, kernel=3) + _convolution(channels.stem, channels.stem, size)
    for stage in range(height):
        for level in range(subnet.depth[stage]):
            stride = 1 if level else STAGES[stage].stride
            total += _level(net, subnet, stage, level, size, _out_size(size, stride))
            size = _out_size(size, stride)
        if stage in net.exit_stages and (all_exits or stage == height - 1):
            total += _exit(channels, stage, net.num_classes, size)
    return total


def _out_size(size: int, stride: int) -> int:
    return -(-size // stride)


def _convolution(in_channels: int, features: int, size: int, kernel: int = 1) -> Cost:
    """A convolution without bias to `size` x `size` pixels and its batch norm."""
    weights = kernel * kernel * in_channels * features
    return Cost(weights + 2 * features, weights * size * size)


def _depthwise(channels: int, size: int, kernel: int) -> Cost:
    return _convolution(1, channels, size, kernel)


def _dense(in_channels: int, features: int, bias: bool, size: int = 1) -> Cost:
    """A dense layer at each of `size` x `size` pixels."""
    weights = in_channels * features
    return Cost(weights + features * bias, weights * size * size)


def _level(net: SuperNet, subnet: Subnet, stage: int, level: int, in_size: int, out_size: int) -> Cost:
    choice = subnet.at(stage, level)
    in_channels, channels = net.channels.level_input(stage, level), net.channels.stages[stage]
    total = Cost(0, 0)
    if choice.level & 4:
        width = middle_width(in_channels, choice.expand)
        total += _convolution(in_channels, width, in_size) + _depthwise(width, out_size, choice.kernel)
        if STAGES[stage].squeeze_excite:
            hidden = squeeze_width(width)
            total += _dense(width, hidden, bias=True) + _dense(hidden, width, bias=True)
        total += _convolution(width, channels, out_size)
    if net.spec.parallel and choice.level & 2:
        total += _convolution(in_channels, channels, out_size)
    if net.spec.parallel and choice.level & 1:
        if in_channels != channels:
            total += _dense(in_channels, channels, bias=True, size=out_size)
        total += Cost(2 * channels, 0)
    return total


def _exit(channels: Channels, stage: int, num_classes: int, size: int) -> Cost:
    expanded, mixed = channels.exits[stage]
    return (
        _convolution(channels.stages[stage], expanded, size)
        + _dense(expanded, mixed, bias=False)
        + _dense(mixed, num_classes, bias=True)
    )
