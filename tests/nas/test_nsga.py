"""The sort, the hypervolume and the evolution, beside another library where there is one."""

import moocore
import numpy as np
import pytest

from ofav2_jax.nas import nsga


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_hypervolume(seed):
    # Few values, so that there are ties and duplicates.
    points = np.random.default_rng(seed).integers(0, 12, (60, 2)).astype(float)
    rank = nsga.ranks(points)
    assert rank.tolist() == moocore.pareto_rank(points).tolist()
    assert nsga.hypervolume(points, (10, 9)) == pytest.approx(moocore.hypervolume(points, ref=[10, 9]))
    assert nsga.hypervolume(points[rank == 0], (10, 9)) == pytest.approx(nsga.hypervolume(points, (10, 9)))


def test_hypervolume_by_hand():
    assert nsga.hypervolume(np.array([[1.0, 2.0], [2.0, 1.0], [0.5, 3.0], [3.0, 0.0]]), (3, 3)) == 3.0
    assert nsga.hypervolume(np.zeros((0, 2)), (1, 1)) == 0


def test_feasible_first():
    points, violation = np.array([[0.0, 0.0], [5.0, 5.0], [6.0, 6.0], [1.0, 1.0]]), np.array([0.5, 0, 0, 0.1])
    assert nsga.ranks(points, violation).tolist() == [3, 0, 1, 2]


def test_crowding():
    points = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [5.0, 5.0]])
    assert nsga.crowding(points, np.array([0, 0, 0, 1])).tolist() == [np.inf, 2.0, np.inf, np.inf]


def evolved(seed, violation=0.0):
    """Zeros against ones in 30 genes that are 0, 1 or 2: twos are good for nothing."""
    values = [np.array([0, 1, 2])] * 30

    def evaluate(rows):
        zeros, ones = (rows == 0).sum(1), (rows == 1).sum(1)
        return -np.column_stack([zeros, ones]).astype(float), violation * np.maximum(0, 20 - zeros)

    rng = np.random.default_rng(seed)
    first = rng.integers(3, size=(40, 30))
    return nsga.evolve(evaluate, first, values, 80, rng), evaluate


def test_evolution_finds_the_front():
    last, evaluate = evolved(0)
    assert last.shape == (40, 30)
    points, _ = evaluate(last)
    # All 31 points of the front have 465 in all: 30 * 31 / 2.
    assert nsga.hypervolume(points, (0, 0)) > 0.9 * 435
    constrained, evaluate = evolved(0, violation=1.0)
    assert not evaluate(constrained)[1][:10].any()


def test_evolution_follows_from_the_seed():
    assert np.array_equal(evolved(3)[0], evolved(3)[0])
    assert not np.array_equal(evolved(3)[0], evolved(4)[0])
