"""Rows of genes, and the keys and features of the networks that they stand for."""

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.nas.features import NUM_COSTS, Features
from ofav2_jax.nas.genes import Designs, Genes, at_height, keys
from tests.helpers import searches


def as_designs(designs):
    exits = [tuple((np.flatnonzero(row) + 1).tolist()) for row in designs.exits]
    subnets = designs.choices.subnets()
    return [ofa.Design(subnet, int(r), own) for subnet, r, own in zip(subnets, designs.resolution, exits)]


@pytest.fixture(scope="module")
def drawn():
    """Random rows, twice: the second half with other values where they have no effect."""
    genes, rng = searches.genes(), np.random.default_rng(0)
    rows = genes.draw(rng, 200)
    again, designs = rows.copy(), genes.designs(rows)
    level = np.tile(np.arange(20), (200, 1))
    active = (level % 4 < designs.choices.depth[:, level[0] // 4]) & (level // 4 < designs.choices.height[:, None])
    other = genes.draw(rng, 200)
    for start, mask in ((0, active & (designs.choices.level & 4 > 0)), (45, active)):
        again[:, start : start + 20] = np.where(mask, rows[:, start : start + 20], other[:, start : start + 20])
    unused = active & (designs.choices.level & 4 == 0)
    again[:, 20:40] = np.where(unused, other[:, 20:40], rows[:, 20:40])
    return genes, np.concatenate([rows, again])


def test_keys_are_equal_where_designs_are(drawn):
    genes, rows = drawn
    designs = genes.designs(rows)
    found = keys(designs.choices, designs.resolution)
    own = [ofa.Design(subnet, int(r)) for subnet, r in zip(designs.choices.subnets(), designs.resolution)]
    assert [found.index(key) for key in found] == [own.index(design) for design in own]
    assert found[:200] == found[200:] and len(set(found)) == 200


def test_features_are_equal_where_networks_are(drawn):
    genes, rows = drawn
    designs = genes.designs(rows)
    found = Features(genes.net, genes.resolutions)(designs.choices, designs.resolution)
    assert np.array_equal(found[:200], found[200:]) and len(np.unique(found, axis=0)) == 200
    cost = ofa.count(genes.net, designs.choices.subnets()[7], int(designs.resolution[7]))
    assert found[7, -NUM_COSTS:].tolist() == np.log([cost.macs, cost.params]).tolist()


def test_features_of_a_prefix(drawn):
    genes, rows = drawn
    designs, features = genes.designs(rows), Features(genes.net, genes.resolutions)
    whole, other = at_height(designs.choices, 5), at_height(designs.choices, 2)
    assert np.array_equal(features(whole, designs.resolution, 2), features(other, designs.resolution))
    with pytest.raises(ValueError, match=r"resolution=63 is not allowed: it must be one of \[48, 64\]"):
        features(whole, np.full(len(rows), 63))


def test_features_by_hand():
    net = ofa.SuperNet("ee_dp", 0.5, 10)
    design = ofa.Design.parse("k5-e4-d2-l3-h1@64")
    many = Designs.stack([design])
    row = Features(net, [48, 64])(many.choices, many.resolution)[0]
    kernel, expand, depth, level, resolution, _ = np.split(row, np.cumsum([60, 60, 15, 60, 2]))
    # No inverted bottleneck: neither kernel size nor expand ratio has an effect.
    assert not kernel.any() and not expand.any()
    assert depth.tolist() == [0, 0, 1] + 12 * [0]
    assert level.reshape(20, 3).sum(1).tolist() == [2, 2] + 18 * [0]
    assert resolution.tolist() == [0, 1]


def test_rows_and_designs(drawn):
    genes, rows = drawn
    designs = genes.designs(rows[:200])
    own = as_designs(designs)
    again = genes.designs(genes.rows(own))
    assert as_designs(again) == own
    assert {design.exits for design in own} <= set(genes.exit_sets) and len(genes.exit_sets) == 31
    assert all(genes.space.contains(design.subnet) for design in own)
    trunk = genes.trunk(rows[0])
    assert trunk.subnet.height == 5 and trunk.exits == (5,)
    assert trunk.subnet.depth == tuple(rows[0, 40:45])


def test_what_may_be_chosen():
    assert searches.genes(exits="single").exit_sets == [(1,), (2,), (3,), (4,), (5,)]
    baseline = searches.genes("ofa_mbv3")
    assert baseline.exit_sets == [(5,)] and baseline.num_elastic == 46
    net = ofa.SuperNet("ee_d")
    low = Genes(net, [64], "any", ofa.SearchSpace(net).restrict(height=[2, 3], depth=[4]))
    assert low.top == 3 and (1, 2, 3) in low.exit_sets and (1,) not in low.exit_sets and low.num_elastic == 41
    assert len(low.uniform()) == 9 and all(subnet.height == 3 for subnet in low.uniform())
    for args, told in ((([64], "all"), "exits='all'"), (([],), "resolutions=\\[\\]"), (([0],), "resolutions=\\[0\\]")):
        with pytest.raises(ValueError, match=told):
            Genes(net, *args)
