"""`Proposer`: which trunks to evaluate first, and which ones next."""

from collections.abc import Sequence

import numpy as np

from ofav2_jax.checks import refuse, require_among, require_positive
from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import Constraint, DesignCosts, excess
from ofav2_jax.nas.features import Features
from ofav2_jax.nas.genes import Designs, Genes, at_height, keys
from ofav2_jax.nas.nsga import evolve, ranks
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.records import Record, top1_of

ROUND = 20
_POPULATION, _GENERATIONS = 100, 40
# What of the first population comes from the front so far.
_MAX_FROM_FRONT = 50
# Of each round so many are those that the predictor knows least about.
_UNSURE = 2


class Proposer:
    """Proposes trunks; the same archive, round and seed give the same proposals.

    Args:
        genes: what may be chosen.
        cost: what is minimised beside the error, "macs", "params" or "latency".
        constraints: what is allowed to cost how much. Each is a question by itself: a design that meets one of them is
            wanted. None: every design is.
        costs: what designs cost. None: what can be counted.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    def __init__(
        self,
        genes: Genes,
        cost: str = "macs",
        constraints: Sequence[Constraint] = (),
        costs: DesignCosts | None = None,
    ):
        self._costs = DesignCosts(genes.net) if costs is None else costs
        for name in (cost, *(each.cost for each in constraints)):
            require_among("cost", name, self._costs.names)
        self.genes, self._cost, self._constraints = genes, cost, tuple(constraints)
        self._features = Features(genes.net, genes.resolutions)

    def costs(self, designs: Designs) -> tuple[np.ndarray, np.ndarray]:
        """The cost of designs, and by how much they exceed the nearest of the limits: float64 [N] each."""
        return self._costs(self._cost, designs), excess(self._costs, self._constraints, designs)

    def start(self, budget: int, seed: int = 0) -> list[Design]:
        """The trunks to evaluate before anything is known: 40 % of the budget, but at least 20 and at most 80.

        They are the minimal and the maximal trunk, uniform ones at the largest resolution (all, or a spread of so many
        that they are half), and random ones spread over log MACs, at all resolutions in turn.

        Args:
            budget: how many trunks will be evaluated in all.
            seed: the random ones follow from it.
        """
        require_positive("budget", budget)
        _require_seed(seed)
        number = min(budget, max(20, min(80, budget * 2 // 5)))
        space, resolutions = self.genes.space.restrict(height=[self.genes.top]), self.genes.resolutions
        chosen = [Design(space.maximal(), resolutions[-1]), Design(space.minimal(), resolutions[0])]
        uniform = list(dict.fromkeys(Design(subnet, resolutions[-1]) for subnet in self.genes.uniform()))
        chosen += [uniform[i] for i in spread(self._log_macs(uniform), number // 2)]
        chosen = list(dict.fromkeys(chosen))[:number]
        rng = np.random.default_rng([seed, 0])
        drawn = self.genes.draw(rng, 10 * max(1, number - len(chosen)))
        drawn[:, -1] = np.resize(resolutions, len(drawn))
        trunks = list(dict.fromkeys(design for design in map(self.genes.trunk, drawn) if design not in chosen))
        each, more = divmod(number - len(chosen), len(resolutions))
        for place, resolution in enumerate(resolutions):
            there = [trunk for trunk in trunks if trunk.resolution == resolution]
            chosen += [there[i] for i in spread(self._log_macs(there), each + (place < more))]
        return chosen

    def fit(self, archive: Sequence[Record]) -> Predictor:
        """The predictor that a round's proposals follow from."""
        return Predictor.fit(self._features, archive, self.genes.exit_sets)

    def propose(
        self,
        archive: Sequence[Record],
        round: int,
        seed: int = 0,
        number: int = ROUND,
        predictor: Predictor | None = None,
    ) -> list[Design]:
        """The trunks to evaluate next, none of which is in the archive, up to the exits that it is proposed for.

        Args:
            archive: everything that was measured so far, in order.
            round: the number of the round, at least 1.
            seed: the search's seed.
            number: how many trunks; fewer come back only where the space has no more.
            predictor: what `fit` returned for this archive. None: it is fitted here.
        """
        require_positive("round", round)
        require_positive("number", number)
        _require_seed(seed)
        rng = np.random.default_rng([seed, round])
        predictor = self.fit(archive) if predictor is None else predictor
        front = self._front(archive)
        first = np.concatenate([front, self.genes.draw(rng, _POPULATION - len(front))])
        genes = self.genes

        def evaluate(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            designs = genes.designs(rows)
            mean, std = predictor.predict(designs)
            cost, violation = self.costs(designs)
            return np.column_stack([-(mean + 0.5 * std), cost]), violation

        last = evolve(evaluate, first, genes.values, _GENERATIONS, rng)
        # Random ones behind them, in case that too few of them are new.
        rows = np.concatenate([last, genes.draw(rng, 10 * number)])
        rows = rows[self._new(rows, archive)]
        if not len(rows):
            return []
        rank = ranks(*evaluate(rows))
        rows = rows[np.argsort(rank, kind="stable")]
        return self._choose(rows, int((rank == 0).sum()), predictor, number)

    def _choose(self, rows: np.ndarray, num_best: int, predictor: Predictor, number: int) -> list[Design]:
        """Of new rows, the first of which are the front: some spread over log cost, and the least certain ones."""
        designs = self.genes.designs(rows)
        cost, _ = self.costs(designs)
        spaced = spread(np.log(cost[:num_best]), max(1, number - _UNSURE))
        # The least certain of the last population, which is promising; behind them whatever there is, best first.
        _, std = predictor.predict(designs)
        unsure = np.argsort(-std[: max(num_best, 2 * number)], kind="stable")[: len(spaced) + _UNSURE]
        order = [*spaced, *[i for i in unsure if i not in spaced][:_UNSURE], *range(len(rows))]
        own = keys(designs.choices, designs.resolution)
        chosen: list[Design] = []
        covered: set[bytes] = set()
        for place in order:
            # The trunk of another one may contain it, up to its exits.
            if len(chosen) < number and own[place] not in covered:
                chosen.append(self.genes.trunk(rows[place]))
                covered.update(self._keys(chosen[-1:]))
        return chosen

    def _front(self, archive: Sequence[Record]) -> np.ndarray:
        """Rows of measured designs that no other one dominates, at most so many."""
        genes = self.genes
        trunks = genes.rows([record.trunk for record in archive])
        masks = genes.values[-2]
        rows = np.repeat(trunks, len(masks), axis=0)
        rows[:, -2] = np.tile(masks, len(trunks))
        top1 = top1_of(archive, genes.exit_sets).reshape(-1)
        cost, violation = self.costs(genes.designs(rows))
        best = not_dominated(np.column_stack([-top1, cost]), violation)
        return rows[best[spread(np.log(cost[best]), _MAX_FROM_FRONT)]]

    def _new(self, rows: np.ndarray, archive: Sequence[Record]) -> np.ndarray:
        """Indices of rows whose network is neither in the archive nor in a row before."""
        known = self._keys([record.trunk for record in archive])
        designs, new = self.genes.designs(rows), []
        for place, key in enumerate(keys(designs.choices, designs.resolution)):
            if key not in known:
                known.add(key)
                new.append(place)
        return np.array(new, int)

    def _keys(self, trunks: Sequence[Design]) -> set[bytes]:
        """The keys of all networks that trunks contain."""
        many = Designs.stack(trunks)
        heights = self.genes.space.height
        return {key for height in heights for key in keys(at_height(many.choices, height), many.resolution)}

    def _log_macs(self, trunks: Sequence[Design]) -> np.ndarray:
        if not trunks:
            return np.zeros(0)
        designs = Designs.stack(trunks)
        return np.log(self._costs("macs", designs))


def _require_seed(seed: int) -> None:
    if type(seed) is not int or seed < 0:
        refuse("seed", seed, "an int >= 0")


def not_dominated(objectives: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Indices of the first front of many points with two objectives, by one pass over the sorted ones."""
    (least,) = np.nonzero(violation == violation.min())
    best, lowest = [], np.inf
    for place in least[np.lexsort([objectives[least, 0], objectives[least, 1]])]:
        if objectives[place, 0] < lowest:
            best.append(place)
            lowest = objectives[place, 0]
    return np.array(best)


def spread(values: np.ndarray, number: int) -> list[int]:
    """Indices of so many values, each the nearest that is left to one of evenly spaced places; of fewer values, all."""
    if len(values) <= number:
        return list(range(len(values)))
    left = np.ones(len(values), bool)
    for target in np.linspace(values.min(), values.max(), number):
        left[np.argmin(np.where(left, np.abs(values - target), np.inf))] = False
    return np.flatnonzero(~left).tolist()
