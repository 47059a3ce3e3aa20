"""Costs of many subnets equal those of one, and those that others published."""

import ast
import csv
from pathlib import Path

import jax
import numpy as np
import pytest

import ofav2_jax as ofa

PUBLISHED = Path(__file__).parents[2] / "shared/data/ofa_subnets"


@pytest.mark.parametrize("network, width_multiplier", [("ee_dp", 1.0), ("ofa_mbv3", 1.2), ("se_p", 0.6), ("ee_d", 1.2)])
def test_equal_to_count(network, width_multiplier):
    net = ofa.SuperNet(network, width_multiplier, 50)
    subnets, costs = ofa.SearchSpace(net).sample(jax.random.key(0), 30), ofa.Costs(net)
    resolutions = np.resize([48, 63, 224, 1], len(subnets))
    found = costs(subnets, resolutions)
    expected = [ofa.count(net, subnet, int(r)) for subnet, r in zip(subnets, resolutions)]
    assert found.params.tolist() == [cost.params for cost in expected]
    assert found.macs.tolist() == [cost.macs for cost in expected]
    assert found.macs.dtype == np.int64


def test_exits():
    net = ofa.SuperNet("ee_d", 1.0, 50)
    subnets = [ofa.Subnet.uniform(kernel=k, height=h) for k, h in ((7, 5), (5, 3), (3, 4))]
    costs, expected = ofa.Costs(net), [ofa.count(net, subnet, 64, exits=(1, 3)) for subnet in subnets]
    assert costs(subnets, 64, (1, 3)).macs.tolist() == [cost.macs for cost in expected]
    mask = np.zeros((3, 5), bool)
    mask[:, [0, 2]] = True
    assert costs(subnets, 64, mask).params.tolist() == [cost.params for cost in expected]
    assert ofa.count(net, subnets[0], 64, exits=(1, 2, 3, 4, 5)) == ofa.count(net, subnets[0], 64, all_exits=True)


def test_refused():
    costs, subnets = ofa.Costs(ofa.SuperNet("ee_d")), [ofa.Subnet.uniform(height=3)]
    for args, told in (
        ((subnets, 0), "resolution=0"),
        ((subnets, 64.5), "resolution=64.5"),
        ((subnets, 64, (4,)), "exits=(4,)"),
        ((subnets, 64, (6,)), "exits=(6,)"),
        (([ofa.Subnet.uniform(level=3)], 64), "level=3"),
    ):
        with pytest.raises(ValueError) as error:
            costs(*args)
        assert told in str(error.value)
    with pytest.raises(ValueError, match="exits"):
        ofa.count(ofa.SuperNet("se_d"), ofa.Subnet.uniform(), 64, exits=(2, 5))


# Parameters and multiply-accumulates at 224 px of subnets of Once-For-All's MobileNetV3 of width multiplier 1.0, from
# DyNAS-T's published archives.
OFA_SUBNETS = (
    ("k57553337553773335555-e43444634434336664344-d23243-l7-h5", 5_029_656, 255_502_624),
    ("k35575755535535337753-e64636444434644343343-d33333-l7-h5", 4_271_176, 260_766_768),
    ("k73573355557357555533-e33443344644344336433-d23344-l7-h5", 4_946_632, 239_342_496),
)


@pytest.mark.parametrize("text, params, macs", OFA_SUBNETS)
def test_subnets_of_once_for_all(text, params, macs):
    cost = ofa.count(ofa.SuperNet("ofa_mbv3", 1.0, 1000), ofa.Subnet.parse(text), 224)
    assert (cost.params, cost.macs) == (params, macs)


def test_exit_widths_of_once_for_all():
    # Parameters of the same networks in its own code, at width multiplier 1.2.
    net = ofa.SuperNet("ofa_mbv3", 1.2, 1000, exit_widths="ofa")
    assert net.channels.exits[-1] == (1152, 1536)
    assert ofa.SuperNet("ofa_mbv3", 1.0).channels == ofa.SuperNet("ofa_mbv3", 1.0, exit_widths="ofa").channels
    with pytest.raises(ValueError, match="exit_widths='OFA'"):
        ofa.SuperNet("ofa_mbv3", exit_widths="OFA")


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="published subnets are not here: ../shared/data/ofa_subnets")
def test_published_subnets():
    net = ofa.SuperNet("ofa_mbv3", 1.0, 1000)
    subnets, params, macs = [], [], []
    for file in sorted(PUBLISHED.glob("*.csv")):
        for row in csv.DictReader(file.open(encoding="utf-8")):
            subnets.append(ofa.Subnet.from_json(ast.literal_eval(row["Sub-network"])))
            params.append(int(row["Model Parameters"]))
            macs.append(int(row["MACs"]))
    assert len(subnets) > 1000
    found = ofa.Costs(net)(subnets, 224)
    assert found.params.tolist() == params and found.macs.tolist() == macs
