"""Which designs of an archive are good: the front, the best for each constraint, and uniform ones beside them.

Designs are chosen by their expected accuracy: what a predictor says that knows all measurements, their own included.
The best of hundreds by what was measured are those that had luck with the validation images.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import Constraint, DesignCosts
from ofav2_jax.nas.genes import Designs, Genes
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.propose import not_dominated, spread
from ofav2_jax.nas.records import Record, designs_of, top1_of

# A front of more points says no more to a reader, and each of them is evaluated twice more.
MAX_FRONT = 20


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a search's table.

    Attributes:
        constraint: what it is the best design for; None: it is a point of the front.
        place: the place of the design among those that are chosen from.
        uniform: the same of the best uniform subnet that costs no more; None: none was evaluated.
    """

    constraint: Constraint | None
    place: int
    uniform: int | None


class Chosen:
    """Designs to choose from: each with the trunk that it is a part of, its costs, and its accuracy.

    Args:
        genes: what may be chosen.
        costs: what designs cost.
        cost: what is minimised beside the error.
        constraints: what is allowed to cost how much.
        records: what was measured.
        predictor: fitted to all that was measured; None: what was measured is what is expected.

    Attributes:
        designs: [trunks x exit sets].
        top1: measured accuracies in %, float64.
        expected: expected accuracies in %, float64.
        cost: what is minimised.
    """

    def __init__(
        self,
        genes: Genes,
        costs: DesignCosts,
        cost: str,
        constraints: Sequence[Constraint],
        records: Sequence[Record],
        predictor: Predictor | None,
    ):
        self._trunks, self.exit_sets = [record.trunk for record in records], genes.exit_sets
        self.designs: Designs = designs_of(self._trunks, self.exit_sets)
        self.top1 = top1_of(records, self.exit_sets).ravel()
        self.expected = self.top1 if predictor is None else predictor.predict(self.designs)[0]
        self.cost = costs(cost, self.designs)
        self._constraints = constraints
        self._fits = [costs(each.cost, self.designs) <= each.limit for each in constraints]
        uniform = {Design(subnet, resolution) for subnet in genes.uniform() for resolution in genes.resolutions}
        is_uniform = [trunk in uniform and len(exits) == 1 for trunk in self._trunks for exits in self.exit_sets]
        self._uniform = np.array(is_uniform, bool)

    def trunk(self, place: int) -> Design:
        """The trunk that a design is a part of."""
        return self._trunks[place // len(self.exit_sets)]

    def design(self, place: int) -> Design:
        """A design by itself."""
        trunk, exits = self.trunk(place), self.exit_sets[place % len(self.exit_sets)]
        return Design(dataclasses.replace(trunk.subnet, height=exits[-1]), trunk.resolution, exits)

    def at(self, place: int) -> Designs:
        """A design by itself, for its costs."""
        choices = jax.tree.map(lambda values: np.asarray(values)[place : place + 1], self.designs.choices)
        return Designs(choices, self.designs.resolution[place : place + 1], self.designs.exits[place : place + 1])

    def lines(self, among: Sequence[int] | None = None) -> list[Line]:
        """The best design for each constraint, then the front in ascending order of cost.

        Args:
            among: the places to choose from. None: all.
        """
        allowed = np.zeros(len(self.top1), bool)
        allowed[slice(None) if among is None else list(among)] = True
        lines = []
        for constraint, fits in zip(self._constraints, self._fits):
            best = self._best(allowed & fits)
            if best is not None:
                lines.append(Line(constraint, best, self._best(allowed & fits & self._uniform)))
        front = np.flatnonzero(allowed & np.any(self._fits, axis=0) if self._fits else allowed)
        if len(front):
            front = front[not_dominated(np.column_stack([-self.expected, self.cost])[front], np.zeros(len(front)))]
            front = front[spread(np.log(self.cost[front]), MAX_FRONT)]
        for place in front[np.argsort(self.cost[front], kind="stable")]:
            uniform = self._best(allowed & self._uniform & (self.cost <= self.cost[place]))
            lines.append(Line(None, int(place), uniform))
        return lines

    def _best(self, allowed: np.ndarray) -> int | None:
        """The one of which the most is expected; of several the one that costs least."""
        places = np.flatnonzero(allowed)
        return int(places[np.lexsort([self.cost[places], -self.expected[places]])[0]]) if len(places) else None
