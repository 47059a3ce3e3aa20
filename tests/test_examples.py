"""The examples run, and what they show is so."""

import runpy
from pathlib import Path

_EXAMPLES = Path(__file__).parents[1] / "examples"


def test_minimal_learns_something():
    accuracies = runpy.run_path(str(_EXAMPLES / "minimal.py"))["main"](num_steps=30)
    assert set(accuracies) == {"maximal", "middle", "minimal"}
    # Of ten classes, after 60 steps.
    assert accuracies["maximal"] > 30 and accuracies["middle"] > 20
