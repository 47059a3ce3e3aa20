"""Which designs of an archive are chosen, and by what."""

import dataclasses

import numpy as np
import pytest

from ofav2_jax.nas.costs import Constraint, DesignCosts
from ofav2_jax.nas.features import Features
from ofav2_jax.nas.front import Chosen
from ofav2_jax.nas.predictor import Predictor
from tests.helpers import searches

LIMIT = Constraint.parse("macs<=25M")
LUCK = 3.0


@pytest.fixture(scope="module")
def noisy():
    """What is chosen from by measurements with a standard error of three points, and by expectation; and the truth."""
    genes = searches.genes()
    records = searches.archive(genes, 120)
    truth = np.array([[record.top1[exits] for exits in genes.exit_sets] for record in records])
    luck = LUCK * np.random.default_rng(3).standard_normal(truth.shape)
    measured = [
        dataclasses.replace(record, top1=dict(zip(genes.exit_sets, np.clip(row, 0, 100).tolist())))
        for record, row in zip(records, truth + luck)
    ]
    predictor = Predictor.fit(Features(genes.net, genes.resolutions), measured, genes.exit_sets)
    costs = DesignCosts(genes.net)
    return *(Chosen(genes, costs, "macs", [LIMIT], measured, each) for each in (None, predictor)), truth.ravel()


def test_what_is_expected_is_nearer_to_the_truth_than_what_was_measured(noisy):
    _, found, truth = noisy
    off = [np.sqrt(np.mean((values - truth) ** 2)) for values in (found.top1, found.expected)]
    assert off[1] < 0.6 * off[0] and off[0] == pytest.approx(LUCK, rel=0.1)


def test_luck_is_not_chosen(noisy):
    lucky, found, truth = noisy
    by_luck, by_expectation = (each.lines()[0] for each in (lucky, found))
    assert by_luck.constraint == by_expectation.constraint == LIMIT
    assert lucky.top1[by_luck.place] > found.top1[by_expectation.place]
    assert truth[by_expectation.place] > truth[by_luck.place]


def test_front_rises_with_its_costs_in_what_is_expected(noisy):
    _, found, _ = noisy
    front = [line.place for line in found.lines() if line.constraint is None]
    assert len(front) > 3
    assert (np.diff(found.cost[front]) > 0).all() and (np.diff(found.expected[front]) > 0).all()
