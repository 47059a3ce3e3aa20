"""Costs of designs: the least of a space, and constraints below it."""

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.nas.costs import DesignCosts, least
from tests.helpers import searches


def test_impossible_constraints_name_the_least_cost(tmp_path):
    net = ofa.SuperNet("ofa_mbv3", 0.1, 10)
    with pytest.raises(ValueError, match="constraint='macs<=1k' cannot be met: the least of the space is") as error:
        searches.search(tmp_path / "search", constraints=["macs<=1G", "macs<=1k"])
    cost = ofa.count(net, ofa.Subnet.uniform(3, 3, 2), 16).macs
    assert f"{cost:,} macs, of k3-e3-d2-l7-h5@16" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", ["ee_dp", "se_p"])
@pytest.mark.parametrize("name", ["macs", "params"])
def test_nothing_costs_less_than_the_least(network, name):
    genes = searches.genes(network, "any")
    costs = DesignCosts(genes.net)
    design, value = least(costs, genes, name)
    drawn = costs(name, genes.designs(genes.draw(np.random.default_rng(0), 2000)))
    assert value <= drawn.min()
    counted = ofa.count(genes.net, design.subnet, design.resolution, exits=design.exits)
    assert value == getattr(counted, name)
    # No single change makes it cheaper.
    row = genes.rows([design])
    for place, values in enumerate(genes.values):
        changed = np.repeat(row, len(values), axis=0)
        changed[:, place] = values
        assert costs(name, genes.designs(changed)).min() >= value
