"""Which subnet: `Subnet` (static), `Choices` (traced), and `SearchSpace`, the set they are drawn from."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.model.network import LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES, network_spec

# Largest first: the first value of each is what the maximal network uses.
ALLOWED = {
    "kernel": (7, 5, 3),
    "expand": (6, 4, 3),
    "depth": (4, 3, 2),
    "level": (7, 6, 5, 3, 4, 2, 1),
    "height": (5, 4, 3, 2, 1),
}
CHOICE_NAMES = tuple(ALLOWED)
# How many times a subnet makes each choice; height is a single int.
_COUNTS = {"kernel": NUM_LEVELS, "expand": NUM_LEVELS, "depth": NUM_STAGES, "level": NUM_LEVELS}


class LevelChoice(NamedTuple):
    """The choices of one level: ints (static) or int arrays [S] (traced)."""

    kernel: Any
    expand: Any
    level: Any


@dataclasses.dataclass(frozen=True)
class Subnet:
    """One subnet, as plain ints; hashable, hence usable as a static argument of a jitted function.

    Attributes:
        kernel: depthwise kernel size of each level, 20 of {3, 5, 7}, stage-major (4 levels a stage).
        expand: expand ratio of each level's inverted bottleneck, 20 of {3, 4, 6}.
        depth: active levels of each stage, 5 of {2, 3, 4}.
        level: which parallel blocks each level sums, 20 codes 1..7: bit 4 the inverted bottleneck, bit 2 the
            pointwise block, bit 1 the light block. 7 in networks without parallel blocks.
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
        for name, count in _COUNTS.items():
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != count:
                raise ValueError(f"{name}={values!r} is not allowed: it must be a tuple of {count} ints")
            for value in values:
                _check_value(name, value)
        _check_value("height", self.height)

    @classmethod
    def uniform(cls, kernel: int = 7, expand: int = 6, depth: int = 4, level: int = 7, height: int = 5) -> "Subnet":
        """The subnet that makes the same choice at every level and stage; the defaults are the maximal one."""
        return cls((kernel,) * NUM_LEVELS, (expand,) * NUM_LEVELS, (depth,) * NUM_STAGES, (level,) * NUM_LEVELS, height)

    @classmethod
    def parse(cls, text: str) -> "Subnet":
        """Reads what `str(subnet)` prints, for instance `k7-e6-d4-l7-h5` or with one digit a level or stage.

        Raises:
            ValueError: if `text` does not have that form or holds a value that is not allowed.
        """
        match = re.fullmatch(r"k(\d+)-e(\d+)-d(\d+)-l(\d+)-h(\d)", text, re.ASCII)
        if not match:
            raise ValueError(f"subnet={text!r} is not readable; write it like k7-e6-d4-l7-h5")
        fields = {}
        for (name, count), digits in zip(_COUNTS.items(), match.groups()[:4], strict=True):
            fields[name] = tuple(int(d) for d in digits) * (count if len(digits) == 1 else 1)
        return cls(**fields, height=int(match.group(5)))

    def __str__(self) -> str:
        def digits(values):
            return str(values[0]) if len(set(values)) == 1 else "".join(map(str, values))

        return (
            f"k{digits(self.kernel)}-e{digits(self.expand)}-d{digits(self.depth)}-l{digits(self.level)}-h{self.height}"
        )

    def at(self, stage: int, level: int) -> LevelChoice:
        """The choices of one level (both counted from 0)."""
        i = stage * LEVELS_PER_STAGE + level
        return LevelChoice(self.kernel[i], self.expand[i], self.level[i])


def _check_value(name: str, value: Any) -> None:
    if type(value) is not int or value not in ALLOWED[name]:
        allowed = ", ".join(map(str, sorted(ALLOWED[name])))
        raise ValueError(f"{name} contains {value!r}, which is not allowed: choose from {allowed}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
    """The choices of S subnets as arrays: a pytree, traced by jit, so that one program serves every subnet.

    Attributes:
        kernel: int32 [S, 20].
        expand: int32 [S, 20].
        depth: int32 [S, 5].
        level: int32 [S, 20].
        height: int32 [S].
    """

    kernel: Any
    expand: Any
    depth: Any
    level: Any
    height: Any

    @classmethod
    def stack(cls, subnets: Sequence[Subnet]) -> "Choices":
        """Arrays for these subnets, in their order.

        Raises:
            ValueError: if there is no subnet.
        """
        if not subnets:
            raise ValueError("subnets=[] is not allowed: give at least one Subnet")
        return cls(**{name: np.array([getattr(s, name) for s in subnets], np.int32) for name in CHOICE_NAMES})

    def subnets(self) -> list[Subnet]:
        """The same subnets as host values."""
        arrays = {name: np.asarray(getattr(self, name)).tolist() for name in CHOICE_NAMES}
        return [
            Subnet(
                **{name: tuple(arrays[name][s]) for name in _COUNTS},
                height=arrays["height"][s],
            )
            for s in range(len(arrays["height"]))
        ]

    @property
    def num_subnets(self) -> int:
        return self.height.shape[0]

    def at(self, stage: int, level: int) -> LevelChoice:
        """The choices of one level (both counted from 0), each int32 [S]."""
        i = stage * LEVELS_PER_STAGE + level
        return LevelChoice(*(jnp.asarray(values)[:, i] for values in (self.kernel, self.expand, self.level)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """A search space as arrays of fixed shape, so that narrowing the space compiles nothing.

    Attributes:
        values: for each choice the allowed values, padded to the length of `ALLOWED`.
        counts: for each choice how many of them are allowed.
    """

    values: Mapping[str, Any]
    counts: Mapping[str, Any]


def draw(key: jax.Array, candidates: Candidates, num_subnets: int) -> Choices:
    """Draws subnets, every choice of every level and stage independently and uniformly; traceable.

    Args:
        key: a typed PRNG key.
        candidates: what is allowed, from `SearchSpace.candidates()`.
        num_subnets: S, how many.
    """
    fields = {}
    for i, name in enumerate(CHOICE_NAMES):
        shape = (num_subnets, _COUNTS[name]) if name in _COUNTS else (num_subnets,)
        index = jax.random.randint(jax.random.fold_in(key, i), shape, 0, candidates.counts[name])
        fields[name] = candidates.values[name][index]
    return Choices(**fields)


class SearchSpace:
    """The subnets that a supernet allows, or a part of them.

    Attributes:
        kernel, expand, depth, level, height: the allowed values of each choice, largest first.
    """

    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    depth: tuple[int, ...]
    level: tuple[int, ...]
    height: tuple[int, ...]

    def __init__(self, net: Any):
        """The whole space of `net` (a `SuperNet`; only its `network` name is read)."""
        self._network = net.network
        spec = network_spec(net.network)
        for name, values in ALLOWED.items():
            elastic = {"level": spec.parallel, "height": spec.early_exits}.get(name, True)
            setattr(self, name, values if elastic else values[:1])

    def restrict(self, **allowed: Collection[int]) -> "SearchSpace":
        """A part of this space.

        Args:
            **allowed: for any of kernel, expand, depth, level, height the values that remain.

        Raises:
            ValueError: for an unknown choice, no value, or a value outside this space.
        """
        narrowed = SearchSpace.__new__(SearchSpace)
        narrowed.__dict__.update(self.__dict__)
        for name, values in allowed.items():
            if name not in ALLOWED:
                raise ValueError(f"choice {name!r} is unknown; choose from {', '.join(ALLOWED)}")
            if not isinstance(values, Collection) or not values:
                raise ValueError(f"{name}={values!r} is not allowed: keep at least one value")
            for value in values:
                if type(value) is not int or value not in getattr(self, name):
                    raise ValueError(f"{name}={value!r} is outside the space: choose from {getattr(self, name)}")
            setattr(narrowed, name, tuple(v for v in getattr(self, name) if v in values))
        return narrowed

    def maximal(self) -> Subnet:
        """The largest subnet of the space."""
        return Subnet.uniform(*(getattr(self, name)[0] for name in CHOICE_NAMES))

    def minimal(self) -> Subnet:
        """The subnet that makes every choice as small as the space allows."""
        return Subnet.uniform(*(getattr(self, name)[-1] for name in CHOICE_NAMES))

    def check(self, subnet: Subnet) -> None:
        """Refuses a subnet outside the space.

        Raises:
            ValueError: naming the choice, the value and why it is refused.
        """
        if not isinstance(subnet, Subnet):
            raise ValueError(f"subnet={subnet!r} is not a Subnet")
        for name in CHOICE_NAMES:
            values = getattr(subnet, name)
            for value in values if isinstance(values, tuple) else (values,):
                if value not in getattr(self, name):
                    raise ValueError(f"{name}={value} is outside the space: {self._reason(name)}")

    def _reason(self, name: str) -> str:
        spec = network_spec(self._network)
        if name == "level" and not spec.parallel:
            return f"{self._network} has no parallel blocks, so that level must be 7"
        if name == "height" and not spec.early_exits:
            return f"{self._network} has a single exit, so that height must be 5"
        return f"choose from {getattr(self, name)}"

    def contains(self, subnet: Subnet) -> bool:
        """Whether the space holds `subnet`."""
        try:
            self.check(subnet)
        except ValueError:
            return False
        return True

    def candidates(self) -> Candidates:
        """The space as arrays, for `draw`."""
        values = {}
        for name, every in ALLOWED.items():
            kept = getattr(self, name)
            values[name] = np.array(kept + kept[-1:] * (len(every) - len(kept)), np.int32)
        counts = {name: np.int32(len(getattr(self, name))) for name in ALLOWED}
        return Candidates(values, counts)

    def sample(self, key: jax.Array, n: int) -> list[Subnet]:
        """Draws `n` subnets, every choice of every level and stage independently and uniformly.

        Args:
            key: a PRNG key; the same key draws the same subnets.
            n: how many, at least 1.
        """
        if type(n) is not int or n < 1:
            raise ValueError(f"n={n!r} is not allowed: it must be a positive int")
        return jax.jit(draw, static_argnums=2)(key, jax.tree.map(jnp.asarray, self.candidates()), n).subnets()

    def uniform_subnets(self) -> Iterator[Subnet]:
        """Every combination of values, each held constant over the whole network, largest first."""
        for values in itertools.product(*(getattr(self, name) for name in CHOICE_NAMES)):
            yield Subnet.uniform(*values)

    @property
    def num_uniform(self) -> int:
        """How many subnets `uniform_subnets` yields."""
        return int(np.prod([len(getattr(self, name)) for name in CHOICE_NAMES]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.__dict__.items())))

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(f'{name}={getattr(self, name)}' for name in CHOICE_NAMES)})"
