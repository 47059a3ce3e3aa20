"""Designs: their text and JSON, equality of equal networks, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ofav2_jax as ofa

MAXIMAL = ofa.Subnet.uniform()


def test_text_and_json_come_back():
    for network in ("ee_dp", "ofa_mbv3"):
        for subnet in ofa.SearchSpace(ofa.SuperNet(network)).sample(jax.random.key(0), 20):
            design = ofa.Design(subnet, 63, exits=tuple({1, subnet.height}) if network == "ee_dp" else None)
            assert ofa.Design.parse(str(design)) == design
            assert ofa.Design.from_json(json.loads(json.dumps(design.as_json()))) == design
            assert hash(ofa.Design.parse(str(design))) == hash(design)


def test_texts_are_short_where_all_that_counts_is_equal():
    for text in ("k7-e6-d4-l7-h5@64", "k5-e4-d2-l7-h4@48+2", "k7-e3-d3-l5-h2@56", "k3-e6-d4-l7-h3@64+1+2"):
        assert str(ofa.Design.parse(text)) == text
    assert ofa.Design.parse("k7-e6-d4-l7-h4@64+2").exits == (2, 4)
    # Without the inverted bottleneck there is neither kernel nor expand ratio.
    assert str(ofa.Design.parse("k7-e6-d2-l2-h1@64")) == "k3-e3-d2-l2-h1@64"


def test_equal_networks_are_equal_designs():
    design = ofa.Design(ofa.Subnet.uniform(depth=2, height=3), 64)
    kernel, level, depth = list(design.subnet.kernel), list(design.subnet.level), list(design.subnet.depth)
    kernel[2], kernel[12], level[3], depth[4] = 5, 7, 2, 4
    other = dataclasses.replace(design.subnet, kernel=tuple(kernel), level=tuple(level), depth=tuple(depth))
    assert ofa.Design(other, 64) == design and str(ofa.Design(other, 64)) == str(design)
    kernel[1] = 3
    assert ofa.Design(dataclasses.replace(design.subnet, kernel=tuple(kernel)), 64) != design
    # A choice without an effect is one that every network allows.
    for network in ("ee_b", "ee_dp"):
        design.require_fit(ofa.SuperNet(network))


def test_rows_of_results_are_designs():
    row = {"resolution": 64, "kernel": 5, "expand": 4, "depth": 3, "level": 7, "height": 4, "top1": 50.0}
    assert ofa.Design.from_json(row) == ofa.Design.parse("k5-e4-d3-l7-h4@64")
    assert ofa.Design.from_json({**row, "height": "ensemble"}).exits == (1, 2, 3, 4, 5)


def test_numbers_of_numpy_are_plain():
    design = ofa.Design(MAXIMAL, np.int64(64), exits=(np.int32(5),))
    assert json.dumps(design.as_json()) == json.dumps(ofa.Design(MAXIMAL, 64).as_json())


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: ofa.Design(MAXIMAL, 0), "resolution=0"),
        (lambda: ofa.Design(MAXIMAL, 64.0), "resolution=64.0"),
        (lambda: ofa.Design(MAXIMAL, True), "resolution=True"),
        (lambda: ofa.Design("k7-e6-d4-l7-h5", 64), "subnet='k7-e6-d4-l7-h5'"),
        (lambda: ofa.Design(MAXIMAL, 64, exits=()), "exits=()"),
        (lambda: ofa.Design(MAXIMAL, 64, exits=5), "exits=5"),
        (lambda: ofa.Design(MAXIMAL, 64, exits=(2,)), "exits=(2,)"),
        (lambda: ofa.Design(MAXIMAL, 64, exits=(0, 5)), "exits=(0, 5)"),
        (lambda: ofa.Design(MAXIMAL, 64, exits=(5, 5)), "exits=(5, 5)"),
        (lambda: ofa.Design(ofa.Subnet.uniform(height=3), 64, exits=(3, 4)), "exits=(3, 4)"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h5"), "@64"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h5@"), "is not readable"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h5@64+"), "is not readable"),
        (lambda: ofa.Design.parse("k8-e6-d4-l7-h5@64"), "kernel contains 8"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h3@64+4"), "exits=(4, 3)"),
        (lambda: ofa.Design.parse(64), "design=64"),
        (lambda: ofa.Design.from_json([]), "design=[]"),
        (lambda: ofa.Design.from_json({"subnet": "k7-e6-d4-l7-h5"}), "no resolution"),
        (lambda: ofa.Design.from_json({"resolution": 64}), "kernel is missing"),
        (lambda: ofa.Design.from_json({"format": "x", "subnet": "k7-e6-d4-l7-h5", "resolution": 64}), "format='x'"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h4@64").require_fit(ofa.SuperNet("se_d")), "height"),
        (lambda: ofa.Design.parse("k7-e6-d4-l7-h5@64+2").require_fit(ofa.SuperNet("se_d")), "exits=(2, 5)"),
        (lambda: ofa.Design.parse("k7-e6-d4-l3-h5@64").require_fit(ofa.SuperNet("ee_d")), "level=3"),
    ],
)
def test_refused(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value) and "\n" not in str(error.value)
