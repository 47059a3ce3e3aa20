"""NSGA-II (Deb et al., 2002) on rows of integers, the non-dominated sort, and the hypervolume of a front."""

from collections.abc import Callable, Sequence

import numpy as np

# Objectives float [N, M], all minimised, and the violation of the constraints float [N], 0 where they are met.
Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ranks(objectives: np.ndarray, violation: np.ndarray | None = None) -> np.ndarray:
    """Sorts points into fronts: those of rank 0 are not dominated, those of rank 1 only by them, and so on.

    Args:
        objectives: float [N, M], all minimised.
        violation: float [N]; a smaller violation dominates a larger one, whatever the objectives are. None: none.

    Returns:
        int [N].
    """
    violation = np.zeros(len(objectives)) if violation is None else violation
    no_worse = (objectives[:, None] <= objectives[None]).all(-1)
    better = no_worse & (objectives[:, None] < objectives[None]).any(-1)
    # [i, j]: i dominates j.
    dominates = (violation[:, None] < violation) | ((violation[:, None] == violation) & better)
    rank = np.full(len(objectives), -1)
    for level in range(len(objectives)):
        left = rank < 0
        if not left.any():
            break
        rank[left & ~dominates[left].any(0)] = level
    return rank


def crowding(objectives: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The crowding distance of each point in its front: float [N], infinite at the ends of a front."""
    distance = np.zeros(len(objectives))
    for level in np.unique(rank):
        (members,) = np.nonzero(rank == level)
        for values in objectives[members].T:
            order = np.argsort(values, kind="stable")
            span = values[order[-1]] - values[order[0]]
            distance[members[order[[0, -1]]]] = np.inf
            if span > 0:
                distance[members[order[1:-1]]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance


def evolve(
    evaluate: Evaluate,
    first: np.ndarray,
    values: Sequence[np.ndarray],
    generations: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Evolves a population: binary tournaments, uniform crossover, and random resets of genes.

    Genes are reset instead of moved, because level codes are bit masks and have no order.

    Args:
        evaluate: from rows to objectives and violation; called once for the first population and once a generation.
        first: the first population, int [P, G].
        values: for each of the G genes the values that it may have.
        generations: how many generations.
        rng: the source of all that is random.

    Returns:
        The last population, int [P, G], best first: by rank, then by crowding distance.
    """
    size, rate = len(first), 1.5 / max(1, sum(len(each) > 1 for each in values))
    population, (objectives, violation) = first, evaluate(first)
    order = _best(objectives, violation)
    population, objectives, violation = population[order], objectives[order], violation[order]
    for _ in range(generations):
        # The population is sorted, so that the smaller of two indices wins the tournament.
        mothers, fathers = rng.integers(size, size=(2, size, 2)).min(-1)
        children = np.where(rng.random(first.shape) < 0.5, population[mothers], population[fathers])
        resets = np.column_stack([each[rng.integers(len(each), size=size)] for each in values])
        children = np.where(rng.random(first.shape) < rate, resets, children)
        of_children = evaluate(children)
        population = np.concatenate([population, children])
        objectives, violation = (
            np.concatenate([objectives, of_children[0]]),
            np.concatenate([violation, of_children[1]]),
        )
        best = _best(objectives, violation)[:size]
        population, objectives, violation = population[best], objectives[best], violation[best]
    return population


def _best(objectives: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Indices, best first; of rows with equal objectives, which mostly are the same network, only one is good."""
    _, unique = np.unique(np.column_stack([objectives, violation]), axis=0, return_index=True)
    rank = np.full(len(objectives), len(objectives))
    distance = np.zeros(len(objectives))
    rank[unique] = ranks(objectives[unique], violation[unique])
    distance[unique] = crowding(objectives[unique], rank[unique])
    return np.lexsort([-distance, rank])


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """The area that points dominate below a reference point.

    Args:
        points: float [N, 2], both minimised. Points that are not below the reference in both do not count.
        reference: the worst value of each.

    Returns:
        The area, in the product of both units.
    """
    area, lowest = 0.0, float(reference[1])
    for x, y in points[np.lexsort([points[:, 1], points[:, 0]])]:
        if x < reference[0] and y < lowest:
            area += (reference[0] - x) * (lowest - y)
            lowest = y
    return float(area)
