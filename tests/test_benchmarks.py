"""The benchmarks that open a run: they find its images where the run's own commands do."""

import json
import sys

import pytest

from benchmarks import cascade, search_run
from tests.helpers import supernets

BENCHMARKS = {cascade: ["cascade"], search_run: ["--budget=1"]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The run of a supernet, one that has fine-tuned a design, and a cascade, in the working directory."""
    supernets.write_supernet(tmp_path / "run")
    supernets.write_tuned(tmp_path / "tuned", "k3-e4-d2-l7-h2@16")
    (tmp_path / "cascade").mkdir()
    (tmp_path / "cascade" / "cascade.json").write_text(json.dumps({"design": {"resolution": 16}, "cascades": []}))
    monkeypatch.chdir(tmp_path)


def call(monkeypatch, benchmark, *arguments):
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *arguments, *BENCHMARKS[benchmark]])
    benchmark.main()


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda module: module.__name__)
@pytest.mark.parametrize("flag", ["data_dir", "archive"])
def test_the_flags_of_the_data_reach_the_data_set(benchmark, flag, here, monkeypatch):
    # The digits have neither.
    with pytest.raises(ValueError, match=f"^{flag}='place' is not allowed: the digits have no such choice"):
        call(monkeypatch, benchmark, "--run=run", f"--{flag}=place")


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda module: module.__name__)
def test_a_fine_tuned_design_is_no_supernet(benchmark, here, monkeypatch):
    with pytest.raises(ValueError, match="tuned is not the run of a supernet, but of k3-e4-d2-l7-h2@16, fine-tuned"):
        call(monkeypatch, benchmark, "--run=tuned")
