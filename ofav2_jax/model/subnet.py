"""`Subnet`: one subnet as plain ints."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ofav2_jax.checks import did_you_mean, plain, shown
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES, Choice

# The height in the scores of the ensemble of all exits.
ENSEMBLE = "ensemble"
# Those of Once-For-All's code.
_OTHER_NAMES = {"ks": "kernel", "e": "expand", "d": "depth"}


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
            values = _plain_values(choice, getattr(self, choice.name))
            object.__setattr__(self, choice.name, values[0] if choice.is_single else values)

    @classmethod
    def uniform(cls, kernel: int = 7, expand: int = 6, depth: int = 4, level: int = 7, height: int = 5) -> "Subnet":
        """The subnet that makes the same choice at every level and stage; the defaults are the maximal one."""
        return cls((kernel,) * NUM_LEVELS, (expand,) * NUM_LEVELS, (depth,) * NUM_STAGES, (level,) * NUM_LEVELS, height)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Subnet":
        """Reads a subnet from a row of `results.json`, or from the JSON of another tool.

        Args:
            row: for each choice a number, which holds everywhere, or a list with one for each level or stage. The
                names are those of the attributes, or Once-For-All's `ks`, `e` and `d`. `level` and `height` may be
                missing, and "ensemble" is the height of a row about all exits, which the last one stands for. Keys
                about something else, such as `top1`, are not read.

        Raises:
            ValueError: if a choice is missing, is there twice, or has a value that is not allowed, or for a key that
                looks like a misspelt choice.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"row={shown(row)} is not allowed: it must be a JSON object with the choices of a subnet")
        given: dict[str, Any] = {}
        for key, value in row.items():
            name = _OTHER_NAMES.get(key, key)
            if name in given:
                raise ValueError(f"{name} is there twice in the row: {', '.join(map(str, row))}")
            if name in CHOICES:
                given[name] = value
            elif hint := did_you_mean(str(key), CHOICES):
                raise ValueError(f"{key!r} is not a choice of a subnet{hint}")
        for name in ("kernel", "expand", "depth"):
            if name not in given:
                raise ValueError(f"{name} is missing in the row, which has {', '.join(map(str, row))}")
        return cls(**{name: _from_json(CHOICES[name], value) for name, value in given.items()})

    def as_json(self) -> dict[str, int | list[int]]:
        """The choices as JSON has them in `results.json`, for `from_json`: the same value everywhere is one number."""

        def short(values: Any) -> int | list[int]:
            return values if isinstance(values, int) else values[0] if len(set(values)) == 1 else list(values)

        return {name: short(getattr(self, name)) for name in CHOICES}

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Parses the text form of `str(subnet)`: `k7-e6-d4-l7-h5`, or one digit for each level or stage.

        Raises:
            ValueError: if `text` does not have that form or holds a value that is not allowed.
        """
        if not isinstance(text, str):
            raise ValueError(f"subnet={shown(text)} is not readable; write it like k7-e6-d4-l7-h5")
        match = re.fullmatch("-".join(rf"{name[0]}(\d+)" for name in CHOICES), text, re.ASCII)
        if not match or len(match[len(CHOICES)]) != 1:
            raise ValueError(f"subnet={shown(text)} is not readable; write it like k7-e6-d4-l7-h5")
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


def _plain_values(choice: Choice, given: Any) -> tuple[int, ...]:
    """The values of one choice as plain ints; JSON has lists, other tools have arrays and integers of NumPy."""
    is_array = hasattr(given, "ndim") and given.ndim == 1
    values: tuple[Any, ...]
    if choice.is_single:
        values = (given,)
    elif is_array or isinstance(given, tuple | list):
        values = tuple(given.tolist() if is_array else given)
    else:
        values = ()
    if len(values) != choice.count:
        raise ValueError(f"{choice.name}={shown(given)} is not allowed: it must be a tuple of {choice.count} ints")
    return tuple(_checked_value(choice, value) for value in values)


def _checked_value(choice: Choice, value: Any) -> int:
    number = plain(value)
    if type(number) is not int or number not in choice.values:
        allowed = ", ".join(map(str, sorted(choice.values)))
        raise ValueError(f"{choice.name} contains {shown(number)}, which is not allowed: choose from {allowed}")
    return number


def _from_json(choice: Choice, given: Any) -> Any:
    """A value of a JSON object as the field of a Subnet: a number stands for the same choice everywhere."""
    if choice.is_single:
        return CHOICES["height"].values[0] if given == ENSEMBLE else _whole(given)
    if isinstance(given, list | tuple) or (hasattr(given, "ndim") and given.ndim):
        return tuple(map(_whole, given))
    return (_whole(given),) * choice.count


def _whole(value: Any) -> Any:
    """An int for a float such as 7.0, as tools write it that know one kind of number only."""
    value = plain(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
