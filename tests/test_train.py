"""An undisturbed run from the command line; `faults/` tests disturbed ones."""

import dataclasses
import json
import math
import re

import pytest

from experiments.config import settings_from_config
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.assembly import require_fit
from ofav2_jax.run.run import Run
from ofav2_jax.runtime import processes
from tests.configs.tiny import get_config
from tests.helpers.runs import results_of


def test_results(uninterrupted):
    workdir, out = uninterrupted
    results = results_of(workdir)
    names = ["full", "kernel", "depth-1", "depth-2", "width-1", "width-2"]
    assert [phase["name"] for phase in results["phases"]] == names
    assert [len(phase["subnets"]) for phase in results["phases"]] == [1, 3, 6, 9, 18, 27]
    last = results["phases"][-1]
    assert last["best"] == max(subnet["top1"] for subnet in last["subnets"])
    assert math.isclose(last["avg"], sum(subnet["top1"] for subnet in last["subnets"]) / 27)
    assert {(s["kernel"], s["expand"], s["depth"]) for s in last["subnets"]} == {
        (k, e, d) for k in (3, 5, 7) for e in (3, 4, 6) for d in (2, 3, 4)
    }
    visited = [s["top1"] for s in last["subnets"] if s["kernel"] != 5 and s["depth"] != 3]
    assert len(visited) == 12 and last["authors_best"] == max(visited)
    assert math.isclose(last["authors_avg"], sum(visited) / 12)
    for subnet in last["subnets"]:
        assert 0 <= subnet["top1"] <= subnet["top5"] <= 100
        assert subnet["macs"] > 0 and subnet["params"] > 0 and subnet["height"] == 5 and subnet["level"] == 7
    assert re.fullmatch("[0-9a-f]{64}", results["params_sha256"])
    # At the only resolution there are four: phase full, a step with one subnet, recalibration, evaluation.
    assert results["compiled_programs"] == 4
    assert set(results["seconds"]) == {"compile", "train", "evaluate"}
    assert (workdir / "phases" / "03-depth-2" / "teacher").is_dir()
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6, 9, 12, 15, 18, 21]
    assert "parameters" in out and "width-2" in out and results["params_sha256"] in out


def test_batch_size_that_the_devices_cannot_share_is_refused():
    settings = settings_from_config(get_config())
    require_fit(settings, load_digits(0), 4)
    with pytest.raises(ValueError, match="batch_size=400 is not allowed: it must be divisible by the 3 devices"):
        require_fit(settings, load_digits(0), 3)


def test_processes_compare_pixels_too(monkeypatch, tmp_path):
    compared = []
    monkeypatch.setattr(processes, "require_same", lambda what, value: compared.append((what, value)))
    settings, digits = settings_from_config(get_config()), load_digits(seed=0)
    other = dataclasses.replace(digits, images=digits.images[::-1])
    for number, dataset in enumerate((digits, other)):
        Run(dataclasses.replace(settings, batch_size=8), dataset, tmp_path / str(number))
    ours, theirs = (value for what, value in compared if what == "data")
    assert {name for name in ours if ours[name] != theirs[name]} == {"pixels_sha256"}
