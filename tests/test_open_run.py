"""A run's directory, opened: its networks, data, results, parameters and scores."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import ofav2_jax as ofa
from experiments import tables
from ofav2_jax import files
from ofav2_jax.report.page import write_report
from ofav2_jax.run.checkpoint import CorruptCheckpointError
from ofav2_jax.run.run_directory import RunDirectory
from tests.helpers.runs import ROOT, assert_same_run, results_of


def contents(directory):
    """The names and bytes of all files; the lock, which a run takes, among them."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def opened(uninterrupted):
    return ofa.open_run(str(uninterrupted[0]))


def test_what_a_finished_run_came_to(opened, uninterrupted):
    workdir, _ = uninterrupted
    before = contents(workdir)
    assert opened.results == results_of(workdir)
    assert opened.phases == ["full", "kernel", "depth-1", "depth-2", "width-1", "width-2"]
    assert opened.settings.network == "ofa_mbv3" and opened.settings.resolutions == (16,)
    assert opened.net.num_classes == 10 and opened.space == ofa.SearchSpace(opened.net)
    assert opened.dataset.images.shape == (1797, 8, 8, 3)
    recorded = opened.results["phases"][1]["subnets"]
    subnets = [ofa.Subnet.uniform(kernel=row["kernel"]) for row in recorded]
    scores = opened.evaluator.score(opened.params("kernel"), subnets, resolution=16, split="test")
    for score, row in zip(scores, recorded, strict=True):
        ours = score.as_json()
        # On eight devices instead of one: of 359 images one or two may be on a tie.
        assert abs(ours.pop("top1") - row["top1"]) < 0.6 and abs(ours.pop("top5") - row["top5"]) < 0.6
        assert abs(ours.pop("mean_class_top1") - row["mean_class_top1"]) < 0.6
        assert ours == {name: row[name] for name in row if name not in ("top1", "top5", "mean_class_top1")}
    (best,) = opened.evaluator.score(opened.params(), [ofa.Subnet.uniform()], resolution=16, split="validation")
    assert 0 < best.top1 < 100
    images = opened.dataset.normalisation(jax.numpy.asarray(opened.dataset.images[:4], float))
    variables = ofa.recalibrate(opened.net, {"params": opened.params()}, [images], ofa.Subnet.uniform())
    assert ofa.forward(opened.net, variables, images, ofa.Subnet.uniform()).shape == (4, 10)
    assert contents(workdir) == before


def test_parameters_are_those_of_the_phase(opened):
    last, named = opened.params(), opened.params("width-2")
    jax.tree.map(np.testing.assert_array_equal, last, named)
    earlier = jax.tree.leaves(opened.params("full"))
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(last), earlier))


def test_a_run_that_is_not_finished(killed):
    run = ofa.open_run(killed)
    assert run.phases == ["full"]
    assert run.results["name"] == "tiny" and [phase["name"] for phase in run.results["phases"]] == ["full"]
    run.params()
    with pytest.raises(ValueError, match="phase='kernel' is not allowed: it has not ended; full have"):
        run.params("kernel")
    with pytest.raises(ValueError, match=r"phase='kernal' is not allowed: .*; did you mean 'kernel'\?"):
        run.params("kernal")


def test_a_run_of_an_older_version(uninterrupted, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(uninterrupted[0], old)
    settings = json.loads((old / files.SETTINGS).read_text())
    del settings["recipe"]["distillation"]
    (old / files.SETTINGS).write_text(json.dumps(settings))
    lines = [json.loads(line) for line in (old / files.METRICS).read_text().splitlines()]
    for line in lines:
        line["top1"] = line.pop("train_top1") / 100
    (old / files.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = ofa.open_run(old)
    assert run.settings == ofa.open_run(uninterrupted[0]).settings
    assert run.results["phases"] == results_of(uninterrupted[0])["phases"]
    RunDirectory(old).check(run.settings)
    # The page lists the settings as they stand in the file.
    page = write_report(uninterrupted[0]).read_text()
    assert write_report(old).read_text() == page.replace("recipe.distillation = &quot;soft_targets&quot;\n", "")
    assert tables.main([str(old), f"--out={tmp_path / 'tables'}"]) == 0
    assert f"{old}, seed 0" in capsys.readouterr().out


def test_what_cannot_be_opened(uninterrupted, tmp_path):
    with pytest.raises(ValueError, match=r"is not a run directory: there is no settings\.json in it"):
        ofa.open_run(tmp_path)
    (tmp_path / files.SETTINGS).write_text('{"name": "x", "network": "ee_d", "phases": [], "colour": 1}')
    with pytest.raises(ValueError, match="does not hold a run's settings: colour is not a field of Settings"):
        ofa.open_run(tmp_path)

    changed = tmp_path / "changed"
    shutil.copytree(uninterrupted[0], changed)
    data = json.loads((changed / files.DATA).read_text())
    (changed / files.DATA).write_text(json.dumps({**data, "pixels_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="belongs to a run on other data: pixels_sha256 differ"):
        _ = ofa.open_run(changed).dataset
    names = tuple("abcdefghij")
    with pytest.warns(UserWarning, match="fewer: no training images of class k"):
        fewer = dataclasses.replace(ofa.load_dataset("digits"), name="fewer", num_classes=11, class_names=(*names, "k"))
    with pytest.raises(ValueError, match="on other data: class_names, classes, name differ from those of 'fewer' here"):
        _ = ofa.open_run(uninterrupted[0], dataset=fewer).dataset
    digits = ofa.load_dataset("digits")
    assert ofa.open_run(uninterrupted[0], dataset=digits).dataset is digits
    shutil.copy(uninterrupted[0] / files.DATA, changed / files.DATA)
    shutil.rmtree(changed / "phases" / "05-width-2" / "params")
    with pytest.raises(CorruptCheckpointError, match="05-width-2/params cannot be read"):
        ofa.open_run(changed).params()


_FROM_PYTHON = """
import sys
import ofav2_jax as ofa
from ofav2_jax.runtime import programs
programs.compile_quickly()
settings = ofa.open_run(sys.argv[1]).settings
ofa.Run(settings, ofa.load_dataset("digits"), sys.argv[2]).execute()
"""


def test_training_from_python_is_training_from_the_command_line(uninterrupted, cache, tmp_path):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", _FROM_PYTHON, str(uninterrupted[0]), str(tmp_path / "mine")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert_same_run(tmp_path / "mine", uninterrupted[0])
