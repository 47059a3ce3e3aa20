"""Parameters and multiply-accumulates of subnets."""

import dataclasses
from collections.abc import Sequence

import jax

from ofav2_jax.checks import plain, shown
from ofav2_jax.model.network import NUM_STAGES, STAGES, Block, middle_width, squeeze_width
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import LevelChoice, Subnet
from ofav2_jax.model.supernet import SuperNet, variable_shapes

_IMAGE_CHANNELS = 3


def num_parameters(net: SuperNet) -> int:
    """Parameters of the whole supernet, all exits and kernel-transform matrices included."""
    return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(net)["params"]))


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a subnet.

    Attributes:
        params: weights and biases, batch norm's scale and bias included. The matrices that transform kernels
            are not included: a subnet by itself needs only their result.
        macs: multiply-accumulates of convolutions and dense layers for one image; biases, batch norm,
            activations, pooling and sums are not counted.
    """

    params: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.params + other.params, self.macs + other.macs)


def count(
    net: SuperNet, subnet: Subnet, resolution: int, all_exits: bool = False, exits: Sequence[int] | None = None
) -> Cost:
    """Counts parameters and multiply-accumulates of one subnet; `Costs` does it for thousands.

    Args:
        net: the supernet.
        subnet: the subnet.
        resolution: height and width of the image in pixels, a positive int.
        all_exits: whether to count the body up to the last stage and all exits of `net`; the subnet's height is then
            ignored.
        exits: the exits to count, stages of 1..5 up to the subnet's height; None: the one after it.

    Raises:
        ValueError: if `resolution` is not a positive int, or for a subnet or exits that `net` does not hold.
    """
    resolution = plain(resolution)
    if type(resolution) is not int or resolution < 1:
        raise ValueError(f"resolution={shown(resolution)} is not allowed: it must be a positive int")
    SearchSpace(net).check(subnet)
    height = NUM_STAGES if all_exits else subnet.height
    allowed = [stage + 1 for stage in net.exit_stages if stage < height]
    used = allowed if all_exits else [height] if exits is None else list(exits)
    if not set(used) <= set(allowed):
        raise ValueError(f"exits={exits!r} is not allowed: up to stage {height} {net.network} has {allowed}")
    size = out_size(resolution, 2)
    total = stem_cost(net, size)
    for stage in range(height):
        for level in range(subnet.depth[stage]):
            stride = 1 if level else STAGES[stage].stride
            total += level_cost(net, subnet.at(stage, level), stage, level, size, out_size(size, stride))
            size = out_size(size, stride)
        if stage + 1 in used:
            total += exit_cost(net, stage, size)
    return total


def out_size(size: int, stride: int) -> int:
    """Height or width of a map after a layer of this stride."""
    return -(-size // stride)


def stem_cost(net: SuperNet, size: int) -> Cost:
    """The cost of the stem, whose output has `size` x `size` pixels."""
    stem = net.channels.stem
    return (
        _convolution(_IMAGE_CHANNELS, stem, size, kernel=3)
        + _depthwise(stem, size, kernel=3)
        + _convolution(stem, stem, size)
    )


def _convolution(in_channels: int, features: int, size: int, kernel: int = 1) -> Cost:
    """A convolution without bias, with `size` x `size` output pixels, and its batch norm."""
    weights = kernel * kernel * in_channels * features
    return Cost(weights + 2 * features, weights * size * size)


def _depthwise(channels: int, size: int, kernel: int) -> Cost:
    return _convolution(1, channels, size, kernel)


def _dense(in_channels: int, features: int, bias: bool, size: int = 1) -> Cost:
    """A dense layer at each of `size` x `size` pixels."""
    weights = in_channels * features
    return Cost(weights + features * bias, weights * size * size)


def level_cost(net: SuperNet, choice: LevelChoice, stage: int, level: int, in_size: int, out_size: int) -> Cost:
    """The cost of one level (both counted from 0) between maps of these sizes."""
    in_channels, channels = net.channels.level_input(stage, level), net.channels.stages[stage]
    total = Cost(0, 0)
    if choice.level & Block.BOTTLENECK:
        width = middle_width(in_channels, choice.expand)
        total += _convolution(in_channels, width, in_size) + _depthwise(width, out_size, choice.kernel)
        if STAGES[stage].squeeze_excite:
            hidden = squeeze_width(width)
            total += _dense(width, hidden, bias=True) + _dense(hidden, width, bias=True)
        total += _convolution(width, channels, out_size)
    if net.spec.parallel and choice.level & Block.POINTWISE:
        total += _convolution(in_channels, channels, out_size)
    if net.spec.parallel and choice.level & Block.LIGHT:
        if in_channels != channels:
            total += _dense(in_channels, channels, bias=True, size=out_size)
        total += Cost(2 * channels, 0)
    return total


def exit_cost(net: SuperNet, stage: int, size: int) -> Cost:
    """The cost of the exit after a stage (from 0) whose output has `size` x `size` pixels."""
    expanded, mixed = net.channels.exits[stage]
    return (
        _convolution(net.channels.stages[stage], expanded, size)
        + _dense(expanded, mixed, bias=False)
        + _dense(mixed, net.num_classes, bias=True)
    )
