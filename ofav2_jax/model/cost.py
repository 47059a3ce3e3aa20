"""Parameters and multiply-accumulates of subnets."""

import dataclasses

import jax

from ofav2_jax.checks import plain, shown
from ofav2_jax.model.network import NUM_STAGES, STAGES, Block, Channels, middle_width, squeeze_width
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
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


def count(net: SuperNet, subnet: Subnet, resolution: int, all_exits: bool = False) -> Cost:
    """Counts parameters and multiply-accumulates of one subnet.

    Args:
        net: the supernet.
        subnet: the subnet.
        resolution: height and width of the image in pixels, a positive int.
        all_exits: whether to count the body up to the last stage and all exits of `net`; the subnet's height is then
            ignored.

    Raises:
        ValueError: if `resolution` is not a positive int, or for a subnet that `net` does not hold.
    """
    resolution = plain(resolution)
    if type(resolution) is not int or resolution < 1:
        raise ValueError(f"resolution={shown(resolution)} is not allowed: it must be a positive int")
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
    """A convolution without bias, with `size` x `size` output pixels, and its batch norm."""
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


def _exit(channels: Channels, stage: int, num_classes: int, size: int) -> Cost:
    expanded, mixed = channels.exits[stage]
    return (
        _convolution(channels.stages[stage], expanded, size)
        + _dense(expanded, mixed, bias=False)
        + _dense(mixed, num_classes, bias=True)
    )
