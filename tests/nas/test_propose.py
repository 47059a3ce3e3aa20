"""The start set and the proposals of a round."""

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.nas.costs import Constraint
from ofav2_jax.nas.genes import Designs, Genes
from ofav2_jax.nas.nsga import ranks
from ofav2_jax.nas.propose import Proposer, not_dominated, spread
from tests.helpers import searches


def contained(trunks):
    """The networks that trunks contain, one for each height."""
    return {
        ofa.Design(ofa.Subnet(s.kernel, s.expand, s.depth, s.level, height), trunk.resolution)
        for trunk in trunks
        for s in [trunk.subnet]
        for height in range(1, s.height + 1)
    }


@pytest.mark.parametrize("network, budget, number", [("ee_dp", 200, 80), ("ofa_mbv3", 100, 40), ("ee_d", 12, 12)])
def test_start(network, budget, number):
    genes = searches.genes(network, resolutions=(48, 56, 64))
    start = Proposer(genes).start(budget, seed=1)
    assert len(start) == len(set(start)) == number
    assert start == Proposer(genes).start(budget, seed=1) != Proposer(genes).start(budget, seed=2)
    space = genes.space.restrict(height=[genes.top])
    assert ofa.Design(space.maximal(), 64) in start and ofa.Design(space.minimal(), 48) in start
    uniform = {ofa.Design(subnet, 64) for subnet in genes.uniform()}
    # At most half, and the maximal one where that is not among them.
    assert min(len(uniform), number // 2) <= len(uniform & set(start)) <= number // 2 + 1
    assert {trunk.resolution for trunk in start} == {48, 56, 64}
    assert all(trunk.subnet.height == 5 for trunk in start)


def test_all_uniform_trunks_are_in_a_start_of_60():
    genes = searches.genes("ofa_mbv3")
    assert {ofa.Design(subnet, 64) for subnet in genes.uniform()} <= set(Proposer(genes).start(150))


@pytest.fixture(scope="module")
def started():
    genes = searches.genes("ee_dp", "single")
    proposer = Proposer(genes)
    return genes, proposer, searches.evaluate(genes, proposer.start(60))


def test_proposals_are_new_and_follow_from_the_archive(started):
    genes, proposer, archive = started
    proposals = proposer.propose(archive, 1, seed=5)
    assert len(proposals) == len(set(proposals)) == 20
    assert proposals == Proposer(genes).propose(archive, 1, seed=5)
    assert proposals != proposer.propose(archive, 2, seed=5)
    assert not set(proposals) & {record.trunk for record in archive}
    assert all(trunk.subnet.height == 5 for trunk in proposals)
    # Up to some exit, each of them is a network that no archived trunk contains.
    known = {trunk for record in archive for trunk in contained([record.trunk])}
    assert all(contained([trunk]) - known for trunk in proposals)


def test_nothing_of_a_small_space_is_proposed_twice():
    net = ofa.SuperNet("ofa_mbv3", 0.5, 10)
    space = ofa.SearchSpace(net).restrict(kernel=[7], expand=[6], depth=[2, 3])
    genes = Genes(net, [48], "single", space)
    proposer = Proposer(genes)
    # 32 trunks, and archived ones have values outside of the space where they have no effect.
    archive = searches.evaluate(genes, proposer.start(20))
    for round in (1, 2, 3):
        archive += searches.evaluate(genes, proposer.propose(archive, round, number=5))
    trunks = [record.trunk for record in archive]
    assert len(trunks) == len(set(trunks))
    assert len(trunks) == 32 and proposer.propose(archive, 4, number=5) == []


def test_canonical_duplicates_are_known(started):
    genes, proposer, archive = started
    row = genes.rows([archive[3].trunk])
    other = row.copy()
    # Levels 3 and 4 of the first stage, which has depth 2 in one of both.
    row[0, 40], other[0, 40] = 2, 2
    row[0, 2:4], other[0, 2:4] = 3, 7
    known = searches.evaluate(genes, [genes.trunk(row[0])])
    assert proposer._new(np.concatenate([row, other]), known).tolist() == []
    # An exit below the top is known from the trunk, whatever the stages above it are.
    other[0, 16:20], other[0, -2] = 10 - other[0, 16:20], 1 << 2
    assert proposer._new(other, known).tolist() == []
    other[0, -2] = 1 << 4
    assert proposer._new(other, known).tolist() == ([0] if genes.trunk(other[0]) != known[0].trunk else [])


def test_proposals_beat_random_ones(started):
    genes, proposer, archive = started
    limit = float(np.median(proposer.costs(Designs.stack([record.trunk for record in archive]))[0]))
    chosen = Proposer(genes, constraints=[Constraint("macs", limit)])
    proposals = searches.evaluate(genes, chosen.propose(archive, 1))
    random = searches.archive(genes, 20, seed=9)

    def front(records):
        found = chosen._front(records)
        return searches.top1(genes.designs(found)).max(), chosen.costs(genes.designs(found))[1].max()

    assert front(proposals)[1] == 0
    assert front(archive + proposals)[0] > front(archive + random)[0]


def test_limits_and_costs_are_refused():
    genes = searches.genes()
    for kwargs, told in (
        ({"cost": "flops"}, "cost='flops'"),
        ({"cost": "latency"}, "cost='latency'"),
        ({"constraints": [Constraint("latency", 1.0)]}, "cost='latency'"),
    ):
        with pytest.raises(ValueError, match=told):
            Proposer(genes, **kwargs)
    with pytest.raises(ValueError, match="budget=0"):
        Proposer(genes).start(0)
    with pytest.raises(ValueError, match="seed=-1"):
        Proposer(genes).start(50, seed=-1)
    with pytest.raises(ValueError, match=r"seed=0\.5"):
        Proposer(genes).propose([], 1, seed=0.5)
    with pytest.raises(ValueError, match="round=0"):
        Proposer(genes).propose([], 0)
    with pytest.raises(ValueError, match="records has 0 entries"):
        Proposer(genes).propose([], 1)


def test_front_of_many_points():
    rng = np.random.default_rng(0)
    points, violation = rng.integers(0, 30, (300, 2)).astype(float), rng.integers(0, 2, 300) / 2
    _, first = np.unique(points, axis=0, return_index=True)
    points, violation = points[first], violation[first]
    assert sorted(not_dominated(points, violation)) == np.flatnonzero(ranks(points, violation) == 0).tolist()


def test_spread():
    assert spread(np.array([0.0, 0.1, 0.2, 5.0, 10.0]), 3) == [0, 3, 4]
    assert spread(np.array([1.0, 1.0, 1.0]), 2) == [0, 1]
    assert spread(np.array([3.0]), 2) == [0]
