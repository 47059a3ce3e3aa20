"""Hand-written derivatives and gradients are those of the functions that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax.ops import batch_norm
from ofav2_jax.ops.activations import ACTIVATIONS, DERIVATIVES
from ofav2_jax.ops.backend import BACKENDS, traced_for
from ofav2_jax.ops.choose import pick
from ofav2_jax.ops.pointwise import mix_and_normalise


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_also_at_kinks(name):
    z = jnp.array([-4.0, -3.0, -2.5, -1.5, 0.0, 1.0, 3.0, 3.5])
    automatic = jax.vmap(jax.grad(ACTIVATIONS[name]))(z)
    np.testing.assert_allclose(DERIVATIVES[name](z), automatic, rtol=1e-6, atol=1e-7)


def test_each_subnet_gets_its_option_and_its_gradient_goes_there():
    rng = np.random.default_rng(0)
    options = {7: rng.normal(size=(2, 3)), 5: rng.normal(size=(2, 3)), 3: rng.normal(size=(2, 3))}
    options = {key: jnp.asarray(value, jnp.float32) for key, value in options.items()}
    weights = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    choice = [3, 7, 3, 7]
    np.testing.assert_array_equal(pick(jnp.array(choice), options), [options[c] for c in choice])

    gradients = jax.grad(lambda options: jnp.sum(weights * pick(jnp.array(choice), options)))(options)
    for key, gradient in gradients.items():
        expected = sum((weights[s] for s, c in enumerate(choice) if c == key), jnp.zeros((2, 3)))
        np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def plain_batch_norm(x, scale, bias, activation):
    mean = x.mean((2, 3, 4), keepdims=True)
    var = jnp.square(x - mean).mean((2, 3, 4), keepdims=True)
    unit = (x - mean) / jnp.sqrt(var + batch_norm.EPSILON)
    return ACTIVATIONS[activation](scale[:, None, None, None, None] * unit + bias[:, None, None, None, None])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_norm_equals_the_plain_definition(backend, activation):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), traced_for(backend):
        x, weights = (jnp.asarray(rng.normal(size=(3, 2, 4, 5, 6))) for _ in range(2))
        scale, bias = jnp.asarray(rng.uniform(0.5, 2, 3)), jnp.asarray(rng.normal(size=3))

        def ours(x, scale, bias):
            return jnp.sum(weights * batch_norm.normalise_by_batch(x, scale, bias, activation, None)[0])

        def plain(x, scale, bias):
            return jnp.sum(weights * plain_batch_norm(x, scale, bias, activation))

        results = [jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(x, scale, bias) for f in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), *results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_over_devices_equals_that_of_one(backend):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), traced_for(backend):
        x, weights = (jnp.asarray(rng.normal(size=(3, 2, 4, 5, 6))) for _ in range(2))
        scale, bias = jnp.asarray(rng.uniform(0.5, 2, 3)), jnp.asarray(rng.normal(size=3))

        def run(x, weights, axis_name):
            def loss(x, scale, bias):
                y, mean, var = batch_norm.normalise_by_batch(x, scale, bias, "h_swish", axis_name)
                return jnp.sum(weights * y), (mean, var)

            return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)

        (dx, *of_parameters), moments = jax.jit(run, static_argnums=2)(x, weights, None)
        halves = [jnp.stack(jnp.split(array, 2, axis=-1)) for array in (x, weights)]
        (dxs, *of_halves), (means, variances) = jax.pmap(run, "devices", static_broadcasted_argnums=2)(
            *halves, "devices"
        )
    np.testing.assert_allclose(np.concatenate(dxs, axis=-1), dx, rtol=1e-9, atol=1e-12)
    for of_half, expected in zip(of_halves, of_parameters):
        np.testing.assert_allclose(np.asarray(of_half).sum(0), expected, rtol=1e-9)
    for both, expected in zip((means, variances), moments):
        np.testing.assert_allclose(both, np.stack([expected, expected]), rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mean", [0, 10, 100])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_variances_cost_less_than_the_rounding_of_the_values(backend, mean, dtype):
    exact = mean + np.random.default_rng(0).normal(size=(3, 2, 16, 16, 50))
    x = jnp.asarray(exact, dtype)
    with traced_for(backend):
        run = jax.jit(batch_norm.normalise_by_batch, static_argnums=(3, 4))
        _, found, var = run(x, jnp.ones(3), jnp.zeros(3), "identity", None)
    rounded = np.asarray(x, np.float64)
    # The variance of rounding errors between two neighbours; a float32 sum of so many terms errs by a little more.
    rounding = float(jnp.finfo(dtype).eps * max(mean, 1)) ** 2 / 12
    np.testing.assert_allclose(found, rounded.mean((2, 3, 4)), rtol=1e-6, atol=0.1 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(var, rounded.var((2, 3, 4)), rtol=5e-6, atol=rounding)


@pytest.mark.parametrize("num_subnets", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_batch_norm_of_a_product_equals_the_plain_definition(backend, activation, num_subnets):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), traced_for(backend):
        # Means beside which the standard deviation is small, and a scale of 0.
        x = jnp.asarray(rng.normal(size=(3, num_subnets, 4, 5, 6)) + 100 * rng.normal(size=(3, 1, 1, 1, 1)))
        kernel, weights = jnp.asarray(rng.normal(size=(3, 7))), jnp.asarray(rng.normal(size=(7, num_subnets, 4, 5, 6)))
        scale, bias = jnp.asarray([0.0, *rng.uniform(0.5, 2, 6)]), jnp.asarray(rng.normal(size=7))

        def product(kernel, x):
            return jnp.einsum("cd,cshwb->dshwb", kernel, x)

        def ours(kernel, x, scale, bias):
            y, mean, var = mix_and_normalise(kernel, x, scale, bias, activation, None)
            return jnp.sum(weights * y), (mean, var)

        def plain(kernel, x, scale, bias):
            y = product(kernel, x)
            moments = y.mean((2, 3, 4)), y.var((2, 3, 4))
            return jnp.sum(weights * plain_batch_norm(y, scale, bias, activation)), moments

        arguments = kernel, x, scale, bias
        results = [
            jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3), has_aux=True))(*arguments) for f in (ours, plain)
        ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), *results)
