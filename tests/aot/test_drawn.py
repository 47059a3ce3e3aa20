"""How often the subnets that a phase draws contain what a program skips."""

import dataclasses

import pytest

from benchmarks.aot import drawn
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Evaluation
from tests.helpers.aot import TINY


@pytest.mark.parametrize(
    ("phase", "num_subnets", "level", "reached", "own"),
    [
        ("kernel", 1, 1, [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]),
        # Depths 4, 3 and 2 run all three levels of the loop, two, and one.
        ("depth2", 2, 2 / 3, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], [1 / 5] * 5),
        ("width2", 4, 2 / 3, [1, 4 / 5, 3 / 5, 2 / 5, 1 / 5], [1 / 5] * 5),
    ],
)
def test_subnets_of_a_step(phase, num_subnets, level, reached, own):
    found = drawn.in_program(TINY, phase)
    assert found.num_subnets == NUM_SUBNETS[phase] == num_subnets
    assert found.probabilities == {
        "if_level_is_active": pytest.approx(level),
        **{f"if_stage_{i + 1}_is_reached": pytest.approx(share) for i, share in enumerate(reached)},
        **{f"if_exit_{i + 1}_is_own": pytest.approx(share) for i, share in enumerate(own)},
    }


@pytest.mark.parametrize("phase", ["recalibrate", "test"])
def test_subnets_of_a_test(phase):
    found = drawn.in_program(dataclasses.replace(TINY, evaluation=Evaluation(6, 3, 3, subnets_per_pass=3)), phase)
    assert found.num_subnets == 3 and found.probabilities["if_level_is_active"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("network", "phase", "level", "stage_4", "exit_4"),
    [
        ("ee_d", "full", 1, 1, 0),
        ("ee_d", "height-2", 1, 2 / 3, 1 / 3),
        ("ee_d", "depth-1", 5 / 6, 2 / 5, 1 / 5),
        ("ofa_mbv3", "width-1", 2 / 3, 1, 0),
    ],
)
def test_subnets_of_each_phase_of_a_run(network, phase, level, stage_4, exit_4):
    phases = paper_phases(network)
    (index,) = (i for i, each in enumerate(phases) if each.name == phase)
    found = drawn.in_phase(network, phases, index).probabilities
    shares = [found[name] for name in ("if_level_is_active", "if_stage_4_is_reached", "if_exit_4_is_own")]
    assert shares == pytest.approx([level, stage_4, exit_4])
