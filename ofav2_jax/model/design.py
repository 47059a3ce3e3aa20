"""`Design`: a subnet, a resolution and a set of exits, which is what can be taken out of a supernet and used."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

from ofav2_jax.checks import plain, refuse, shown
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_STAGES, Block
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import ENSEMBLE, Subnet

FORMAT = "ofav2_jax.design/1"
# What choices without effect are set to. A level has the code 7, the only one that every network allows.
UNUSED = {name: (max if name == "level" else min)(choice.values) for name, choice in CHOICES.items()}


@dataclasses.dataclass(frozen=True)
class Design:
    """A network to be taken out of a supernet; hashable.

    Choices that have no effect take one fixed value: those of levels beyond the depth and stages beyond the height, and
    kernel and expand ratio of a level without its inverted bottleneck. So designs are equal where the networks are.

    Attributes:
        subnet: the subnet, with such values.
        resolution: height and width of the images, pixels.
        exits: the exits whose logits are averaged, stages of 1..5 in ascending order. The last one is the subnet's
            height. Given as None: the height alone.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    subnet: Subnet
    resolution: int
    exits: tuple[int, ...] | None = None

    def __post_init__(self):
        if not isinstance(self.subnet, Subnet):
            refuse("subnet", self.subnet, "a Subnet")
        object.__setattr__(self, "resolution", plain(self.resolution))
        if type(self.resolution) is not int or self.resolution < 1:
            refuse("resolution", self.resolution, "a positive int")
        height = self.subnet.height
        given = (height,) if self.exits is None else self.exits
        given = plain(tuple(given)) if isinstance(given, tuple | list) else given
        if not isinstance(given, tuple) or not given or any(type(stage) is not int for stage in given):
            refuse("exits", given, "a tuple of stages")
        exits = tuple(sorted(given))
        if len(set(exits)) < len(exits) or exits[0] < 1 or exits[-1] != height:
            raise ValueError(
                f"exits={shown(tuple(given))} is not allowed: these are different stages of 1 to {height}, the height "
                "of the subnet, which is one of them"
            )
        object.__setattr__(self, "exits", exits)
        object.__setattr__(self, "subnet", _canonical(self.subnet))

    @classmethod
    def parse(cls, text: str) -> "Design":
        """Parses the text form of `str(design)`: `k7-e6-d4-l7-h4@64`, and `+2` behind it for each further exit.

        Raises:
            ValueError: if `text` does not have that form or holds a value that is not allowed.
        """
        match = re.fullmatch(r"([^@+]+)@(\d+)((?:\+\d)*)", text, re.ASCII) if isinstance(text, str) else None
        if not match:
            raise ValueError(
                f"design={shown(text)} is not readable; write it like k7-e6-d4-l7-h4@64, or with a further exit like "
                "k7-e6-d4-l7-h4@64+2"
            )
        subnet = Subnet.parse(match[1])
        return cls(subnet, int(match[2]), (*map(int, match[3].split("+")[1:]), subnet.height))

    def __str__(self) -> str:
        def digits(name):
            of_subnet = getattr(self.subnet, name)
            if CHOICES[name].is_single:
                return str(of_subnet)
            used = {value for value, is_used in zip(of_subnet, _used(self.subnet)[name]) if is_used}
            return "".join(map(str, of_subnet if len(used) > 1 else used or of_subnet[:1]))

        subnet = "-".join(f"{name[0]}{digits(name)}" for name in CHOICES)
        return "+".join([f"{subnet}@{self.resolution}", *map(str, self.exits[:-1])])  # type: ignore[index]

    def as_json(self) -> dict[str, Any]:
        """The record of `from_json`."""
        return {
            "format": FORMAT,
            "subnet": str(self.subnet),
            "resolution": self.resolution,
            "exits": list(self.exits or ()),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Design":
        """Reads what `as_json` returns, or a row of `results.json`; further keys are passed over.

        Raises:
            ValueError: naming what is missing or not allowed.
        """
        if not isinstance(record, Mapping):
            refuse("design", record, "a mapping")
        if record.get("format", FORMAT) != FORMAT:
            refuse("format", record["format"], repr(FORMAT))
        if "resolution" not in record:
            raise ValueError("the design has no resolution: it must have subnet and resolution")
        subnet = Subnet.parse(record["subnet"]) if "subnet" in record else Subnet.from_json(record)
        all_exits = tuple(range(1, NUM_STAGES + 1)) if record.get("height") == ENSEMBLE else None
        return cls(subnet, record["resolution"], record.get("exits", all_exits))

    def require_fit(self, net: Any) -> None:
        """Refuses a network that does not hold this design.

        Raises:
            ValueError: naming the choice, the value and why it is refused.
        """
        SearchSpace(net).check(self.subnet)
        allowed = [stage + 1 for stage in net.exit_stages]
        for stage in self.exits or ():
            if stage not in allowed:
                raise ValueError(
                    f"exits={self.exits} is not allowed: {net.network} has exits after the stages {allowed}"
                )


def exit_sets(net: Any) -> list[tuple[int, ...]]:
    """All sets of exits of a network, 31 or a single one: stages in ascending order, smaller sets first."""
    stages = [stage + 1 for stage in net.exit_stages]
    return [each for number in range(1, len(stages) + 1) for each in itertools.combinations(stages, number)]


def _used(subnet: Subnet) -> dict[str, list[bool]]:
    """For each choice that is made several times, which of them have an effect."""
    levels = [
        stage < subnet.height and level < subnet.depth[stage]
        for stage in range(NUM_STAGES)
        for level in range(LEVELS_PER_STAGE)
    ]
    bottlenecks = [active and bool(code & Block.BOTTLENECK) for active, code in zip(levels, subnet.level)]
    stages = [stage < subnet.height for stage in range(NUM_STAGES)]
    return {"kernel": bottlenecks, "expand": bottlenecks, "depth": stages, "level": levels}


def _canonical(subnet: Subnet) -> Subnet:
    """The same network, with the values of `UNUSED` for choices that have no effect."""
    fields: dict[str, Any] = {}
    for name, used in _used(subnet).items():
        fields[name] = tuple(value if u else UNUSED[name] for value, u in zip(getattr(subnet, name), used))
    return dataclasses.replace(subnet, **fields)
