"""`Subnet`: one subnet as plain ints."""

import dataclasses
import numbers
import re
from typing import Any, NamedTuple

from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES


class LevelChoice(NamedTuple):
    """The choices of one level: ints (static) or int arrays [S] (traced)."""

    kernel: Any
    expand: Any
    level: Any


@dataclasses.dataclass(frozen=True)
class Subnet:
    """One subnet, as plain ints; hashable, hence usable as a static argument of a jitted function.

    Attributes:
        kernel: depthwise kernel size of each level, 20 values of {3, 5, 7}, stage-major (4 levels a stage).
        expand: expand ratio of each level's inverted bottleneck, 20 values of {3, 4, 6}.
        depth: number of active levels of each stage, 5 values of {2, 3, 4}.
        level: code of the parallel blocks that each level sums, 20 values of 1..7, see `Block`. 7 in networks without
            parallel blocks.
        height: the stage, 1..5, after which the subnet exits. 5 in single-exit networks.

    Raises:
        ValueError: for a wrong type, length or value; the message names the field.
    """

    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    depth: tuple[int, ...]
    level: tuple[int, ...] = (7,) * NUM_LEVELS
    height: int = 5

    def __post_init__(self):
        for choice in CHOICES.values():
            given = getattr(self, choice.name)
            if choice.is_single:
                values = (given,)
            elif not isinstance(given, tuple) or len(given) != choice.count:
                raise ValueError(f"{choice.name}={given!r} is not allowed: it must be a tuple of {choice.count} ints")
            else:
                values = given
            # NumPy integers become plain ints, because JSON knows no others.
            plain = tuple(_checked_value(choice.name, value) for value in values)
            object.__setattr__(self, choice.name, plain[0] if choice.is_single else plain)

    @classmethod
    def uniform(cls, kernel: int = 7, expand: int = 6, depth: int = 4, level: int = 7, height: int = 5) -> "Subnet":
        """The subnet that makes the same choice at every level and stage; the defaults are the maximal one."""
        return cls((kernel,) * NUM_LEVELS, (expand,) * NUM_LEVELS, (depth,) * NUM_STAGES, (level,) * NUM_LEVELS, height)

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Parses the text form of `str(subnet)`: `k7-e6-d4-l7-h5`, or one digit for each level or stage.

        Raises:
            ValueError: if `text` does not have that form or holds a value that is not allowed.
        """
        match = re.fullmatch("-".join(rf"{name[0]}(\d+)" for name in CHOICES), text, re.ASCII)
        if not match or len(match[len(CHOICES)]) != 1:
            raise ValueError(f"subnet={text!r} is not readable; write it like k7-e6-d4-l7-h5")
        fields: dict[str, Any] = {}
        for choice, digits in zip(CHOICES.values(), match.groups(), strict=True):
            values = tuple(int(digit) for digit in digits)
            fields[choice.name] = values[0] if choice.is_single else values * (choice.count if len(values) == 1 else 1)
        return cls(**fields)

    def __str__(self) -> str:
        def digits(values):
            return "".join(map(str, values[:1] if len(set(values)) == 1 else values))

        return "-".join(
            f"{name[0]}{getattr(self, name) if choice.is_single else digits(getattr(self, name))}"
            for name, choice in CHOICES.items()
        )

    def at(self, stage: int, level: int) -> LevelChoice:
        """The choices of one level (both counted from 0)."""
        i = stage * LEVELS_PER_STAGE + level
        return LevelChoice(self.kernel[i], self.expand[i], self.level[i])


def _checked_value(name: str, value: Any) -> int:
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_int or value not in CHOICES[name].values:
        allowed = ", ".join(map(str, sorted(CHOICES[name].values)))
        raise ValueError(f"{name} contains {value!r}, which is not allowed: choose from {allowed}")
    return int(value)
