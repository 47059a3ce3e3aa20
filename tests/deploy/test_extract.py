"""A network that was taken out computes what the supernet's subnet does, and costs what was counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.model.network import NETWORKS
from tests.helpers.networks import DESIGN, SIMPLE, images, off, random_variables, standalone


def designs(net, number, resolution, seed=0):
    """Random designs with random exits."""
    rng = np.random.default_rng(seed)
    for subnet in ofa.SearchSpace(net).sample(jax.random.key(seed), number):
        exits = {subnet.height} | {k for k in range(1, subnet.height) if net.spec.early_exits and rng.random() < 0.5}
        yield ofa.Design(subnet, resolution, exits=tuple(exits))


def expected_logits(net, variables, design, x):
    if not net.spec.early_exits:
        return ofa.forward(net, variables, x, design.subnet)
    return ofa.forward_exits(net, variables, x, design.subnet)[np.array(design.exits) - 1].mean(0)


def require_equal(net, design, bar):
    variables = random_variables(net)
    x = images(3, design.resolution).astype(net.dtype)
    alone = ofa.extract(net, variables, design)
    assert off(alone.apply(x), expected_logits(net, variables, design, x)) <= bar
    cost = ofa.count(net, design.subnet, design.resolution, exits=design.exits)
    assert (alone.params, alone.macs) == (cost.params, cost.macs)


@pytest.mark.parametrize("network, design", [("ee_dp", DESIGN), ("ofa_mbv3", SIMPLE)])
def test_equal_to_the_subnet(network, design):
    require_equal(ofa.SuperNet(network, 0.1, 7), ofa.Design.parse(design), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network, resolution", list(itertools.product(NETWORKS, (19, 32))))
def test_equal_to_many_subnets(network, resolution):
    with jax.enable_x64(True):
        net = ofa.SuperNet(network, 0.1, 7, dtype=jnp.float64)
        for design in designs(net, 10, resolution):
            require_equal(net, design, 1e-9)
            jax.clear_caches()


def test_only_what_is_used_is_there():
    alone = standalone()
    assert not any(name.startswith(("exit_2", "stage_4", "stage_1/level_4")) for name in alone.arrays)
    assert alone.arrays["stage_1/level_1/inverted_bottleneck/depthwise/kernel"].shape[:2] == (3, 3)
    # A level without its inverted bottleneck: code 2.
    assert not any("stage_2/level_2/inverted_bottleneck" in name for name in alone.arrays)
    assert alone.outputs.keys() == {1, 3}


def test_logits_of_exits_are_averaged():
    alone = standalone()
    x = images(2)
    np.testing.assert_allclose(alone.apply(x), alone.apply_exits(x).mean(0), rtol=1e-6)
    assert alone.apply_exits(x).shape == (2, 2, 7)


def test_predict_prepares_images_as_a_test_does():
    from ofav2_jax.data.augment import eval_images

    alone = standalone()
    raw = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), np.uint8)
    expected = alone.apply(eval_images(raw, 19, alone.normalisation))
    np.testing.assert_allclose(alone.predict(raw), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda alone: alone.apply(images(2, 20)), "(2, 20, 20, 3)"),
        (lambda alone: alone.apply(images(2)[0]), "(19, 19, 3)"),
        (lambda alone: alone.apply(images(2)[:0]), "(0, 19, 19, 3)"),
        (lambda alone: alone.apply(np.zeros((2, 19, 19, 3), np.uint8)), "uint8"),
        (lambda alone: alone.predict(images(2)), "float32"),
        (lambda alone: alone.predict(np.zeros((2, 19, 19), np.uint8)), "(2, 19, 19)"),
        (lambda alone: alone.predict(np.zeros((2, 3, 19, 19), np.uint8)), "(2, 3, 19, 19)"),
    ],
)
def test_refused_images(call, told):
    with pytest.raises(ValueError, match="not allowed") as error:
        call(standalone())
    assert told in str(error.value)


def test_refused_extractions():
    net = ofa.SuperNet("ofa_mbv3", 0.1, 7)
    variables, design = random_variables(net), ofa.Design.parse(SIMPLE)
    with pytest.raises(ValueError, match="no batch_stats"):
        ofa.extract(net, {"params": variables["params"]}, design)
    with pytest.raises(ValueError, match="height"):
        ofa.extract(net, variables, ofa.Design.parse("k7-e6-d4-l7-h4@64"))
    with pytest.raises(ValueError, match="design='k7"):
        ofa.extract(net, variables, "k7-e6-d4-l7-h5@64")
    with pytest.raises(ValueError, match="class_names are 2"):
        ofa.extract(net, variables, design, class_names=["a", "b"])
    of_two = jax.tree.map(lambda v: np.stack([v, v]), variables["batch_stats"])
    with pytest.raises(ValueError, match="statistics of one subnet"):
        ofa.extract(net, {**variables, "batch_stats": of_two}, design)
    with pytest.raises(ValueError, match="it must be a SuperNet or a run"):
        ofa.extract("run", variables, design)
