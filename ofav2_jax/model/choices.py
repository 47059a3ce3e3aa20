"""`Choices`: the choices of S subnets as arrays, the traced counterpart of `Subnet`; and how they are drawn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.checks import shown
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE
from ofav2_jax.model.subnet import LevelChoice, Subnet


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
    """The choices of S subnets as arrays: a pytree, traced by jit, so that one program serves every subnet.

    The values are those of `Subnet`.

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
            ValueError: if there is no subnet, or `subnets` is not a sequence of subnets.
        """
        if isinstance(subnets, str | Subnet) or not isinstance(subnets, Sequence):
            given = str(subnets) if isinstance(subnets, Subnet) else subnets
            raise ValueError(f"subnets={shown(given)} is not allowed: it must be a list of Subnets")
        if not subnets:
            raise ValueError("subnets=[] is not allowed: give at least one Subnet")
        for subnet in subnets:
            if not isinstance(subnet, Subnet):
                raise ValueError(
                    f"subnets contains {shown(subnet)}, which is not allowed: it must be a list of Subnets"
                )
        return cls(**{name: np.array([getattr(subnet, name) for subnet in subnets], np.int32) for name in CHOICES})

    def subnets(self) -> list[Subnet]:
        """The same subnets as host values."""
        values = {name: np.asarray(getattr(self, name)).tolist() for name in CHOICES}

        def fields(s: int) -> dict[str, Any]:
            return {n: values[n][s] if choice.is_single else tuple(values[n][s]) for n, choice in CHOICES.items()}

        return [Subnet(**fields(s)) for s in range(self.num_subnets)]

    @property
    def num_subnets(self) -> int:
        return self.height.shape[0]

    def only(self, subnet: int | jax.Array) -> "Choices":
        """One of the subnets by itself: S = 1. Its place may be traced."""
        return jax.tree.map(lambda values: lax.dynamic_slice_in_dim(values, subnet, 1), self)

    def padded(self, num_subnets: int) -> "Choices":
        """So many subnets; those that are missing are copies of the last one."""
        missing = num_subnets - self.num_subnets
        return jax.tree.map(lambda values: jnp.concatenate([values, *[values[-1:]] * missing]), self)

    def at(self, stage: int, level: int) -> LevelChoice:
        """The choices of one level (both counted from 0), each int32 [S]."""
        i = stage * LEVELS_PER_STAGE + level
        return LevelChoice(*(jnp.asarray(values)[:, i] for values in (self.kernel, self.expand, self.level)))


def of_each(function: Callable[[Choices, jax.Array], Any], choices: Choices, count: jax.Array) -> Any:
    """Calls a function for one subnet after another, in one loop whose length is traced.

    Args:
        function: a function from the choices of one subnet (S = 1) and its place to a tree of arrays.
        choices: the choices of S subnets.
        count: int scalar, at most S; the function is called for so many of them.

    Returns:
        The results, stacked along a leading axis [S]; those beyond `count` are zeros.
    """

    def add(place, results):
        result = function(choices.only(place), place)
        return jax.tree.map(lambda all_of_them, one: all_of_them.at[place].set(one), results, result)

    shapes = jax.eval_shape(function, choices.only(0), jnp.int32(0))
    start = jax.tree.map(lambda s: jnp.zeros((choices.num_subnets, *s.shape), s.dtype), shapes)
    with jax.named_scope("each_subnet"):
        return lax.fori_loop(0, count, add, start)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """A search space as arrays of fixed shape, so that narrowing the space compiles nothing.

    Attributes:
        values: for each choice the allowed values, padded to the length of `Choice.values`.
        counts: for each choice the number of allowed values; the padding after them is never drawn.
    """

    values: Mapping[str, Any]
    counts: Mapping[str, Any]


def draw(key: jax.Array, candidates: Candidates, num_subnets: int) -> Choices:
    """Draws subnets, every choice of every level and stage independently and uniformly; traceable.

    Args:
        key: a typed PRNG key.
        candidates: the allowed values, from `SearchSpace.candidates()`.
        num_subnets: S, the number of subnets.
    """
    fields = {}
    for i, (name, choice) in enumerate(CHOICES.items()):
        shape = (num_subnets,) if choice.is_single else (num_subnets, choice.count)
        index = jax.random.randint(jax.random.fold_in(key, i), shape, 0, candidates.counts[name])
        fields[name] = candidates.values[name][index]
    return Choices(**fields)


def sandwiched(choices: Choices, candidates: Candidates) -> Choices:
    """The sandwich rule: the first of at least two subnets becomes the largest, the second the smallest; traceable.

    Args:
        choices: S subnets.
        candidates: the allowed values, the largest and the smallest of which are taken.
    """

    def with_ends(name: str) -> jax.Array:
        values, allowed = getattr(choices, name), jnp.asarray(candidates.values[name])
        both = jnp.stack([allowed[0], allowed[-1]])
        return values.at[:2].set(both if CHOICES[name].is_single else both[:, None])

    return Choices(**{name: with_ends(name) for name in CHOICES})
