"""`Genes`: designs as rows of integers, which crossover and mutation work on; and `Designs`, many designs as arrays."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import refuse, require_among
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.design import UNUSED, Design, exit_sets
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES, Block
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet

EXITS = ("single", "any")
_TRUNK = ("kernel", "expand", "depth", "level")
_STAGE, _LEVEL = np.divmod(np.arange(NUM_LEVELS), LEVELS_PER_STAGE)
_STAGES = np.arange(1, NUM_STAGES + 1)


@dataclasses.dataclass(frozen=True)
class Designs:
    """N designs as arrays.

    Attributes:
        choices: their subnets; the height is the last exit.
        resolution: height and width of the images in pixels, int [N].
        exits: the exits whose logits are averaged, bool [N, 5].
    """

    choices: Choices
    resolution: np.ndarray
    exits: np.ndarray

    @classmethod
    def stack(cls, designs: Sequence[Design]) -> "Designs":
        """Arrays for these designs, at least one, in their order."""
        exits = np.array([np.isin(_STAGES, design.exits or ()) for design in designs])
        return cls(
            Choices.stack([design.subnet for design in designs]), np.array([d.resolution for d in designs]), exits
        )

    def __len__(self) -> int:
        return len(self.resolution)


def used(choices: Choices) -> dict[str, np.ndarray]:
    """For each choice of a level or stage, bool [N, 20] or [N, 5]: whether it has an effect."""
    height, depth, code = (np.asarray(getattr(choices, name)) for name in ("height", "depth", "level"))
    stages = height[:, None] >= _STAGES
    levels = stages[:, _STAGE] & (depth[:, _STAGE] > _LEVEL)
    bottlenecks = levels & ((code & Block.BOTTLENECK) > 0)
    return {"kernel": bottlenecks, "expand": bottlenecks, "depth": stages, "level": levels}


def keys(choices: Choices, resolution: np.ndarray) -> list[bytes]:
    """For each subnet and resolution a key; keys are equal where the networks are, as with `Design`."""
    masks = used(choices)
    columns = [np.where(masks[name], getattr(choices, name), UNUSED[name]) for name in _TRUNK]
    rows = np.column_stack([*columns, choices.height, resolution]).astype(np.int32)
    return [row.tobytes() for row in rows]


def at_height(choices: Choices, height: int | np.ndarray) -> Choices:
    """The same trunks, cut at a height: one for all, or int [N]."""
    return dataclasses.replace(choices, height=np.broadcast_to(height, np.shape(choices.height)))


class Genes:
    """What a search may choose, as rows of 67 integers.

    A row has a value for each kernel size, expand ratio, depth and level code, then the exit set as a bit mask (bit 0
    is the exit of stage 1), then the resolution. Genes of stages above the last exit are kept: they complete the trunk,
    which is evaluated up to its top.

    Args:
        net: the supernet.
        resolutions: the resolutions to choose from, pixels.
        exits: "single": one exit each; "any": every set of exits, whose logits are averaged.
        space: a part of the network's space. None: all of it.

    Attributes:
        values: the values that each of the 67 genes may have.
        exit_sets: the sets of exits, each a tuple of stages in ascending order.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    def __init__(
        self, net: SuperNet, resolutions: Sequence[int], exits: str = "single", space: SearchSpace | None = None
    ):
        require_among("exits", exits, EXITS)
        if not resolutions or any(type(r) is not int or r < 1 for r in resolutions):
            refuse("resolutions", resolutions, "a list of positive ints")
        self.net, self.exits = net, exits
        self.resolutions = tuple(sorted(set(resolutions)))
        self.space = SearchSpace(net) if space is None else space
        self.exit_sets = [
            each for each in exit_sets(net) if each[-1] in self.space.height and (exits == "any" or len(each) == 1)
        ]
        choices = [getattr(self.space, name) for name in _TRUNK for _ in range(CHOICES[name].count)]
        masks = [sum(1 << stage - 1 for stage in each) for each in self.exit_sets]
        self.values = [np.array(values) for values in (*choices, masks, self.resolutions)]

    @property
    def top(self) -> int:
        """The height of a trunk: the largest of the space."""
        return max(self.space.height)

    @property
    def num_elastic(self) -> int:
        """How many genes have a choice."""
        return sum(len(values) > 1 for values in self.values)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draws rows, int [n, 67], every gene uniformly and independently."""
        return np.column_stack([values[rng.integers(len(values), size=n)] for values in self.values])

    def rows(self, designs: Sequence[Design]) -> np.ndarray:
        """Rows, int [N, 67], for designs."""
        many = Designs.stack(designs)
        masks = many.exits @ (1 << np.arange(NUM_STAGES))
        rows = np.column_stack([*(getattr(many.choices, name) for name in _TRUNK), masks, many.resolution])
        # Choices without effect have values that a part of a space may lack, and crossover gives them effect.
        for place, values in enumerate(self.values[:-2]):
            rows[:, place] = np.where(np.isin(rows[:, place], values), rows[:, place], values[-1])
        return rows

    def designs(self, rows: np.ndarray) -> Designs:
        """The designs of rows, int [N, 67]."""
        ends = np.cumsum([CHOICES[name].count for name in _TRUNK])
        fields: dict[str, Any] = dict(zip(_TRUNK, np.split(rows, ends, axis=1)))
        exits = (rows[:, -2, None] >> np.arange(NUM_STAGES) & 1).astype(bool)
        height = np.where(exits, _STAGES, 0).max(1)
        return Designs(Choices(**fields, height=height), rows[:, -1], exits)

    def trunk(self, row: np.ndarray) -> Design:
        """The whole trunk of a row, up to the top of the space, in canonical form; its exit set has no influence."""
        choices = at_height(self.designs(row[None]).choices, self.top)
        return Design(choices.subnets()[0], int(row[-1]))

    def uniform(self) -> list[Subnet]:
        """The trunks that make the same choice at every level and stage, largest first."""
        return list(self.space.restrict(height=[self.top]).uniform_subnets())
