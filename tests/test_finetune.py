"""Fine-tuning a design: what is trained, what is kept, how it goes on."""

import functools
import json
import re

import jax
import numpy as np
import pytest

import ofav2_jax as ofa
from experiments import extract
from ofav2_jax.deploy.extract import Extraction
from ofav2_jax.model.network import middle_width
from ofav2_jax.model.supernet import neutral_statistics
from ofav2_jax.report.page import write_report
from ofav2_jax.report.records import read_run
from ofav2_jax.run import opened
from ofav2_jax.run.finetune import finetune
from ofav2_jax.run.reporter import Silent
from ofav2_jax.run.run import Run, StoppedError
from ofav2_jax.run.run_directory import DifferentRunError
from tests.helpers import supernets
from tests.helpers.runs import assert_same_run, records_of, results_of

# Levels of every kernel size and expand ratio, stages of every depth.
DESIGN = ofa.Design.parse("k35753575357535753575-e34634634634634634634-d32423-l7-h2@16+1")
STEPS = 6
_KERNELS = ("kernel", "matrix_7to5", "matrix_5to3")
TUNING = {"epochs": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Keeps programs, all for one device: each run of this module uses the same ones."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "assemble", functools.partial(opened.assemble, devices=jax.devices()[:1]))
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    return ofa.open_run(supernets.write_supernet(tmp_path_factory.mktemp("supernet")))


def prepared(supernet, workdir, **further):
    return finetune(supernet, DESIGN, workdir, devices=jax.devices()[:1], **{**TUNING, **further})


@pytest.fixture(scope="module")
def tuned(supernet, tmp_path_factory):
    """The directory of a design that was fine-tuned."""
    before = contents(supernet.directory)
    workdir = tmp_path_factory.mktemp("tuned")
    prepared(supernet, workdir).execute()
    assert contents(supernet.directory) == before
    return workdir


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- what is trained ------------------------------------------------------------------------------------------------


def by_path(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def test_what_the_design_does_not_use_stays_bit_for_bit(supernet, tuned):
    # Each weight is its own number, so that the network that is taken out tells which ones it uses.
    leaves, structure = jax.tree.flatten(supernet.params())
    firsts = np.cumsum([0, *(leaf.size for leaf in leaves)])
    numbers = [first + np.arange(leaf.size).reshape(leaf.shape) for first, leaf in zip(firsts, leaves)]
    variables = {"params": structure.unflatten(numbers), "batch_stats": neutral_statistics(supernet.net)}
    arrays = Extraction(supernet.net, variables, DESIGN).arrays
    # Depthwise kernels are not slices, but products; the next test is about them.
    slices = [v for name, v in arrays.items() if "/depthwise/" not in name and not name.endswith(("/mean", "/var"))]
    used = np.concatenate([array.ravel() for array in slices]).astype(int)

    start, end = by_path(supernet.params()), by_path(ofa.open_run(tuned).params())
    changed = {name: start[name].view(np.int32) != end[name].view(np.int32) for name in start}
    others = {name: number for name, number in by_path(variables["params"]).items() if "/depthwise/" not in name}
    found = np.concatenate([number[changed[name]] for name, number in others.items()])
    assert set(found) <= set(used)
    # Few of those that are used have no gradient: weights of units that are never active.
    assert len(found) > 0.95 * len(used)


@pytest.mark.parametrize("stage", range(3))
def test_of_elastic_kernels_only_what_the_design_uses_is_trained(supernet, tuned, stage):
    start, end = by_path(supernet.params()), by_path(ofa.open_run(tuned).params())
    width = supernet.net.channels
    for level in range(4):
        path = (
            f"stage_{stage + 1}/" + ("level_1" if level == 0 else "levels_2_to_4") + "/inverted_bottleneck/depthwise/"
        )
        before, after = (
            {kind: each[path + kind] if level == 0 else each[path + kind][level - 1] for kind in _KERNELS}
            for each in (start, end)
        )
        changed = {kind: before[kind] != after[kind] for kind in _KERNELS}
        is_used = stage < DESIGN.subnet.height and level < DESIGN.subnet.depth[stage]
        size = DESIGN.subnet.at(stage, level).kernel if is_used else 0
        assert changed["matrix_7to5"].any() == (size in (3, 5)) and changed["matrix_5to3"].any() == (size == 3)
        assert changed["kernel"].any() == is_used
        if is_used:
            middle = middle_width(width.level_input(stage, level), DESIGN.subnet.at(stage, level).expand)
            assert not changed["kernel"][..., middle:].any() and changed["kernel"][..., :middle].any((0, 1)).all()
        if size in (3, 5):
            changed["kernel"][1:-1, 1:-1] = False
            assert not changed["kernel"].any()


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_tested(tuned):
    (result,) = results_of(tuned)["phases"]
    records = records_of(tuned)
    validation = result["top1"]["validation"]
    candidates = [validation["before"], *(record["validation_top1"] for record in records)]
    assert all(record["start_top1"] == validation["before"] for record in records)
    assert result["best_epoch"] == int(np.argmax(candidates)) > 0
    assert validation["after"] == max(candidates) > validation["before"]
    assert result["design"] == str(DESIGN) and result["top1"]["test"]["images"] == 359
    (row,) = result["subnets"]
    assert row["top1"] == result["best"] == result["avg"] == result["top1"]["test"]["after"]
    assert ofa.Design.from_json(row) == DESIGN


def test_the_start_is_kept_where_no_epoch_is_better(tuned, tmp_path):
    params = ofa.open_run(tuned).params()
    good = ofa.open_run(supernets.write_supernet(tmp_path / "good", params))
    prepared(good, tmp_path / "worse", learning_rate=3.0).execute()
    results = results_of(tmp_path / "worse")
    (result,) = results["phases"]
    assert result["best_epoch"] == 0
    assert all(top1["before"] == top1["after"] for top1 in result["top1"].values())
    assert max(r["validation_top1"] for r in records_of(tmp_path / "worse")) <= result["top1"]["validation"]["before"]
    assert results["params_sha256"] == results_of(tuned)["params_sha256"]


def test_extract_takes_the_network_out(tuned, tmp_path, capsys):
    out = tmp_path / "net.safetensors"
    assert extract.main([f"--run={tuned}", f"--out={out}"]) == 0
    alone = ofa.Standalone.load(out)
    assert alone.design == DESIGN and str(DESIGN) in capsys.readouterr().out
    (result,) = results_of(tuned)["phases"]
    for split, top1 in result["top1"].items():
        assert abs(alone.about["accuracy"][split]["top1"] - top1["after"]) <= 100 / top1["images"] + 1e-9
    assert (alone.params, alone.macs) == (result["subnets"][0]["params"], result["subnets"][0]["macs"])
    assert alone.about["run"]["params_sha256"] == results_of(tuned)["params_sha256"]


def test_the_page_shows_before_and_after(tuned):
    page = write_report(tuned).read_text(encoding="utf-8")
    (result,) = results_of(tuned)["phases"]
    assert str(DESIGN) in page and "Before and after" in page and "Fine-tuned network" in page
    assert f"{result['top1']['test']['before']:.2f}" in page and f"after epoch {result['best_epoch']}" in page
    assert read_run(tuned).metrics[0].start_top1 == result["top1"]["validation"]["before"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.pop("top1"), "top1.validation.before=None is not a number"),
        (lambda result: result["top1"].update(test=[]), "top1.test.before=None is not a number"),
        (lambda result: result.update(best_epoch="1"), "best_epoch='1' is not an int"),
    ],
)
def test_a_page_of_what_is_no_result(change, message, tuned, tmp_path):
    result = json.loads((tuned / "phases" / "00-finetune" / "result.json").read_text())
    change(result)
    (tmp_path / "phases" / "00-finetune").mkdir(parents=True)
    (tmp_path / "phases" / "00-finetune" / "result.json").write_text(json.dumps(result))
    (tmp_path / "settings.json").write_bytes((tuned / "settings.json").read_bytes())
    with pytest.raises(ValueError, match=re.escape(message)):
        read_run(tmp_path)


# --- how it goes on -------------------------------------------------------------------------------------------------


class Crash(Exception):
    """The process is gone."""


class Stops(Silent):
    """Tells a run to stop after a step, or ends it without warning."""

    def __init__(self, after, is_told):
        self.run = None
        self._left, self._is_told = after, is_told

    def stepped(self, progress):
        self._left -= 1
        if self._left == 0 and not self._is_told:
            raise Crash
        if self._left == 0:
            self.run.request_stop()


def test_a_run_goes_on_where_it_was_stopped(supernet, tuned, tmp_path):
    for after, ended in ((2, StoppedError), (STEPS, Crash)):
        reporter = Stops(after, ended is StoppedError)
        reporter.run = prepared(supernet, tmp_path, reporter=reporter, checkpoint_every_s=0)
        with pytest.raises(ended):
            reporter.run.execute()
        assert not (tmp_path / "results.json").exists() and reporter.run.latest_checkpoint is not None
    prepared(supernet, tmp_path).execute()
    assert_same_run(tmp_path, tuned)
    before = (tmp_path / "results.json").read_bytes()
    prepared(supernet, tmp_path).execute()
    assert (tmp_path / "results.json").read_bytes() == before


def test_a_directory_is_that_of_one_design_and_one_start(supernet, tuned, tmp_path):
    other = ofa.Design.parse("k3-e3-d2-l7-h2@16+1")
    with pytest.raises(DifferentRunError, match=r"phases\[0\]\.design is 'k3"):
        finetune(supernet, other, tuned, devices=jax.devices()[:1], **TUNING)
    with pytest.raises(DifferentRunError, match=r"phases\[0\]\.learning_rate is 0.01 there and 0.02 here"):
        prepared(supernet, tuned, learning_rate=0.02)
    others = ofa.open_run(supernets.write_supernet(tmp_path / "run", ofa.open_run(tuned).params()))
    with pytest.raises(DifferentRunError, match=r"phases\[0\]\.start is "):
        prepared(others, tuned)
    settings, dataset = ofa.open_run(tuned).settings, supernet.dataset
    with pytest.raises(ValueError, match="start is missing: the parameters with which the fine-tuning of k3573"):
        Run(settings, dataset, tmp_path / "new")
    with pytest.raises(ValueError, match=r"start has the SHA-256 .*, but the settings are about "):
        Run(settings, dataset, tmp_path / "new", start=others.params())
    with pytest.raises(ValueError, match="start is given, which is not allowed where no design is fine-tuned"):
        Run(supernet.settings, dataset, tmp_path / "new", start=others.params())
    assert not (tmp_path / "new").exists()
