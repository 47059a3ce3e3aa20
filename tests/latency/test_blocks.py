"""Networks split into blocks without a rest, and every block that a design has is in the table."""

import collections

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.latency.blocks import block_counts, block_names, split
from ofav2_jax.latency.write import random_variables, whole_designs
from ofav2_jax.nas.genes import Designs
from tests.helpers.latencies import random_designs, small


@pytest.mark.parametrize("network", ["ofa_mbv3", "ee_d", "se_p", "ee_dp"])
def test_a_network_is_the_sum_of_its_blocks(network):
    net = small(network)
    variables, names = random_variables(net), block_names(net)
    designs = random_designs(net, 6)
    for design, counts in zip(designs, block_counts(net, Designs.stack(designs))):
        alone = ofa.extract(net, variables, design)
        parts = split(alone)
        assert sorted(layer.name for part in parts.values() for layer in part.layers) == sorted(
            layer.name for layer in alone.layers
        )
        found = collections.Counter(part.name for part in parts.values())
        if len(design.exits) > 1:
            found[f"ensemble/{len(design.exits)}"] += 1
        assert found == {name: count for name, count in zip(names, counts) if count}


def test_blocks_of_a_paper_network():
    names = block_names(ofa.SuperNet("ee_d", 1.0, 200))
    assert len(names) == len(set(names)) == 1 + 5 * (2 * 9 + 2 + 1) + 4
    assert {"stem", "3/first/k5e4", "3/other/k5e4", "3/add3", "3/exit", "ensemble/5"} <= set(names)
    assert not any("light" in name for name in names)
    single = block_names(ofa.SuperNet("ofa_mbv3", 1.0, 200))
    assert len(single) == 1 + 5 * 2 * 9 + 1 and "5/exit" in single


def test_whole_networks_are_spread_alike_over_fit_and_test():
    designs = whole_designs(ofa.SuperNet("ee_d", 1.0, 200), [48, 56, 64])
    kinds = [(design.subnet.height, design.resolution) for design in designs]
    assert len(set(designs)) == 40 and kinds[::2] == kinds[1::2]
    assert {height for height, _ in kinds} == {1, 2, 3, 4, 5} and {size for _, size in kinds} == {48, 56, 64}
    assert {design.subnet.height for design in whole_designs(ofa.SuperNet("se_d", 1.0, 200), [64])} == {5}


@pytest.mark.parametrize("network", ["ofa_mbv3", "ee_dp"])
def test_random_weights_keep_the_scale_of_maps(network, tmp_path):
    """Numbers that underflow take another time than those of a trained network."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    net = small(network)
    variables, space = random_variables(net), ofa.SearchSpace(net)
    for subnet in (space.maximal(), space.minimal()):
        ofa.to_onnx(ofa.extract(net, variables, ofa.Design(subnet, 32)), tmp_path / "net.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        largest = np.abs(session.run(["logits"], {"images": images})[0]).max()
        assert 1e-10 < largest < 1e10
