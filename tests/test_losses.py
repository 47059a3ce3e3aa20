"""Losses against those of the PyTorch reference, and the weights of the exits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax.settings.exit_weights import ensemble_weights, exit_weights
from ofav2_jax.train.losses import smoothed_cross_entropy, soft_target_cross_entropy
from tests.helpers import recorded

CASES = recorded.load("losses")


@pytest.mark.parametrize("case", CASES.json["cases"], ids=lambda case: case["id"])
def test_values_and_gradients_match_the_reference(case):
    arrays = {name: CASES.arrays[f"{case['id']}/{name}"] for name in ("logits", "teacher_logits", "labels")}
    logits, teacher, labels = (jnp.asarray(arrays[name]) for name in ("logits", "teacher_logits", "labels"))
    losses = {
        "label_smoothing_0.1": lambda z: jnp.mean(smoothed_cross_entropy(z, labels, 0.1)),
        "soft_target_ce": lambda z: jnp.mean(soft_target_cross_entropy(z, teacher)),
        "plain_ce": lambda z: jnp.mean(smoothed_cross_entropy(z, labels, 0.0)),
        "kd_total": lambda z: jnp.mean(smoothed_cross_entropy(z, labels, 0.1) + soft_target_cross_entropy(z, teacher)),
    }
    for name, loss in losses.items():
        value, gradient = jax.value_and_grad(loss)(logits)
        np.testing.assert_allclose(value, case[name], rtol=1e-6)
        np.testing.assert_allclose(gradient, CASES.arrays[f"{case['id']}/grad/{name}"], rtol=1e-5, atol=1e-7)


def test_soft_label_of_the_teachers_ensemble():
    weights, _ = ensemble_weights(CASES.json["ee_teacher_weights"], 5)
    ensemble = np.tensordot(weights, CASES.arrays["ee_teacher/exit_logits"], 1)
    np.testing.assert_allclose(jax.nn.softmax(ensemble), CASES.arrays["ee_teacher/soft_label"], rtol=1e-5, atol=1e-7)


def test_teacher_receives_no_gradient():
    teacher = jnp.array([[1.0, -1.0]])
    gradient = jax.grad(lambda t: soft_target_cross_entropy(jnp.array([[0.3, 0.1]]), t).sum())(teacher)
    assert not gradient.any()


def test_exit_weights():
    np.testing.assert_allclose(exit_weights("desc", 5), np.array([5, 4, 3, 2, 1]) / 15, rtol=1e-6)
    np.testing.assert_allclose(exit_weights("asc", 4), np.array([1, 2, 3, 4]) / 10, rtol=1e-6)
    np.testing.assert_allclose(exit_weights("unif", 2), [0.5, 0.5])
    losses, outputs = ensemble_weights("mix", 5)
    np.testing.assert_allclose(losses, outputs[::-1])
    assert losses[0] > losses[-1]


@pytest.mark.parametrize("numbers", [(5, 4, 3, 2, 1), (0.5, 0.4, 0.3, 0.2, 0.1), [5e30, 4e30, 3e30, 2e30, 1e30]])
def test_exit_weights_that_are_numbers_add_up_to_1(numbers):
    for weights in ensemble_weights(numbers, 5):
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, exit_weights("desc", 5), rtol=1e-7)
    np.testing.assert_array_equal(ensemble_weights(numbers, 1)[0], [1])


@pytest.mark.parametrize("scheme", ["best", (0.5, 0.5), (-1, 1, 1, 1, 1), (0, 0, 0, 0, 0)])
def test_bad_exit_weights_are_refused(scheme):
    with pytest.raises(ValueError, match="exit_weights="):
        ensemble_weights(scheme, 5)


def test_bad_number_of_exits_is_refused():
    with pytest.raises(ValueError, match="num_exits=0"):
        exit_weights("desc", 0)
    with pytest.raises(ValueError, match="'mix'"):
        exit_weights("mix", 5)
