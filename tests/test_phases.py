"""Table III, what each phase unlocks, and learning rates."""

import itertools
import math

import numpy as np
import pytest

from ofav2_jax import SearchSpace, SuperNet
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.settings.phases import Phase, learning_rate, paper_phases, unlocked_values
from tests.helpers import recorded


def test_each_network_goes_through_the_phases_of_what_is_elastic_in_it():
    names = {network: [phase.name for phase in paper_phases(network)] for network in NETWORKS}
    common = ["depth-1", "depth-2", "width-1", "width-2"]
    heights = ["height-1", "height-2", "height-3", "height-4"]
    assert names["ofa_mbv3"] == names["se_d"] == ["full", "kernel", *common]
    assert names["se_p"] == names["se_dp"] == ["full", "kernel", "level-1", "level-2", *common]
    assert names["ee_b"] == names["ee_d"] == ["full", "kernel", *heights, *common]
    assert names["ee_p"] == names["ee_dp"] == ["full", "kernel", "level-1", "level-2", *heights, *common]


def num_tested(network, name, resolutions=3):
    phases = paper_phases(network)
    index = [phase.name for phase in phases].index(name)
    return resolutions * math.prod(map(len, unlocked_values(phases, index).values()))


def test_number_of_tested_subnets_is_the_papers():
    assert num_tested("ee_b", "height-2") == 27
    assert num_tested("ee_d", "width-2") == 405
    assert num_tested("ee_dp", "width-2") == 2835
    assert num_tested("ofa_mbv3", "full") == 3


def test_what_is_unlocked_stays_unlocked():
    phases = paper_phases("ee_dp")
    whole = SearchSpace(SuperNet("ee_dp"))
    spaces = [whole.restrict(**unlocked_values(phases, index)) for index in range(len(phases))]
    for before, after in itertools.pairwise(spaces):
        assert all(after.contains(subnet) for subnet in before.uniform_subnets())
    assert spaces[-1] == whole
    assert spaces[0].num_uniform == 1


RUNS = recorded.load("schedule").json


@pytest.mark.parametrize("run", RUNS["runs"], ids=lambda run: f"warmup_lr={run['warmup_lr']}")
def test_learning_rates_match_the_reference(run):
    phase = Phase("kernel", RUNS["base_lr"], RUNS["n_epochs"], RUNS["warmup_epochs"], 1, "kernel", (5, 3))
    per_epoch = RUNS["batches_per_epoch"]
    ours = [
        learning_rate(phase, s["epoch"] * per_epoch + s["batch"], per_epoch, run["warmup_lr"]) for s in run["steps"]
    ]
    np.testing.assert_allclose(ours, [s["lr"] for s in run["steps"]], rtol=1e-12, atol=1e-18)
    assert len(ours) == phase.total_epochs * per_epoch


def test_warm_up_is_flat_unless_told_otherwise():
    phase = Phase("kernel", 0.03, 4, 2, 1, "kernel", (5, 3))
    assert {learning_rate(phase, step, 10) for step in range(20)} == {0.03}


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", 0), ("learning_rate", "0.1"), ("epochs", 0), ("epochs", 1.5), ("warmup_epochs", -1)],
)
def test_bad_numbers_are_refused(field, value):
    fields = {"learning_rate": 0.1, "epochs": 1, "warmup_epochs": 0, "num_subnets": 1, field: value}
    with pytest.raises(ValueError, match=rf"phases\.depth_1\.{field}={value!r}"):
        Phase("depth-1", **fields, unlocks="depth", values=(3,))


def test_sampling_no_subnet_is_refused():
    with pytest.raises(ValueError, match=r"phases\.depth_1\.num_subnets=0"):
        Phase("depth-1", 0.1, 1, 0, 0, "depth", (3,))
