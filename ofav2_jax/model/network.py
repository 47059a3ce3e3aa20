"""Tables I and II of the OFAv2 paper as data: stages, channels, the eight networks, and their elastic choices."""

import dataclasses
import enum

from ofav2_jax.checks import did_you_mean, shown

NUM_STAGES = 5
LEVELS_PER_STAGE = 4
NUM_LEVELS = NUM_STAGES * LEVELS_PER_STAGE

STEM_CHANNELS = 16
# How the widths of exits follow from the width multiplier, see `Channels.at`: as in OFAv2's code or as in OFA's.
EXIT_WIDTHS = ("ofav2", "ofa")


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One row of Table I's body.

    Attributes:
        channels: output channels at width multiplier 1.
        stride: stride of the stage's first level; the others have stride 1.
        activation: "relu" or "h_swish", used everywhere in the stage.
        squeeze_excite: whether its inverted bottlenecks contain squeeze-and-excitation.
    """

    channels: int
    stride: int
    activation: str
    squeeze_excite: bool


STAGES = (
    StageSpec(24, 2, "relu", False),
    StageSpec(40, 2, "relu", True),
    StageSpec(80, 2, "h_swish", False),
    StageSpec(112, 1, "h_swish", True),
    StageSpec(160, 2, "h_swish", True),
)


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """One row of Table II.

    Attributes:
        early_exits: an exit after each of the five stages (EE) instead of one after the last (SE).
        dense_skips: two-block skip connections inside each stage (D).
        parallel: each level is a sum of up to three parallel blocks (P).
    """

    early_exits: bool = False
    dense_skips: bool = False
    parallel: bool = False


NETWORKS = {
    "ofa_mbv3": NetworkSpec(),
    "se_d": NetworkSpec(dense_skips=True),
    "se_p": NetworkSpec(parallel=True),
    "se_dp": NetworkSpec(dense_skips=True, parallel=True),
    "ee_b": NetworkSpec(early_exits=True),
    "ee_d": NetworkSpec(early_exits=True, dense_skips=True),
    "ee_p": NetworkSpec(early_exits=True, parallel=True),
    "ee_dp": NetworkSpec(early_exits=True, dense_skips=True, parallel=True),
}


def network_spec(name: str) -> NetworkSpec:
    """Looks a network up by its name in Table II.

    Raises:
        ValueError: if there is no such network; the message lists the choices.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS) if isinstance(name, str) else ""
        raise ValueError(f"network={shown(name)} is unknown; choose one of {', '.join(NETWORKS)}{hint}")
    return NETWORKS[name]


class Block(enum.IntFlag):
    """The three parallel blocks of a level. A level code, 1 to 7, is the sum of those that are active."""

    BOTTLENECK = 4
    POINTWISE = 2
    LIGHT = 1


@dataclasses.dataclass(frozen=True)
class Choice:
    """One kind of elastic choice.

    Attributes:
        name: the field of `Subnet`, and the key in JSON.
        values: every value, largest first; the first one is that of the maximal network.
        count: how often a subnet makes the choice: for each of 20 levels, for each of 5 stages, or once.
        label: the choice's name in tables and pictures.
        needs: the field of `NetworkSpec` without which the choice is fixed at its largest value; "" for none.
    """

    name: str
    values: tuple[int, ...]
    count: int
    label: str
    needs: str = ""

    @property
    def is_single(self) -> bool:
        """Whether a subnet makes the choice once, as an int instead of a tuple."""
        return self.count == 1

    def is_elastic(self, spec: NetworkSpec) -> bool:
        """Whether networks of this kind have the choice."""
        return not self.needs or getattr(spec, self.needs)


# The order matters: `Subnet` prints the choices in it, and `draw` numbers their random streams by it.
CHOICES = {
    choice.name: choice
    for choice in (
        Choice("kernel", (7, 5, 3), NUM_LEVELS, "kernel"),
        Choice("expand", (6, 4, 3), NUM_LEVELS, "width"),
        Choice("depth", (4, 3, 2), NUM_STAGES, "depth"),
        Choice("level", (7, 6, 5, 3, 4, 2, 1), NUM_LEVELS, "level", needs="parallel"),
        Choice("height", (5, 4, 3, 2, 1), 1, "height", needs="early_exits"),
    )
}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds a channel count to the nearest multiple of `divisor`, losing at most 10 %.

    Args:
        value: the wanted number of channels.
        divisor: the divisor of the result, and its minimum.

    Returns:
        The nearest multiple, one step higher if that would lose more than 10 %.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def middle_width(in_channels: int, expand: int) -> int:
    """Middle channels of an inverted bottleneck with `in_channels` inputs and this expand ratio."""
    return make_divisible(round(in_channels * expand))


def squeeze_width(width: int) -> int:
    """Hidden units of the squeeze-and-excitation of a block whose active middle width is `width`."""
    return make_divisible(width // 4)


@dataclasses.dataclass(frozen=True)
class Channels:
    """Every channel count of a supernet at one width multiplier.

    Attributes:
        stem: output channels of the stem.
        stages: output channels of the five stages.
        exits: for each stage the two widths of its exit head (after the 1x1 convolution, after the dense mix).
    """

    stem: int
    stages: tuple[int, ...]
    exits: tuple[tuple[int, int], ...]

    @classmethod
    def at(cls, width_multiplier: float, exit_widths: str = "ofav2") -> "Channels":
        """Scales Table I by `width_multiplier` (> 0).

        NOTE: as in the authors' code, an exit's widths are scaled twice: 6C and 8C of the stage's already
        scaled channel count C, times the width multiplier again. With `exit_widths="ofa"` they are scaled once, as in
        Once-For-All's own networks.
        """
        stages = tuple(make_divisible(stage.channels * width_multiplier) for stage in STAGES)
        bases = stages if exit_widths == "ofav2" else tuple(stage.channels for stage in STAGES)
        exits = tuple(
            (make_divisible(6 * channels * width_multiplier), make_divisible(8 * channels * width_multiplier))
            for channels in bases
        )
        return cls(make_divisible(STEM_CHANNELS * width_multiplier), stages, exits)

    def level_input(self, stage: int, level: int) -> int:
        """Input channels of a level (both counted from 0)."""
        if level:
            return self.stages[stage]
        return self.stages[stage - 1] if stage else self.stem
