"""The examples run, and what they show is so."""

import runpy
from pathlib import Path

import jax
import pytest

from tests.helpers.programs import quick_jit

_EXAMPLES = Path(__file__).parents[1] / "examples"


def run_minimal(num_steps):
    return runpy.run_path(str(_EXAMPLES / "minimal.py"))["main"](num_steps)


def test_minimal_runs(monkeypatch):
    monkeypatch.setattr(jax, "jit", quick_jit)
    accuracies = run_minimal(num_steps=2)
    assert set(accuracies) == {"maximal", "middle", "minimal"}
    assert all(0 <= accuracy <= 100 for accuracy in accuracies.values())


@pytest.mark.slow
def test_minimal_learns():
    accuracies = run_minimal(num_steps=300)
    assert accuracies["maximal"] > 85 and accuracies["middle"] > 85 and accuracies["minimal"] > 60
