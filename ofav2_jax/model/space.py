"""`SearchSpace`: the set of subnets that a supernet allows, or a part of it."""

import itertools
import math
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.checks import plain, shown
from ofav2_jax.model.choices import Candidates, draw
from ofav2_jax.model.network import CHOICES, network_spec
from ofav2_jax.model.subnet import Subnet


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
        if not hasattr(net, "network"):
            raise ValueError(f"net={shown(net)} is not allowed: it must be a SuperNet")
        self._network = net.network
        spec = network_spec(net.network)
        for name, choice in CHOICES.items():
            setattr(self, name, choice.values if choice.is_elastic(spec) else choice.values[:1])

    def restrict(self, **allowed: Collection[int]) -> "SearchSpace":
        """A part of this space.

        Args:
            **allowed: the values that remain, for any of kernel, expand, depth, level, height.

        Raises:
            ValueError: for an unknown choice, a choice without values, or a value outside this space.
        """
        narrowed = SearchSpace.__new__(SearchSpace)
        narrowed.__dict__.update(self.__dict__)
        for name, values in allowed.items():
            if name not in CHOICES:
                raise ValueError(f"choice {name!r} is unknown; choose from {', '.join(CHOICES)}")
            is_scalar = hasattr(values, "ndim") and values.ndim == 0
            if not isinstance(values, Collection) or isinstance(values, str) or is_scalar or not len(values):
                raise ValueError(f"{name}={shown(values)} is not allowed: keep at least one value")
            values = [plain(value) for value in values]
            for value in values:
                if type(value) is not int or value not in getattr(self, name):
                    raise ValueError(f"{name}={shown(value)} is outside the space: choose from {getattr(self, name)}")
            setattr(narrowed, name, tuple(v for v in getattr(self, name) if v in values))
        return narrowed

    def maximal(self) -> Subnet:
        """The largest subnet of the space."""
        return Subnet.uniform(*(getattr(self, name)[0] for name in CHOICES))

    def minimal(self) -> Subnet:
        """The subnet that makes every choice as small as the space allows."""
        return Subnet.uniform(*(getattr(self, name)[-1] for name in CHOICES))

    def check(self, subnet: Subnet) -> None:
        """Refuses a subnet outside the space.

        Raises:
            ValueError: naming the choice, the value and why it is refused.
        """
        if not isinstance(subnet, Subnet):
            raise ValueError(f"subnet={shown(subnet)} is not a Subnet")
        for name in CHOICES:
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
        for name, choice in CHOICES.items():
            kept = getattr(self, name)
            values[name] = np.array(kept + kept[-1:] * (len(choice.values) - len(kept)), np.int32)
        counts = {name: np.int32(len(getattr(self, name))) for name in CHOICES}
        return Candidates(values, counts)

    def sample(self, key: jax.Array, n: int) -> list[Subnet]:
        """Draws `n` subnets, every choice of every level and stage independently and uniformly.

        Args:
            key: a PRNG key; the same key draws the same subnets.
            n: the number of subnets, at least 1.

        Raises:
            ValueError: if `n` is not a positive int.
        """
        n = plain(n)
        if type(n) is not int or n < 1:
            raise ValueError(f"n={shown(n)} is not allowed: it must be a positive int")
        return jax.jit(draw, static_argnums=2)(key, jax.tree.map(jnp.asarray, self.candidates()), n).subnets()

    def uniform_subnets(self) -> Iterator[Subnet]:
        """Every combination of values, each held constant over the whole network, largest first."""
        for values in itertools.product(*(getattr(self, name) for name in CHOICES)):
            yield Subnet.uniform(*values)

    @property
    def num_uniform(self) -> int:
        """How many subnets `uniform_subnets` yields."""
        return math.prod(len(getattr(self, name)) for name in CHOICES)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.__dict__.items())))

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(f'{name}={getattr(self, name)}' for name in CHOICES)})"
