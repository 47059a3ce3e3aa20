"""The examples run, and what they show is so."""

import runpy
from pathlib import Path

import jax

from tests.helpers.programs import quick_jit

_EXAMPLES = Path(__file__).parents[1] / "examples"


def test_minimal_learns_something(monkeypatch):
    monkeypatch.setattr(jax, "jit", quick_jit)
    accuracies = runpy.run_path(str(_EXAMPLES / "minimal.py"))["main"](num_steps=60)
    assert set(accuracies) == {"maximal", "middle", "minimal"}
    # There are ten classes, and so few steps.
    assert accuracies["maximal"] > 25 and accuracies["middle"] > 20
