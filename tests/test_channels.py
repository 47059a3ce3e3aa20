"""Sorting channels and counting costs: against the reference, and that sorting leaves the maximal network alone."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from ofav2_jax import Choices, Subnet, SuperNet
from ofav2_jax.model.cost import Cost, count, num_parameters
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.sorting import sort_channels
from ofav2_jax.model.torch_weights import to_torch
from tests.helpers.programs import masked, quick_jit
from tests.helpers.reference import DIRECTORY, EXHAUSTIVE, assert_close, images, load, name_of, subnet_of

# Below this relative gap between two importances float32 does not determine their order.
MIN_GAP = 1e-5

# Cases named stage2 belong to a third width phase, which the paper (Table III) does not have.
PHASES = {"none": (), "stage0": (1,), "stage1": (2,), "stage0_then_1": (1, 2)}

all_networks = pytest.mark.parametrize("network", NETWORKS)


quick_sort = quick_jit(sort_channels, static_argnums=(0, 2))


def sort(reference, operation):
    variables = reference.variables()
    for width_phase in PHASES[operation]:
        variables = quick_sort(reference.net(), variables, width_phase)
    return variables


@pytest.mark.parametrize("operation", [name for name in PHASES if name != "none"])
@all_networks
def test_order_of_channels(network, operation):
    reference = load(network)
    (case,) = [case for case in reference.select("sort_perm") if case["id"] == f"sort/{operation}/perm"]
    old, new = reference.state, to_torch(sort(reference, operation), reference.net())
    for block, expected in case["perms"].items():
        order = reference.arrays[expected["channels"]]
        # Every middle channel has depthwise weights of its own, by which it is recognised.
        weights = f"{block}.depth_conv.conv.conv.weight"
        moved = [new[weights][j].tobytes() for j in range(len(order))]
        wanted = [old[weights][i].tobytes() for i in order]
        for start, end in itertools.pairwise(expected["group_bounds"]):
            assert set(moved[start:end]) == set(wanted[start:end]), block
        if expected["min_rel_gap_in_prefix"] > MIN_GAP:
            assert moved[: expected["exact_prefix"]] == wanted[: expected["exact_prefix"]], block
        if expected.get("se_min_rel_gap", 0) > MIN_GAP:
            bias = f"{block}.depth_conv.se.fc.reduce.bias"
            np.testing.assert_array_equal(new[bias], old[bias][reference.arrays[expected["se_mid"]]])


@pytest.mark.parametrize("network", tuple(NETWORKS) if EXHAUSTIVE else ("ofa_mbv3", "ee_dp"))
def test_logits_after_sorting(network):
    reference = load(network)
    cases = [case for case in reference.select("sort") if case["id"].split("/")[1] in PHASES]
    for operation in PHASES:
        # In the second phase, the order of the second group is not defined where the reference has ties. Of these
        # subnets only the maximal one reads that group, and its logits do not depend on the order.
        chosen = [case for case in cases if case["id"].startswith(f"sort/{operation}/")]
        choices = Choices.stack([subnet_of(case) for case in chosen])
        logits = masked(reference.net(), sort(reference, operation), images(chosen[0]["input"]), choices)
        for row, case in zip(logits, chosen, strict=True):
            assert_close(row, reference.expected(case["logits"]), 1e-4, f"{network} {case['id']}")


@pytest.mark.parametrize("width_phase", [1, 2])
def test_sorting_permutes_and_keeps_the_maximal_network(width_phase):
    reference = load("ee_dp")
    before, after = reference.variables(), quick_sort(reference.net(), reference.variables(), width_phase)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    changed = 0
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
        np.testing.assert_array_equal(np.sort(old, axis=None), np.sort(new, axis=None))
        changed += not np.array_equal(old, new)
    assert changed > 0
    largest = Choices.stack([Subnet.uniform()])
    logits = [masked(reference.net(), v, images("eval_r48"), largest) for v in (before, after)]
    assert_close(logits[1], np.asarray(logits[0]), 1e-5, f"width phase {width_phase}")


@pytest.mark.parametrize("width_phase", [0, 3, "1", True])
def test_unknown_width_phase(width_phase):
    reference = load("ee_dp")
    with pytest.raises(ValueError, match=r"width_phase=.* is not allowed: it must be 1 or 2"):
        sort_channels(reference.net(), reference.variables(), width_phase)


@all_networks
def test_counts_of_a_small_network(network):
    reference = load(network)
    net = reference.net()
    assert num_parameters(net) == reference.counts["supernet_params"]
    for name, expected in reference.counts["subnets"].items():
        all_exits = name.endswith("_all_exits")
        # An entry for all exits has no choices of its own; they are those of the subnet with the same name.
        choices = reference.counts["subnets"][name.removesuffix("_all_exits")]
        cost = count(net, subnet_of(choices), expected["resolution"], all_exits=all_exits)
        assert cost == Cost(expected["params"], expected["macs"]), name


def full_size():
    configs = json.loads((DIRECTORY / "counts_full.json").read_text())["configs"]
    spelled = {name_of(network): network for network in NETWORKS}
    return {
        (spelled[config["network"]], config["width_mult"]): config for config in configs if config["network"] in spelled
    }


@pytest.mark.parametrize("width_multiplier", [1.0, 1.2])
@all_networks
def test_counts_at_full_size(network, width_multiplier):
    config = full_size()[network, width_multiplier]
    net = SuperNet(network, width_multiplier, config["n_classes"])
    assert num_parameters(net) == config["supernet_params"]
    for expected in config["subnets"]:
        name = expected["subnet"].removesuffix("_all_exits")
        level = int(name[-1]) if "_nw" in name else 7
        subnet = Subnet.uniform(level=level) if name == "max" else Subnet.uniform(3, 3, 2, level)
        subnet = dataclasses.replace(subnet, height=expected.get("nd", 5))
        for resolution, macs in expected["macs"].items():
            cost = count(net, subnet, int(resolution), all_exits=expected["subnet"].endswith("_all_exits"))
            assert cost == Cost(expected["params"], macs), (expected["subnet"], resolution)


@pytest.mark.parametrize("resolution", [0, -48, 48.0, "48", True])
def test_bad_resolution(resolution):
    with pytest.raises(ValueError, match=r"resolution=.* is not allowed: it must be a positive int"):
        count(SuperNet("se_d"), Subnet.uniform(), resolution)


def test_count_refuses_a_subnet_of_another_network():
    with pytest.raises(ValueError, match="se_d has a single exit"):
        count(SuperNet("se_d"), Subnet.uniform(height=3), 48)
