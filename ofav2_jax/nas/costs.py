"""What designs cost, whatever is counted; limits of it; and the least that a space has."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ofav2_jax.checks import is_number, refuse, require_among
from ofav2_jax.model.costs import Costs
from ofav2_jax.model.design import Design
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.nas.genes import Designs, Genes

COSTS = ("macs", "params", "latency")
_UNITS = {"macs": {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}, "latency": {"s": 1e3, "ms": 1.0, "us": 1e-3}}
_UNITS["params"] = _UNITS["macs"]
_EXAMPLE = "for instance macs<=3M, params<=500k or latency<=2ms"


class LatencyTable(Protocol):
    """Predicts how long designs take on a device; `latency.table.LatencyTable` is one."""

    def predict(self, designs: Designs) -> np.ndarray:
        """Milliseconds for one batch, float64 [N]."""

    def require_fit(self, net: SuperNet, resolutions: Sequence[int]) -> None:
        """Raises a ValueError if the table is that of another network, or lacks a resolution."""


class DesignCosts:
    """Costs of designs by name: multiply-accumulates for one image, parameters, and milliseconds.

    Args:
        net: the supernet.
        table: predicts the latency. None: it is not known.
    """

    def __init__(self, net: SuperNet, table: LatencyTable | None = None):
        self._costs, self._table = Costs(net), table

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that are known."""
        return COSTS if self._table is not None else COSTS[:2]

    def __call__(self, name: str, designs: Designs) -> np.ndarray:
        """One cost of every design, its exits included: float64 [N]."""
        if name == "latency":
            if self._table is None:
                raise ValueError("the cost 'latency' needs a table of latencies")
            return np.asarray(self._table.predict(designs), np.float64)
        counted = self._costs(designs.choices, designs.resolution, designs.exits)
        return np.asarray(getattr(counted, name), np.float64)


@dataclasses.dataclass(frozen=True)
class Constraint:
    """The largest allowed value of a cost.

    Attributes:
        cost: "macs", "params" or "latency".
        limit: for one image, parameters, or milliseconds.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    cost: str
    limit: float

    def __post_init__(self):
        require_among("constraint", self.cost, COSTS)
        if not is_number(self.limit) or self.limit <= 0:
            refuse(f"constraint on {self.cost}", self.limit, "a number > 0")

    @classmethod
    def parse(cls, text: object) -> "Constraint":
        """Reads `macs<=3M`, `params<=500k` or `latency<=2ms`.

        Raises:
            ValueError: for anything else.
        """
        match = re.fullmatch(r"(\w+) *<= *(\d+\.?\d*(?:e\d+)?) *([A-Za-z]*)", text) if isinstance(text, str) else None
        if not match:
            refuse("constraint", text, f"a cost and its largest value, {_EXAMPLE}")
        name, number, unit = match.groups()
        require_among("constraint", name, COSTS)
        if unit not in _UNITS[name]:
            named = [each for each in _UNITS[name] if each]
            refuse("constraint", text, f"in one of the units {', '.join(named)}, {_EXAMPLE}")
        return cls(name, float(number) * _UNITS[name][unit])

    def __str__(self) -> str:
        return f"{self.cost}<={amount(self.cost, self.limit)}"


def amount(name: str, value: float) -> str:
    """A cost as `Constraint.parse` reads it, exactly."""
    if name == "latency":
        return f"{value:.15g}ms"
    for unit, size in _UNITS[name].items():
        short = f"{value / size:.6g}"
        if value >= size and "e" not in short and float(short) * size == value:
            return f"{short}{unit}"
    return f"{value:.15g}"


def excess(costs: DesignCosts, constraints: Sequence[Constraint], designs: Designs) -> np.ndarray:
    """By how much designs exceed the nearest of several limits, as a share of it: float64 [N]; 0 without limits."""
    shares = [np.maximum(0, costs(each.cost, designs) / each.limit - 1) for each in constraints]
    return np.min(shares, axis=0) if shares else np.zeros(len(designs))


def least(costs: DesignCosts, genes: Genes, name: str) -> tuple[Design, float]:
    """The design of the least cost, and that cost.

    A cost is a sum over levels, so that the best value of each gene is found by itself, for every exit and resolution.
    """
    single = [sum(1 << stage - 1 for stage in each) for each in genes.exit_sets if len(each) == 1]
    starts = [(mask, resolution) for mask in single for resolution in genes.resolutions]
    smallest = [values.min() for values in genes.values[:-2]]
    rows = np.array([[*smallest, *start] for start in starts])
    for place, values in enumerate(genes.values[:-2]):
        if len(values) > 1:
            tried = np.repeat(rows, len(values), axis=0)
            tried[:, place] = np.tile(values, len(rows))
            cost = costs(name, genes.designs(tried)).reshape(len(rows), -1)
            rows[:, place] = values[cost.argmin(1)]
    cost = costs(name, genes.designs(rows))
    best = int(cost.argmin())
    designs = genes.designs(rows[best : best + 1])
    exits = tuple((np.flatnonzero(designs.exits[0]) + 1).tolist())
    return Design(designs.choices.subnets()[0], int(designs.resolution[0]), exits), float(cost[best])


def require_possible(constraint: Constraint, costs: DesignCosts, genes: Genes) -> None:
    """Refuses a limit that no design of the space meets, naming the least cost.

    Raises:
        ValueError: naming the constraint, and the design of the least cost.
    """
    design, value = least(costs, genes, constraint.cost)
    if value > constraint.limit:
        lowest = f"{value:,.4g} ms" if constraint.cost == "latency" else f"{value:,.0f} {constraint.cost}"
        raise ValueError(
            f"constraint={str(constraint)!r} cannot be met: the least of the space is {lowest}, of {design}"
        )


def table_digest(table: LatencyTable, genes: Genes) -> str:
    """Tells tables apart, by what they predict of some designs: SHA-256."""
    designs = genes.designs(genes.draw(np.random.default_rng(0), 256))
    return hashlib.sha256(" ".join(f"{value:.6g}" for value in table.predict(designs)).encode()).hexdigest()
