"""The predictor, on accuracies that are a known function."""

import dataclasses
import sys

import numpy as np
import pytest
from scipy.stats import kendalltau

import ofav2_jax as ofa
from ofav2_jax.nas.features import Features
from ofav2_jax.nas.genes import Designs, at_height
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.records import Record, top1_of
from tests.helpers import searches


@pytest.fixture(scope="module")
def fitted():
    genes = searches.genes()
    features = Features(genes.net, genes.resolutions)
    return genes, features, Predictor.fit(features, searches.archive(genes, 80), genes.exit_sets[:20])


def test_ranks_designs_within_every_height(fitted):
    genes, _, predictor = fitted
    rows = genes.draw(np.random.default_rng(1), 300)
    rows[:, -2] = np.resize(genes.values[-2][:20], 300)
    designs = genes.designs(rows)
    mean, std = predictor.predict(designs)
    truth = searches.top1(designs)
    assert mean.shape == std.shape == (300,) and (std > 0).all()
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.5 * truth.std()
    for height in range(1, 5):
        here = designs.choices.height == height
        assert kendalltau(mean[here], truth[here]).statistic > 0.6, height


def test_depends_on_nothing_but_the_network(fitted):
    genes, _, predictor = fitted
    designs = genes.designs(genes.draw(np.random.default_rng(2), 40))
    designs = dataclasses.replace(
        designs, exits=np.tile(np.arange(5) == 1, (40, 1)), choices=at_height(designs.choices, 2)
    )
    other = np.array(designs.choices.kernel)
    other[:, 8:] = 3
    changed = dataclasses.replace(designs, choices=dataclasses.replace(designs.choices, kernel=other))
    assert np.array_equal(predictor.predict(designs), predictor.predict(changed))


def test_same_records_same_predictor(fitted):
    genes, features, predictor = fitted
    designs = Designs.stack([ofa.Design.parse("k5-e4-d3-l7-h4@48+2")])
    again = Predictor.fit(features, searches.archive(genes, 80), genes.exit_sets[:20])
    assert np.array_equal(predictor.predict(designs), again.predict(designs))


def test_more_records_than_are_optimised_with():
    genes = searches.genes("ofa_mbv3", resolutions=(64,))
    records = searches.archive(genes, 260)
    predictor = Predictor.fit(Features(genes.net, genes.resolutions), records)
    known = Designs.stack([record.trunk for record in records])
    mean, _ = predictor.predict(known)
    assert np.abs(mean - top1_of(records, [(5,)])[:, 0]).max() < 1


def test_accuracies_of_0_and_100():
    genes = searches.genes("ofa_mbv3", resolutions=(64,))
    records = [
        dataclasses.replace(record, top1={(5,): value})
        for record, value in zip(searches.archive(genes, 3), (0, 50, 100))
    ]
    predictor = Predictor.fit(Features(genes.net, genes.resolutions), records)
    mean, std = predictor.predict(Designs.stack([record.trunk for record in records]))
    assert np.isfinite([mean, std]).all() and (mean >= 0).all() and (mean <= 100).all()


def test_refused(fitted):
    genes, features, predictor = fitted
    records = searches.archive(genes, 2)
    with pytest.raises(ValueError, match="records has 1 entries"):
        Predictor.fit(features, records[:1])
    with pytest.raises(ValueError, match=r"has no top1 of the exits \(9,\)"):
        Predictor.fit(features, records, [(9,)])
    with pytest.raises(ValueError, match=r"exits=\(1, 2, 3, 4, 5\) is not allowed"):
        predictor.predict(Designs.stack([ofa.Design.parse("k5-e4-d3-l7-h5@48+1+2+3+4")]))


def test_without_scikit_learn(fitted, monkeypatch):
    genes, features, _ = fitted
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"scikit-learn is missing: pip install 'ofav2_jax\[search\]'"):
        Predictor.fit(features, searches.archive(genes, 2))


def test_records_refuse():
    trunk = ofa.Design.parse("k5-e4-d3-l7-h4@48")
    for top1, images, told in (
        ({(4,): 101.0}, 10, "101.0 is not allowed"),
        ({(4,): float("nan")}, 10, "nan is not allowed"),
        ({(5,): 1.0}, 10, r"top1=\(5,\) is not allowed"),
        ({}, 10, "top1={} is not allowed"),
        ({(4,): 1.0}, 0, "images=0 is not allowed"),
    ):
        with pytest.raises(ValueError, match=told):
            Record(trunk, top1, images)
    with pytest.raises(ValueError, match="trunk='k5' is not allowed"):
        Record("k5", {(4,): 1.0}, 10)
