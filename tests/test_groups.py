"""Middle channels that a traced expand ratio leaves out are not computed, and nothing else changes."""

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
from ofav2_jax.model.subnet import LevelChoice
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


@pytest.mark.parametrize("train", [False, True], ids=["stored", "batch"])
def test_the_gradient_is_that_of_the_masked_block(train):
    with jax.enable_x64(True):
        block = dataclasses.replace(BLOCKS["h-swish, SE"], dtype=jnp.float64)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, 1, 5, 5, 4)))
        variables, choice = variables_of(block, x, jnp.float64), traced(5, 4)

        def gradient(backend):
            def loss(params, x):
                of_net = {**variables, "params": params}
                output = block.apply(of_net, x, choice, train, mutable=["batch_stats"] if train else [])[0]
                return jnp.sum(jnp.tanh(output))

            with traced_for(backend):
                return quick_jit(jax.grad(loss, (0, 1)))(variables["params"], x)

        # A GPU has no groups.
        jax.tree.map(functools.partial(assert_close, rtol=1e-9), gradient("cpu"), gradient("gpu"))


def test_programs_without_groups():
    """Those of a training step, of several subnets at once, of small blocks; and a GPU's."""
    block = BLOCKS["relu"]
    x = jnp.zeros((SIZE, 1, 5, 5, 4))
    variables = variables_of(block, x, jnp.float32)

    def has_groups(choice, train, mutable=()):
        apply = functools.partial(block.apply, train=train, mutable=list(mutable))
        return "while" in str(jax.make_jaxpr(apply)(variables, x, choice))

    one, two = traced(5, 4), jax.tree.map(lambda values: jnp.repeat(values, 2), traced(5, 4))
    assert has_groups(one, False) and has_groups(one, True, ["batch_stats"])
    assert not has_groups(one, True) and not has_groups(two, False) and not has_groups(two, True, ["batch_stats"])
    with traced_for("gpu"):
        assert not has_groups(one, False)


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
