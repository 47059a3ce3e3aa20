"""Programs that are compiled before they are needed are those that a run needs."""

import dataclasses

import jax
import numpy as np
import pytest

from ofav2_jax import Settings, Subnet, SuperNet
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.ahead import compile_ahead
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.runtime.feed import StreamedImages
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.settings.recipe import Evaluation

NET = SuperNet("ee_d", width_multiplier=0.1, num_classes=10)


def refuse(*args):
    raise AssertionError(f"{args[1]} was not compiled ahead")


def test_a_run_compiles_nothing_further(monkeypatch):
    num_devices, max_steps = 2, 3
    digits = load_digits(seed=0)
    # Two phases, because there is a program for each number of subnets: none, and two.
    first, *_, last = Settings.paper("ee_d").phases
    settings = Settings.paper(
        "ee_d",
        batch_size=4,
        resolutions=(16,),
        evaluation=Evaluation(60, 30, 50, 2),
        phases=(first, dataclasses.replace(last, num_subnets=2)),
    )
    devices = jax.devices()[:num_devices]
    parts = assemble(settings, digits, devices, net=NET, feed=StreamedImages(digits, devices))
    parts.engine.max_steps = max_steps
    thread = compile_ahead(parts)
    thread.join()
    monkeypatch.setattr(Programs, "_compile", refuse)

    params = parts.programs.replicate(initial_params(NET, 0))
    state = parts.programs.replicate(parts.step.init_state(params))
    taken = next(parts.epochs.steps(0, 0, state, None, parts.space))
    taken = next(parts.epochs.steps(1, 0, taken.state, params, parts.space))
    assert taken.count == max_steps and taken.metrics["loss"].shape[-1] == 2
    assert np.isfinite(taken.metrics["loss"]).all()
    scores = parts.evaluator.score(params, [Subnet.uniform(), Subnet.uniform(kernel=3)], 16, "test")
    assert len(scores) == 2 and len(parts.programs) == 4


def test_a_program_that_does_not_compile_says_so_where_it_is_needed():
    programs = Programs(jax.devices()[:1], (16,))

    class Broken:
        def compile(self, options):
            raise ValueError("no tile size found")

    programs.compile_ahead("broken", 16, Broken())
    with pytest.raises(ValueError, match="no tile size found"):
        programs.run("broken", 16, lambda _: None)
