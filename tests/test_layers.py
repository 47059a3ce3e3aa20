"""Hand-written derivatives and gradients are those of the functions that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax.ops.activations import ACTIVATIONS, DERIVATIVES
from ofav2_jax.ops.choose import pick


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
