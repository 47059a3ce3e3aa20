"""Several steps in one dispatch are the same steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import Settings, SuperNet
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.settings.recipe import Evaluation
from ofav2_jax.train.epoch import EpochMeter, EpochRunner

# The network whose step compiles soonest: nothing here depends on what a step computes.
NETWORK = "ofa_mbv3"
RESOLUTIONS = (8, 16)
STEPS = 7


_DISPATCHES = EpochRunner._dispatches


def single_steps(runner, phase, first_step):
    """The steps of an epoch as dispatches of one step each, in the program that takes several."""
    return [
        (np.full(len(numbers), number), 1, resolution)
        for numbers, count, resolution in _DISPATCHES(runner, phase, first_step)
        for number in numbers[:count]
    ]


@pytest.fixture(scope="module")
def parts():
    with jax.enable_x64(True):
        digits = load_digits(seed=0)
        digits = dataclasses.replace(digits, splits=digits.splits | {"train": digits.splits["train"][: 4 * STEPS]})
        settings = Settings.paper(NETWORK, batch_size=4, resolutions=RESOLUTIONS, evaluation=Evaluation(8, 4, 4, 1))
        net = SuperNet(NETWORK, width_multiplier=0.1, num_classes=10, dtype=jnp.float64)
        yield assemble(settings, digits, jax.devices()[:1], net=net)


def epoch(parts, max_steps, first_step=0):
    """Trains one epoch of the last phase; the final parameters, the sums of loss and top-1, and steps per dispatch."""
    with jax.enable_x64(True):
        parts.engine.max_steps = max_steps
        params = jax.tree.map(lambda v: v.astype(jnp.float64), initial_params(parts.net, 0))
        state = parts.programs.replicate(parts.step.init_state(params))
        teacher = parts.programs.replicate(params)
        meter, counts = EpochMeter(lambda *_: pytest.fail("a loss is not finite")), []
        phase = len(parts.settings.phases) - 1
        for taken in parts.epochs.steps(phase, first_step, state, teacher, parts.space):
            meter.add(taken)
            counts.append(taken.count)
        meter.flush()
        return jax.device_get(taken.state.params), meter.totals, counts


def test_several_steps_in_one_dispatch_are_the_same_steps(parts, monkeypatch):
    params, totals, counts = epoch(parts, 3)
    assert sum(counts) == STEPS and max(counts) > 1 and len(set(counts)) > 1
    plain, plain_totals, plain_counts = epoch(parts, 1)
    assert plain_counts == [1] * STEPS
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), params, plain)
    np.testing.assert_allclose(totals, plain_totals, rtol=1e-9)

    # In one and the same program the parameters are equal to the last bit.
    monkeypatch.setattr(EpochRunner, "_dispatches", single_steps)
    single, single_totals, single_counts = epoch(parts, 3)
    assert single_counts == [1] * STEPS
    jax.tree.map(np.testing.assert_array_equal, params, single)
    assert totals == single_totals


def test_an_epoch_goes_on_from_any_step(parts):
    parts.engine.max_steps = 3
    whole = parts.epochs._dispatches(0, STEPS)
    steps = [(int(number), resolution) for numbers, count, resolution in whole for number in numbers[:count]]
    assert [number for number, _ in steps] == list(range(STEPS, 2 * STEPS))
    for first in range(STEPS, 2 * STEPS):
        rest = parts.epochs._dispatches(0, first)
        assert [(int(n), r) for numbers, count, r in rest for n in numbers[:count]] == steps[first - STEPS :]
        assert all(len(numbers) == 3 and 1 <= count <= 3 for numbers, count, _ in rest)
