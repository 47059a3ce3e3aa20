"""Inverted bottlenecks that are computed group by group equal those that are not, and leave out what was not drawn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import Choices, SearchSpace, SuperNet
from ofav2_jax.model import groups
from ofav2_jax.model.blocks import InvertedBottleneck
from ofav2_jax.model.network import Block
from ofav2_jax.model.stage import Stage
from ofav2_jax.model.subnet import LevelChoice
from ofav2_jax.ops import depthwise
from ofav2_jax.ops.backend import traced_for
from tests.helpers.networks import random_variables
from tests.helpers.programs import quick_jit

SIZE = 8
BLOCKS = {
    "relu": InvertedBottleneck(SIZE, 16, stride=2, activation="relu", squeeze_excite=False, residual=False),
    "relu, SE": InvertedBottleneck(SIZE, SIZE, stride=1, activation="relu", squeeze_excite=True, residual=True),
    "h-swish, SE": InvertedBottleneck(SIZE, 16, stride=2, activation="h_swish", squeeze_excite=True, residual=False),
}
TOLERANCES = {jnp.float64: 1e-9, jnp.float32: 1e-5}
# Kernel sizes and expand ratios.
CHOICES = {jnp.float64: ((5, 3), (7, 4), (3, 6)), jnp.float32: ((7, 4),)}
NORMS = "expand_bn", "depthwise_bn", "project_bn"


@pytest.fixture(autouse=True)
def all_blocks_are_large(monkeypatch):
    monkeypatch.setattr(groups, "_MIN_PRODUCTS", 0)
    monkeypatch.setattr(groups, "_MIN_BYTES", 0)
    monkeypatch.setitem(depthwise._MAX_MATRIX_SIZE, "cpu", 0)


def traced(kernel, expand):
    return LevelChoice(*(jnp.array([value], jnp.int32) for value in (kernel, expand, int(Block.BOTTLENECK))))


def variables_of(block, x, dtype):
    """Random values for all variables."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, LevelChoice(7, 6, 7), True))
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 + rng.uniform(size=leaf.shape), dtype), shapes)


def results(block, variables, x, choice):
    """Output with stored statistics; output with those of the batch, and these."""
    tested = block.apply(variables, x, choice, False)
    return tested, *block.apply(variables, x, choice, True, mutable=["batch_stats"])


def assert_close(actual, expected, rtol):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_equals_the_static_one(name, dtype):
    with jax.enable_x64(True):
        block, tolerance = dataclasses.replace(BLOCKS[name], dtype=dtype), TOLERANCES[dtype]
        x = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, 1, 5, 5, 4)), dtype)
        variables = variables_of(block, x, dtype)
        of_choice = quick_jit(functools.partial(results, block))
        assert "while" in str(jax.make_jaxpr(functools.partial(results, block))(variables, x, traced(5, 4)))
        for kernel, expand in CHOICES[dtype]:
            found = of_choice(variables, x, traced(kernel, expand))
            static = quick_jit(functools.partial(results, block, choice=LevelChoice(kernel, expand, 4)))(variables, x)
            for output, expected in zip(found[:2], static[:2], strict=True):
                assert_close(output, expected, tolerance)
            for norm in NORMS:
                active = slice(None if norm == "project_bn" else SIZE * expand)
                for moment, unused in (("mean", 0), ("var", 1)):
                    values, of_static = (stats["batch_stats"][norm][moment] for stats in (found[2], static[2]))
                    assert values.shape == of_static.shape
                    assert_close(values[active], of_static[active], tolerance)
                    if norm != "project_bn":
                        assert np.all(values[active.stop :] == unused)


def gradient(block, variables, choice, train, stores, x):
    """Of the parameters and of x, which has an axis of devices in front where the block's batch norm has one."""

    def loss(params, x):
        mutable = ["batch_stats"] if stores else []
        return jnp.sum(jnp.tanh(block.apply({**variables, "params": params}, x, choice, train, mutable=mutable)[0]))

    of_loss = jax.grad(loss, (0, 1))
    if block.axis_name is None:
        return of_loss(variables["params"], x)
    params, of_x = jax.vmap(of_loss, (None, 0), axis_name=block.axis_name)(variables["params"], x)
    return jax.tree.map(lambda each: each.sum(0), params), of_x


@pytest.mark.parametrize(
    "name, choice, train, stores, dtype",
    [
        ("relu", traced(5, 4), True, False, jnp.float64),  # a training step
        ("relu", traced(5, 4), True, False, jnp.bfloat16),
        ("relu", LevelChoice(7, 6, 7), True, False, jnp.float64),  # one of phase full
        ("relu", traced(3, 3), True, True, jnp.float64),
        ("relu", traced(5, 4), False, False, jnp.float64),
        ("h-swish, SE", traced(5, 4), True, True, jnp.float64),
        ("h-swish, SE", traced(5, 4), False, False, jnp.float64),
    ],
)
def test_the_gradient_is_that_of_the_masked_block(name, choice, train, stores, dtype):
    with jax.enable_x64(True):
        block = dataclasses.replace(BLOCKS[name], dtype=dtype)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, 1, 5, 5, 4)), dtype)
        variables = variables_of(block, x, jnp.promote_types(dtype, jnp.float32))

        def of_backend(backend):
            with traced_for(backend):
                return quick_jit(lambda x: gradient(block, variables, choice, train, stores, x))(x)

        def compare(value, of_masked):
            assert value.dtype == of_masked.dtype
            if dtype == jnp.float64:
                assert_close(value, of_masked, 1e-9)
            else:
                value, of_masked = (np.asarray(each, np.float64) for each in (value, of_masked))
                assert np.linalg.norm(value - of_masked) <= 0.1 * np.linalg.norm(of_masked)

        # A GPU has no groups.
        jax.tree.map(compare, of_backend("cpu"), of_backend("gpu"))


def test_the_gradient_over_devices():
    with jax.enable_x64(True):
        block = dataclasses.replace(BLOCKS["relu"], dtype=jnp.float64)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, 1, 5, 5, 4)))
        variables, choice = variables_of(block, x, jnp.float64), traced(5, 4)
        shared = dataclasses.replace(block, axis_name="devices")

        def of(block, x):
            return quick_jit(lambda x: gradient(block, variables, choice, True, False, x))(x)

        params, of_x = of(block, x)
        of_devices, halves = of(shared, jnp.stack([x[..., :2], x[..., 2:]]))
        jax.tree.map(functools.partial(assert_close, rtol=1e-9), of_devices, params)
        assert_close(jnp.concatenate([*halves], -1), of_x, 1e-9)


def has_groups(block, choice, train, mutable=()):
    x = jnp.zeros((SIZE, 1, 5, 5, 4))
    program = jax.make_jaxpr(lambda variables, x: block.apply(variables, x, choice, train, mutable=list(mutable)))
    program = str(program(variables_of(block, x, jnp.float32), x))
    return "while" in program or "scan" in program


def test_programs_without_groups(monkeypatch):
    """Those of several subnets, of training with squeeze-and-excitation, of small blocks and maps; and a GPU's."""
    stores, one, static = ["batch_stats"], traced(5, 4), LevelChoice(5, 4, 7)
    two = jax.tree.map(lambda values: jnp.repeat(values, 2), one)
    for block in (BLOCKS["relu"], BLOCKS["relu, SE"]):
        assert has_groups(block, one, False) and has_groups(block, one, True, stores)
        assert not any(has_groups(block, two, train) for train in (False, True))
        # What a static subnet leaves out keeps the statistics that it has.
        assert not has_groups(block, static, True, stores)
        for choice, train in ((one, True), (static, True), (static, False)):
            assert has_groups(block, choice, train) != block.squeeze_excite
    block = BLOCKS["relu"]
    with traced_for("gpu"):
        assert not has_groups(block, one, False) and not has_groups(block, one, True)
    with monkeypatch.context() as small:
        small.setattr(groups, "_MIN_BYTES", 2**40)
        assert has_groups(block, one, True, stores) and not has_groups(block, one, True)
    monkeypatch.setitem(depthwise._MAX_MATRIX_SIZE, "cpu", 2**14)
    assert has_groups(block, one, True, stores) and not has_groups(block, one, True)


def test_a_recalibrated_network_equals_the_masked_one(monkeypatch):
    """Choices differ from level to level."""
    with jax.enable_x64(True):
        net = SuperNet("ofa_mbv3", 0.1, 5, dtype=jnp.float64)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), random_variables(net)["params"])
        images = np.random.default_rng(2).normal(size=(6, 16, 16, 3))
        subnets = [Choices.stack([subnet]) for subnet in SearchSpace(net).sample(jax.random.key(3), 2)]

        def recalibrate():
            recalibrated = quick_jit(
                lambda choices: net.apply(
                    {"params": params}, images, choices, train=True, all_exits=True, mutable=["batch_stats"]
                )
            )
            return [recalibrated(choices) for choices in subnets]

        in_groups = recalibrate()
        monkeypatch.setattr(groups, "_MIN_PRODUCTS", float("inf"))
        for found, expected in zip(in_groups, recalibrate(), strict=True):
            assert_close(found[0], expected[0], 1e-9)
            assert_same_statistics(found[1], expected[1])
        assert not np.allclose(in_groups[0][0], in_groups[1][0])


def test_the_gradient_of_a_stage_is_that_of_the_masked_one(monkeypatch):
    """Through a level that is skipped, and two that are recomputed for the backward pass."""
    with jax.enable_x64(True):
        net = SuperNet("se_d", 0.1, 5, dtype=jnp.float64)
        stage = Stage(0, net.spec, net.channels, dtype=jnp.float64)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), random_variables(net)["params"]["stage_1"])
        x = jnp.asarray(np.random.default_rng(2).normal(size=(net.channels.stem, 1, 8, 8, 6)))
        (subnet,) = SearchSpace(net).restrict(depth=(3,)).sample(jax.random.key(3), 1)
        choices = Choices.stack([subnet])

        def gradients():
            def loss(params, x):
                return jnp.sum(jnp.tanh(stage.apply({"params": params}, x, choices, True)))

            return quick_jit(jax.grad(loss, (0, 1)))(params, x)

        def compare(path, of_groups, masked):
            np.testing.assert_allclose(of_groups, masked, rtol=1e-9, atol=1e-10, err_msg=jax.tree_util.keystr(path))

        of_groups = gradients()
        monkeypatch.setattr(groups, "_MIN_BYTES", 2**40)
        jax.tree_util.tree_map_with_path(compare, of_groups, gradients())
        assert np.abs(of_groups[1]).max() > 1e-3


def assert_same_statistics(found, expected):
    """Equal, except for inactive middle channels."""

    def compare(path, values, of_masked):
        is_var = path[-1].key == "var"
        is_neutral = (values == is_var) & (path[-2].key in NORMS[:2])
        assert_close(np.where(is_neutral, of_masked, values), of_masked, 1e-9)
        # Levels that are skipped have zeros for both.
        return np.mean(is_neutral) if is_var else 0

    shares = jax.tree.leaves(jax.tree_util.tree_map_with_path(compare, found, expected))
    # Three, two or none of six groups are inactive in a level that is not skipped.
    assert 0 < max(shares) <= 0.5
