"""Both formulations of a depthwise convolution against XLA's own, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ofav2_jax.ops import depthwise, shifts, toeplitz
from ofav2_jax.ops.backend import BACKENDS, traced_for

FORMULATIONS = {"shifts": shifts.by_shifts, "matrix": toeplitz.by_matrix}


def plain(x, kernel, stride):
    """XLA's grouped convolution, with the images on the first axis and one group per channel and subnet."""
    channels, s, height, width, batch = x.shape
    k = kernel.shape[-1]
    grouped = jnp.moveaxis(x, -1, 0).reshape(batch, channels * s, height, width)
    padding = [(k // 2, k // 2)] * 2
    y = lax.conv_general_dilated(
        grouped, kernel.reshape(-1, 1, k, k), (stride, stride), padding, feature_group_count=channels * s
    )
    return jnp.moveaxis(y.reshape(batch, channels, s, *y.shape[2:]), 0, -1)


def values_and_gradients(convolution, x, kernel):
    y, pull_back = jax.vjp(convolution, x, kernel)
    weights = np.random.default_rng(1).normal(size=y.shape)
    return y, *pull_back(jnp.asarray(weights))


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("height, k, stride", [(7, 7, 1), (7, 7, 2), (8, 7, 1), (8, 7, 2), (2, 7, 1), (7, 3, 2)])
def test_equals_the_plain_definition(formulation, height, k, stride):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((3, 2, height, height + 1, 4), (3, 2, k, k)))
        ours, theirs = (
            jax.jit(lambda x, kernel, f=f: values_and_gradients(lambda a, b: f(a, b, stride), x, kernel))(x, kernel)
            for f in (FORMULATIONS[formulation], plain)
        )
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size, k", [(2, 7), (4, 5), (16, 5), (24, 5), (24, 3)])
def test_every_backends_choice_equals_the_plain_definition(backend, size, k):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), traced_for(backend):
        x, kernel = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 2, size, size, 3), (2, 2, k, k)))
        ours, theirs = (
            jax.jit(lambda x, kernel, f=f: values_and_gradients(lambda a, b: f(a, b, 1), x, kernel))(x, kernel)
            for f in (depthwise.depthwise_conv, plain)
        )
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_image_serves_all_subnets(backend, size):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), traced_for(backend):
        x, kernel = jnp.asarray(rng.normal(size=(2, 1, size, size, 3))), jnp.asarray(rng.normal(size=(2, 3, 5, 5)))
        wide = jnp.broadcast_to(x, (2, 3, size, size, 3))
        run = jax.jit(lambda x, kernel: values_and_gradients(lambda a, b: depthwise.depthwise_conv(a, b, 2), x, kernel))
        y, dx, dkernel = run(x, kernel)
        y_wide, dx_wide, dkernel_wide = run(wide, kernel)
    np.testing.assert_allclose(y, y_wide, rtol=1e-12)
    np.testing.assert_allclose(dx, np.asarray(dx_wide).sum(axis=1, keepdims=True), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dkernel, dkernel_wide, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chosen", [[7], [5], [3], [3, 7]])
@pytest.mark.parametrize("size", [4, 20])
def test_elastic_kernels_equal_the_chosen_ones(chosen, size):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, len(chosen), size, size, 3)))
        kernels = {k: jnp.asarray(rng.normal(size=(2, k, k))) for k in (7, 5, 3)}

        def elastic(x, kernels, choice):
            return depthwise.elastic_conv(x, kernels, choice, 2)

        def separate(x, kernels, choice):
            return jnp.concatenate([plain(x[:, i : i + 1], kernels[k][:, None], 2) for i, k in enumerate(chosen)], 1)

        def loss(f):
            return jax.jit(jax.value_and_grad(lambda *args: jnp.sum(jnp.sin(f(*args))), argnums=(0, 1)))

        ours, theirs = (loss(f)(x, kernels, jnp.array(chosen)) for f in (elastic, separate))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)
