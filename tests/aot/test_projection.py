"""A whole run as the sum of its programs."""

import pytest

from benchmarks.aot import projection
from benchmarks.aot.targets import TARGETS, Target
from ofav2_jax import Settings
from tests.helpers.aot import SUBNETS_PROGRAM, TINY


def test_a_tpu_runs_two_programs_and_a_gpu_one_for_each_number_of_subnets():
    settings = Settings.paper("ofa_mbv3")
    assert [phase.name for phase in settings.phases] == ["full", "kernel", "depth-1", "depth-2", "width-1", "width-2"]
    assert projection.programs_of(settings, TARGETS["v5e"]) == {"full": [0], "width2": [1, 2, 3, 4, 5]}
    by_number = {"full": [0], "kernel": [1], "depth2": [2, 3], "width2": [4, 5]}
    assert projection.programs_of(settings, TARGETS["h100"]) == by_number


def test_one_program_is_estimated_for_each_phase(monkeypatch, capsys):
    class Compiled:
        def as_text(self):
            return SUBNETS_PROGRAM

    monkeypatch.setattr(projection, "lower", lambda *_: (None, 0.0))
    monkeypatch.setattr(projection, "compile_for", lambda *_: (Compiled(), 7.0))
    target, settings = Target("tpu", "any", bandwidth=1.0, memory=1, clock_hz=1e3), Settings.paper("ee_d")
    kernel, width_2 = 1, len(settings.phases) - 1
    found = projection.estimate(TINY, settings, target, "width2", [kernel, width_2])
    assert found == {
        ("kernel", 32): {"estimated_ms": pytest.approx(50 + 3 * 100)},
        ("width-2", 32): {"estimated_ms": pytest.approx(4 * (0.2 * 2 + 0.8 * (50 + 1 * 1 + 2 * 100)))},
    }
    assert "width-2   estimated_ms 804.80" in capsys.readouterr().out


def test_a_whole_run_is_the_sum_of_its_phases(capsys):
    settings = Settings.paper("ee_d")
    resolutions = (48, 64)
    estimates = {(phase.name, r): {"bound_ms": r / 10} for phase in settings.phases for r in resolutions}
    found = projection.project(settings, estimates, resolutions)
    # 425 batches of 200 in an epoch; 180 epochs of phase full, 120 and 5 of phase kernel.
    assert [row["steps"] for row in found["phases"]][:2] == [180 * 425, 125 * 425]
    assert found["steps"] == 915 * 425
    assert found["hours"] == {"bound_ms": pytest.approx(915 * 425 * 5.6e-3 / 3600)}
    projection.print_table({"setting": {"resolutions": resolutions}, **found}, missing={56})
    assert "as if they had 48, 64 px; a run draws 56 px as often, too" in capsys.readouterr().out
