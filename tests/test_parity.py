"""Networks give the same numbers as the authors' PyTorch networks with the same weights.

Float32 results agree to 1e-4 of the largest logit, float64 ones to 1e-9. Every network runs through the masked
path. A static program for each of many subnets takes long to compile, so that only a selection of subnets runs
through the static path unless `OFAV2_EXHAUSTIVE=1`. test_supernet.py also tests that the two paths agree.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import Choices, forward, forward_exits, recalibrate
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.torch_weights import to_torch
from tests.helpers.programs import masked, masked_gradient, masked_recalibrate, static, static_gradient
from tests.helpers.reference import EARLY_EXIT_NETWORKS, EXHAUSTIVE, assert_close, images, load, subnet_of

FLOAT32, FLOAT64 = 1e-4, 1e-9
RESOLUTIONS = (48, 52, 56, 60, 64)

# The networks for which the more expensive tests run. Together, the networks of a selection have every building block.
FEW = tuple(NETWORKS) if EXHAUSTIVE else ("se_d", "ee_dp")
ONE = tuple(NETWORKS) if EXHAUSTIVE else ("ee_dp",)
IN_FLOAT64 = tuple(NETWORKS) if EXHAUSTIVE else ("ee_dp",)

all_networks = pytest.mark.parametrize("network", NETWORKS)


@pytest.fixture(autouse=True)
def _forget_programs_of_each_test():
    """All cases together have more programs than a process can hold, see conftest.py."""
    yield
    if EXHAUSTIVE:
        jax.clear_caches()


def choices_of(cases):
    return Choices.stack([subnet_of(case) for case in cases])


def assert_logits(logits, cases, reference, tolerance=FLOAT32, dtype=jnp.float32):
    for row, case in zip(logits, cases, strict=True):
        assert_close(row, reference.expected(case["logits"], dtype), tolerance, f"{reference.network} {case['id']}")


@pytest.mark.parametrize(
    ("network", "resolution"),
    [(name, size) for name in NETWORKS for size in RESOLUTIONS if size == 48 or name in ONE],
)
def test_masked_logits(network, resolution):
    reference = load(network)
    cases = reference.select("eval", resolution)
    logits = masked(reference.net(), reference.variables(), images(cases[0]["input"]), choices_of(cases))
    assert_logits(logits, cases, reference)


@all_networks
def test_masked_training_logits(network):
    reference = load(network)
    cases = reference.select("train")
    inputs = images(cases[0]["input"])
    logits = masked(reference.net(), reference.variables(), inputs, choices_of(cases), train=True)
    assert_logits(logits, cases, reference)


@pytest.mark.parametrize("network", FEW)
def test_masked_logits_after_recalibration(network):
    reference = load(network)
    cases = reference.select("eval_recalibrated")
    choices, batches = choices_of(cases), [images(name) for name in cases[0]["calibration_inputs"]]
    recalibrated = masked_recalibrate(reference.net(), reference.variables(), batches, choices)
    logits = masked(reference.net(), recalibrated, images(cases[0]["input"]), choices)
    assert_logits(logits, cases, reference)


@pytest.mark.parametrize("network", EARLY_EXIT_NETWORKS)
def test_masked_exits_and_their_ensembles(network):
    reference = load(network)
    for case in reference.select("all_exits"):
        choices, variables = choices_of([case]), reference.variables()
        if case["calibration_inputs"]:
            if network not in ONE:
                continue
            batches = [images(name) for name in case["calibration_inputs"]]
            variables = masked_recalibrate(reference.net(), variables, batches, choices)
        logits = masked(reference.net(), variables, images(case["input"]), choices, all_exits=True)[:, 0]
        assert_exits(logits, case, reference)


def assert_exits(logits, case, reference):
    for height, (actual, expected) in enumerate(
        zip(logits, reference.expected(case["exit_logits_5xBxC"]), strict=True), start=1
    ):
        assert_close(actual, expected, FLOAT32, f"{reference.network} {case['id']} exit {height}")
    for order in ("desc", "asc"):
        weights = np.array(case[f"ensemble_{order}_weights"], np.float32)
        ensemble = np.tensordot(weights, np.asarray(logits), axes=1)
        expected = reference.expected(case[f"ensemble_{order}"])
        assert_close(ensemble, expected, FLOAT32, f"{reference.network} {case['id']} {order}")


@pytest.mark.parametrize("network", IN_FLOAT64)
def test_masked_logits_in_float64(network):
    reference = load(network)
    with jax.enable_x64(True):
        net, variables = reference.net(jnp.float64), reference.variables(jnp.float64)
        for kind, train in (("eval", False), ("train", True)):
            cases = reference.select(kind, 48)
            inputs = images(cases[0]["input"]).astype(np.float64)
            logits = masked(net, variables, inputs, choices_of(cases), train=train)
            assert_logits(logits, cases, reference, FLOAT64, jnp.float64)


# --- static subnets -------------------------------------------------------------------------------------------


SELECTED = {48: ("max", "min", "min_nw4_nd5"), 56: ("rand0",), 64: ("max", "rand2")}


def static_selection(cases):
    return cases if EXHAUSTIVE else [case for case in cases if case["subnet"] in SELECTED[case["resolution"]]]


@pytest.mark.parametrize("resolution", RESOLUTIONS if EXHAUSTIVE else SELECTED)
@pytest.mark.parametrize("network", FEW)
def test_static_logits(network, resolution):
    reference = load(network)
    for case in static_selection(reference.select("eval", resolution)):
        logits = static(reference.net(), reference.variables(), images(case["input"]), subnet_of(case))
        assert_logits([logits], [case], reference)


@pytest.mark.parametrize("network", FEW)
def test_static_training_logits(network):
    reference = load(network)
    for case in static_selection(reference.select("train")):
        logits = static(reference.net(), reference.variables(), images(case["input"]), subnet_of(case), train=True)
        assert_logits([logits], [case], reference)


@pytest.mark.parametrize("network", ONE)
def test_recalibration_weighs_batches_by_their_sizes(network):
    reference = load(network)
    for case in reference.select("recal_static"):
        batches, subnet = [images(name) for name in case["calibration_inputs"]], subnet_of(case)
        recalibrated = recalibrate(reference.net(), reference.variables(), batches, subnet)
        logits = forward(reference.net(), recalibrated, images(case["input"]), subnet)
        assert_logits([logits], [case], reference)


@pytest.mark.parametrize("network", [name for name in FEW if name in EARLY_EXIT_NETWORKS])
def test_static_exits_and_their_ensembles(network):
    reference = load(network)
    for case in reference.select("all_exits"):
        if not case["calibration_inputs"]:
            logits = forward_exits(reference.net(), reference.variables(), images(case["input"]), subnet_of(case))
            assert_exits(logits, case, reference)


# --- gradients ------------------------------------------------------------------------------------------------


def gradient_of(case, reference, *, is_masked, dtype):
    net, variables = reference.net(dtype), reference.variables(dtype)
    subnet = subnet_of(case)
    labels, teacher_logits = (reference.arrays[case[name]] for name in ("labels", "teacher_logits"))
    loss, gradient = (masked_gradient if is_masked else static_gradient)(
        variables["params"],
        net=net,
        batch_stats=variables["batch_stats"],
        images=images(case["input"]).astype(dtype),
        choices=Choices.stack([subnet]) if is_masked else subnet,
        labels=labels,
        teacher_logits=teacher_logits.astype(dtype),
    )
    return float(loss), to_torch({"params": gradient}, net)


def assert_untouched(gradient, case):
    assert set(gradient) == set(case["grads"]) | set(case["params_without_grad"])
    for name in case["params_without_grad"]:
        assert not np.any(gradient[name]), f"{name} has a gradient, although the subnet does not contain it"


def assert_gradient(gradient, case, tolerance_of):
    """Compares every parameter's norm and sum, both relative to the norm."""
    for name, expected in case["grads"].items():
        if expected["negligible"]:
            continue
        value, norm = gradient[name].astype(np.float64), expected["l2_f64"]
        errors = abs(np.linalg.norm(value) - norm) / norm, abs(value.sum() - expected["sum_f64"]) / norm
        assert all(error <= tolerance_of(expected) for error in errors), (
            f"{case['id']} {name}: relative errors {errors}"
        )


@pytest.mark.parametrize("network", IN_FLOAT64)
def test_masked_gradients_in_float64(network):
    reference = load(network)
    with jax.enable_x64(True):
        for case in reference.select("grad"):
            loss, gradient = gradient_of(case, reference, is_masked=True, dtype=jnp.float64)
            assert loss == pytest.approx(case["loss_f64"], rel=FLOAT64)
            assert_untouched(gradient, case)
            assert_gradient(gradient, case, lambda _: FLOAT64)
            for full in case.get("full_grads", {}).values():
                expected = reference.expected(full["key"], jnp.float64)
                assert_close(gradient[full["param"]], expected, FLOAT64, f"{network} {full['key']}")


@pytest.mark.parametrize("is_masked", [True, False], ids=["masked", "static"])
@pytest.mark.parametrize("network", ONE)
def test_gradients(network, is_masked):
    # The maximal subnet is left out: in float32 an activation can lie within rounding of a ReLU's kink.
    reference = load(network)
    (case,) = [case for case in reference.select("grad") if case["id"] == "grad/grad_rand"]
    loss, gradient = gradient_of(case, reference, is_masked=is_masked, dtype=jnp.float32)
    assert loss == pytest.approx(case["loss"], rel=FLOAT32)
    assert_untouched(gradient, case)

    def tolerance(expected):
        return max(1e-3, 5 * expected["rel_change_perturbed"], 5 * expected["rel_err_f32_vs_f64"])

    assert_gradient(gradient, case, tolerance)
    for full in case["full_grads"].values():
        allowed = tolerance(case["grads"][full["param"]])
        assert_close(gradient[full["param"]], reference.expected(full["key"]), allowed, f"{network} {full['key']}")
