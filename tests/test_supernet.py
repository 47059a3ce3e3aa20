"""The static and the masked path of the supernet agree, and bad input is refused."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import Choices, SearchSpace, Subnet, SuperNet, forward, forward_exits, forward_masked, recalibrate
from ofav2_jax.model import stage
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.ops.backend import traced_for
from tests.helpers.programs import masked, quick_jit, static
from tests.helpers.reference import EARLY_EXIT_NETWORKS

NUM_SUBNETS = 2
IMAGES = np.random.default_rng(0).normal(size=(4, 40, 40, 3))


def small_net(network, dtype=jnp.float32):
    return SuperNet(network, width_multiplier=0.25, num_classes=5, dtype=dtype)


def random_variables(net, dtype=jnp.float32):
    """Random values for all variables; at initialisation many are neutral: scale 1, bias 0, mean 0, variance 1."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name == "kernel":
            fan_in = 49 if path[-2].key == "depthwise" else shape[-2]
            value = rng.normal(size=shape) * np.sqrt(2 / fan_in)
        elif name.startswith("matrix"):
            value = np.eye(shape[-1]) + 0.1 * rng.normal(size=shape)
        elif name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = 0.2 * rng.normal(size=shape)
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(fill, variable_shapes(net))


def sampled(net, seed):
    return SearchSpace(net).sample(jax.random.key(seed), NUM_SUBNETS)


def assert_same(actual, expected):
    # The absolute tolerance is for a bias before a batch norm, whose gradient is zero up to rounding.
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)


def test_logits_are_not_rounded_to_bfloat16():
    net = small_net("ee_b", jnp.bfloat16)
    logits = static(net, random_variables(net), jnp.asarray(IMAGES, jnp.float32), Subnet.uniform(height=1))
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("train", [False, True], ids=["stored", "batch"])
def test_masked_logits_equal_static_ones(train):
    with jax.enable_x64(True):
        net = small_net("ee_dp", jnp.float64)
        variables, subnets = random_variables(net, jnp.float64), sampled(net, seed=2)
        rows = masked(net, variables, IMAGES, Choices.stack(subnets), train=train)
        for row, subnet in zip(rows, subnets, strict=True):
            assert_same(row, static(net, variables, IMAGES, subnet, train=train))


def test_masked_gradient_is_the_sum_of_static_ones():
    with jax.enable_x64(True):
        net = small_net("se_dp", jnp.float64)
        variables, subnets = random_variables(net, jnp.float64), sampled(net, seed=3)
        # The gradient of this loss differs from logit to logit.
        weights = np.random.default_rng(4).normal(size=(NUM_SUBNETS, len(IMAGES), net.num_classes))

        def loss(params, choices, weights):
            logits = net.apply({**variables, "params": params}, IMAGES, choices, train=True)
            return jnp.sum(weights * jnp.tanh(logits))

        gradient = quick_jit(jax.grad(loss))(variables["params"], Choices.stack(subnets), weights)
        of_one = quick_jit(jax.grad(loss), static_argnums=1)
        parts = [of_one(variables["params"], subnet, w) for subnet, w in zip(subnets, weights)]
        jax.tree.map(assert_same, gradient, jax.tree.map(lambda *values: sum(values), *parts))


def test_formulations_of_accelerators_give_the_same_gradient():
    with jax.enable_x64(True):
        net = small_net("ee_d", jnp.float64)
        subnets = [dataclasses.replace(subnet, height=3) for subnet in sampled(net, seed=3)]
        variables, choices = random_variables(net, jnp.float64), Choices.stack(subnets)

        def gradient(backend):
            def loss(params):
                return jnp.sum(jnp.tanh(net.apply({"params": params}, IMAGES, choices, train=True)))

            with traced_for(backend):
                return quick_jit(jax.grad(loss))(variables["params"])

        expected = gradient("cpu")
        for other in ("gpu", "tpu"):
            jax.tree.map(assert_same, gradient(other), expected)


def test_skipping_changes_nothing():
    """A CPU skips what a single traced subnet does not contain; a GPU computes and masks it."""
    with jax.enable_x64(True):
        net = small_net("ee_d", jnp.float64)
        variables = random_variables(net, jnp.float64)
        subnet = dataclasses.replace(sampled(net, seed=5)[0], depth=(3, 2, 4, 2, 3))

        def results(backend):
            def loss(params, choices):
                logits = net.apply({"params": params}, IMAGES, choices, train=True)
                return jnp.sum(jnp.tanh(logits)), logits

            with traced_for(backend):
                gradient = quick_jit(jax.grad(loss, has_aux=True))
                stacked = [Choices.stack([dataclasses.replace(subnet, height=height)]) for height in (1, 3, 5)]
                return [gradient(variables["params"], choices) for choices in stacked]

        jax.tree.map(assert_same, results("cpu"), results("gpu"))


def operations(jaxpr):
    """Counts how often each operation occurs in a traced function and in the functions inside it."""
    counts = collections.Counter(equation.primitive.name for equation in jaxpr.eqns)
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                counts += operations(getattr(inner, "jaxpr", inner))
    return counts


def test_loop_over_levels_computes_little_twice(monkeypatch):
    net = small_net("ee_d")
    choices = Choices.stack(sampled(net, 9))

    def loss(params):
        return jnp.sum(net.apply({"params": params}, IMAGES.astype(np.float32), choices, train=True))

    def operations_of_gradient():
        return operations(jax.make_jaxpr(jax.grad(loss))(variable_shapes(net)["params"]).jaxpr)

    once = operations_of_gradient()
    monkeypatch.setattr(stage, "remat", lambda body: body)
    everything_kept = operations_of_gradient()
    # In each of five loops only three products are recomputed: the expansion, and the 5x5 and the 3x3 kernels.
    assert once["dot_general"] == everything_kept["dot_general"] + 3 * 5
    # `ops.saved` avoids this operation, which would copy saved activations.
    assert "reduce_precision" not in once


def test_other_subnets_compile_nothing():
    net = small_net("ee_dp")
    variables = random_variables(net)
    images = IMAGES.astype(np.float32)
    events = []

    def listen(event, duration, **_):
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        logits = [forward_masked(net, variables, images, sampled(net, 5))]
        assert any("compile" in event for event in events)
        others = sampled(net, 6)
        events.clear()
        logits.append(forward_masked(net, variables, images, others))
        assert not any("compile" in event for event in events)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not np.allclose(*logits)


def test_images_do_not_meet_when_statistics_are_stored():
    net = small_net("se_p")
    variables, images = random_variables(net), IMAGES.astype(np.float32)
    choices = Choices.stack(sampled(net, 7))
    whole = masked(net, variables, images, choices)
    changed = images.copy()
    changed[1:] = 0
    np.testing.assert_allclose(masked(net, variables, changed, choices)[:, 0], whole[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_init_creates_everything_whichever_subnet_is_named(network):
    net = small_net(network)
    space = SearchSpace(net)

    def shapes(subnet):
        return jax.eval_shape(lambda key: net.init(key, jnp.zeros((1, 16, 16, 3)), subnet), jax.random.key(0))

    assert shapes(space.minimal()) == shapes(space.maximal())
    assert shapes(sampled(net, 8)[0]) == shapes(space.maximal())


def test_recalibration_leaves_what_the_subnet_does_not_contain():
    net = small_net("ee_b")
    variables = random_variables(net)
    subnet = Subnet.uniform(3, 3, 2, height=2)
    after = recalibrate(net, variables, [IMAGES.astype(np.float32)], subnet)
    assert after["params"] is variables["params"]
    old, new = variables["batch_stats"], after["batch_stats"]
    unused = ("stage_3", "stage_4", "stage_5", "exit_1", "exit_3", "exit_4", "exit_5")
    for name in unused:
        jax.tree.map(np.testing.assert_array_equal, new[name], old[name])
    following = new["stage_1"]["levels_2_to_4"]["inverted_bottleneck"]["expand_bn"]["mean"]
    before = old["stage_1"]["levels_2_to_4"]["inverted_bottleneck"]["expand_bn"]["mean"]
    narrow = 24  # the width of expand ratio 3 on 8 channels
    assert np.all(following[0, :narrow] != before[0, :narrow])
    np.testing.assert_array_equal(following[0, narrow:], before[0, narrow:])
    np.testing.assert_array_equal(following[1:], before[1:])


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{"network": "ee_x"}, {"network": "EE_DP"}, {"network": ""}])
def test_unknown_network(arguments):
    with pytest.raises(ValueError, match=r"network='.*' is unknown; choose one of ofa_mbv3, .*, ee_dp"):
        SuperNet(**arguments)


@pytest.mark.parametrize("width_multiplier", [0, -1.0, float("nan"), float("inf"), "1.0", True])
def test_bad_width_multiplier(width_multiplier):
    with pytest.raises(ValueError, match=r"width_multiplier=.* is not allowed: it must be a number > 0"):
        SuperNet("ee_dp", width_multiplier)


@pytest.mark.parametrize("num_classes", [1, 0, 10.0, True])
def test_bad_number_of_classes(num_classes):
    with pytest.raises(ValueError, match=r"num_classes=.* is not allowed: it must be an int of at least 2"):
        SuperNet("ee_dp", num_classes=num_classes)


def runs(net, images, subnet):
    """Every public way to run a subnet, without variables: bad input is refused before they are used."""
    yield lambda: forward(net, {}, images, subnet)
    yield lambda: forward_masked(net, {}, images, [subnet])
    yield lambda: recalibrate(net, {}, [images], subnet)
    if net.network in EARLY_EXIT_NETWORKS:
        yield lambda: forward_exits(net, {}, images, subnet)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((48, 48, 3), r"images have shape \(48, 48, 3\), which is not allowed: they must be \[B, H, W, 3\]"),
        ((4, 48, 48, 1), r"images have 1 channels, which is not allowed: they must be \[B, H, W, 3\]"),
        ((4, 3, 48, 48), r"images have 48 channels, which is not allowed: they must be \[B, H, W, 3\]"),
    ],
)
def test_bad_images(shape, message):
    for run in runs(SuperNet("ee_dp"), np.zeros(shape, np.float32), Subnet.uniform()):
        with pytest.raises(ValueError, match=message):
            run()


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        ("se_d", {"height": 4}, "height=4 is outside the space: se_d has a single exit, so that height must be 5"),
        ("ee_b", {"level": (6,) * 20}, "level=6 is outside the space: ee_b has no parallel blocks, so that level must"),
    ],
)
def test_subnets_outside_the_space(network, change, message):
    subnet = dataclasses.replace(Subnet.uniform(), **change)
    for run in runs(SuperNet(network), np.zeros((1, 48, 48, 3), np.float32), subnet):
        with pytest.raises(ValueError, match=message):
            run()


def test_exits_of_a_network_with_one():
    with pytest.raises(ValueError, match="network='se_dp' has a single exit: use forward"):
        forward_exits(SuperNet("se_dp"), {}, np.zeros((1, 48, 48, 3), np.float32), Subnet.uniform())


def test_no_subnets_and_no_batches():
    net, images = SuperNet("se_d"), np.zeros((1, 48, 48, 3), np.float32)
    with pytest.raises(ValueError, match="give at least one Subnet"):
        forward_masked(net, {}, images, [])
    with pytest.raises(ValueError, match="batches is empty: give at least one batch of images"):
        recalibrate(net, {}, [], Subnet.uniform())
