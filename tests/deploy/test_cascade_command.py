"""The command cascade: from a run to files that let images leave where it was simulated; what is refused, in a line."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import ofav2_jax as ofa
from experiments import cascade, export, extract
from ofav2_jax.deploy.cascade import simulate
from ofav2_jax.deploy.cascade_files import verify_cascades
from ofav2_jax.deploy.segments import to_onnx_segments
from ofav2_jax.run import cascade as of_run
from ofav2_jax.run import checkpoint
from tests.helpers.finished import RESOLUTION, write_finished
from tests.helpers.networks import random_variables
from tests.helpers.refusals import refusal_of

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

SPLITS = ("validation", "test")


def told_otherwise(file, other, source):
    """Writes the same network with another run that it was taken out of."""
    with safetensors.safe_open(file, "numpy") as content:
        arrays = {name: content.get_tensor(name) for name in content.keys()}
        metadata = content.metadata()
    header = json.loads(metadata["network"])
    header["about"]["run"] = source
    safetensors.numpy.save_file(arrays, other, {**metadata, "network": json.dumps(header)})


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A directory with a run, a network of three exits out of it, and what is not usable with them."""
    here = tmp_path_factory.mktemp("here")
    run = ofa.open_run(write_finished(here / "run"))
    write_finished(here / "other", seed=1)
    shutil.copytree(here / "run", here / "damaged")
    shutil.rmtree(here / "damaged" / "phases" / "00-full" / "params")
    variables = random_variables(run.net)
    source = {"name": "finished", "phase": "full", "params_sha256": checkpoint.digest(run.params())}
    for name, design in (("net", f"k3-e3-d2-l7-h3@{RESOLUTION}+1+2"), ("single", f"k3-e3-d2-l7-h1@{RESOLUTION}")):
        alone = ofa.extract(run.net, variables, ofa.Design.parse(design), normalisation=run.dataset.normalisation)
        dataclasses.replace(alone, about={**alone.about, "run": source}).save(here / f"{name}.safetensors")
    told_otherwise(here / "net.safetensors", here / "homeless.safetensors", None)
    told_otherwise(here / "net.safetensors", here / "later.safetensors", {**source, "phase": "kernel"})
    (here / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (here / "empty").mkdir()
    (here / "taken").mkdir()
    return here


@pytest.fixture(scope="module")
def made(here):
    """The run, the network, and what the command wrote of them."""
    arguments = [f"--run={here}/run", f"--network={here}/net.safetensors", "--latency=1,0.5,0.25"]
    constraints = ["--constraint", "macs<=57k", "latency<=1.4ms", "--constraint=macs<=1M"]
    assert cascade.main([*arguments, *constraints, f"--out={here}/made"]) == 0
    return ofa.open_run(here / "run"), ofa.Standalone.load(here / "net.safetensors"), here / "made"


def test_what_is_written(made):
    run, alone, directory = made
    files = {"segment_1.onnx", "segment_2.onnx", "segment_3.onnx", "cascade.json", "run.py"}
    assert {file.name for file in directory.iterdir()} == files
    record = json.loads((directory / "cascade.json").read_text())
    assert ofa.Design.from_json(record["design"]) == alone.design and record["about"] == alone.about
    assert record["num_classes"] == 10 and record["input"] == "uint8"
    macs = [segment["macs"] for segment in record["segments"]]
    assert [segment["exit"] for segment in record["segments"]] == [1, 2, 3] and macs[-1] == alone.macs
    assert [segment["latency"] for segment in record["segments"]] == [1, 1.5, 1.75]
    limits = {"macs<=57k": ("macs", 57_000), "latency<=1.4ms": ("latency", 1.4), "macs<=1M": ("macs", 10**6)}
    assert [each["constraint"] for each in record["cascades"]] == list(limits)
    for each in record["cascades"]:
        kind, limit = limits[each["constraint"]]
        assert each["validation"]["mean"][kind] <= limit and each["worst"]["macs"] in macs
        for split in SPLITS:
            assert each[split]["images"] == len(run.dataset.splits[split])
            assert each[split]["mean"]["macs"] == pytest.approx(np.dot(each[split]["shares"], macs))
    best = max(each["validation"]["top1"] for each in record["static"][:-1])
    assert record["cascades"][-1]["validation"]["top1"] >= best


def test_exits_and_accuracies_are_those_of_the_network(made):
    run, alone, directory = made
    record = json.loads((directory / "cascade.json").read_text())
    for split in SPLITS:
        images = np.concatenate(list(of_run.prepared(run, alone, split, "uint8")))
        labels = run.dataset.labels[run.dataset.splits[split]]
        logits = np.asarray(alone.apply_exits(alone.normalisation(images.astype(np.float32))))
        right = logits.argmax(-1) == labels
        for place, each in enumerate(record["static"][:-1]):
            assert each["exits"] == [place + 1] and each[split]["top1"] == pytest.approx(100 * right[place].mean())
        ensemble = logits.mean(0).argmax(-1) == labels
        assert record["static"][-1][split]["top1"] == pytest.approx(100 * ensemble.mean())
        for each in record["cascades"]:
            exits = simulate(logits, each["thresholds"])
            np.testing.assert_allclose(np.bincount(exits, minlength=3) / len(exits), each[split]["shares"])
            assert each[split]["top1"] == pytest.approx(100 * right[exits, np.arange(len(exits))].mean())


# Importing what the files must not need is refused.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "flax", "onnx", "ofav2_jax", "safetensors", "PIL", "scipy"):
            raise ImportError(f"{name} is not needed")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_py(directory, *arguments):
    command = [sys.executable, "-I", "-c", ALONE, str(directory / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory.parent)


def test_the_files_run_by_themselves(made, tmp_path):
    run, alone, directory = made
    moved = shutil.copytree(directory, tmp_path / "moved")
    images = np.concatenate(list(of_run.prepared(run, alone, "validation", "uint8")))
    np.save(tmp_path / "images.npy", images)
    record = json.loads((directory / "cascade.json").read_text())
    logits = np.asarray(alone.apply_exits(alone.normalisation(images.astype(np.float32))))
    for arguments, each in (((), record["cascades"][0]), (("macs<=1M",), record["cascades"][2])):
        done = run_py(moved, tmp_path / "images.npy", *arguments)
        assert done.returncode == 0, done.stderr
        exits = simulate(logits, each["thresholds"])
        classes = logits[exits, np.arange(len(exits))].argmax(-1)
        expected = [f"{i}\texit {exits[i] + 1}\tclass {classes[i]}" for i in range(len(exits))]
        assert done.stdout.splitlines() == expected
    assert len(set(exits)) > 1


def test_what_the_files_refuse(made, tmp_path):
    from ofav2_jax.deploy.run_cascade import Cascade

    _, _, directory = made
    with pytest.raises(ValueError, match=r"constraint='macs<=9' is not allowed: one of macs<=57k, latency<=1\.4ms"):
        Cascade("macs<=9", directory)
    runner = Cascade(directory=directory)
    for wrong in (np.zeros((2, 16, 16, 3)), np.zeros((2, 17, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"which is not allowed: uint8 \[N, 16, 16, 3\]"):
            runner.classify(wrong)
    logits, exits = runner.classify(np.zeros((0, 16, 16, 3), np.uint8))
    assert logits.shape == (0, 10) and exits.shape == (0,)
    (tmp_path / "text.npy").write_text("no array")
    for arguments in ([tmp_path / "text.npy"], [tmp_path / "missing.npy"], []):
        done = run_py(directory, *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_floats(here, made, tmp_path, capsys):
    run, alone, _ = made
    arguments = [f"--run={here}/run", f"--network={here}/net.safetensors", "--constraint=macs<=57k", "--input=float"]
    assert cascade.main([*arguments, f"--out={tmp_path}/float"]) == 0
    told = capsys.readouterr().out
    record = json.loads((tmp_path / "float" / "cascade.json").read_text())
    assert record["input"] == "float"
    # As in the run's own tests: nothing is rounded.
    images = np.asarray(run.dataset.images[run.dataset.splits["test"]])
    labels = run.dataset.labels[run.dataset.splits["test"]]
    found = 100 * (np.asarray(alone.predict(images)).argmax(-1) == labels).mean()
    assert record["static"][-1]["test"]["top1"] == pytest.approx(found)
    assert f"{found:.2f}" in told and "of finished" not in told and "phase full" in told
    assert f"{record['cascades'][0]['test']['top1']:.2f}" in told and "0.46 and 0.28 points" in told


def test_files_that_compute_something_else_are_removed(here, tmp_path, monkeypatch, capsys):
    write = of_run.Cascades.write

    def changed(self, directory):
        write(self, directory)
        record = json.loads((directory / "cascade.json").read_text())
        record["cascades"][0]["thresholds"][0] += 0.05
        (directory / "cascade.json").write_text(json.dumps(record))

    monkeypatch.setattr(of_run.Cascades, "write", changed)
    arguments = [f"--run={here}/run", f"--network={here}/net.safetensors", "--constraint=macs<=57k"]
    assert cascade.main([*arguments, f"--out={tmp_path}/new"]) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    assert "images leave at another exit with macs<=57k; removed" in error
    assert not list(tmp_path.iterdir())


def test_wrong_segments_do_not_pass(made, tmp_path):
    run, alone, directory = made
    images = next(of_run.prepared(run, alone, "validation", "uint8"))[:70]
    logits = np.asarray(alone.apply_exits(alone.normalisation(images.astype(np.float32))))
    record = json.loads((directory / "cascade.json").read_text())
    exits = {each["constraint"]: 1 + simulate(logits, each["thresholds"]) for each in record["cascades"]}
    assert verify_cascades(directory, [images[:65], images[65:]], logits, exits) < 1e-5
    arrays = {name: 1.01 * array if name.startswith("stage_2") else array for name, array in alone.arrays.items()}
    other = shutil.copytree(directory, tmp_path / "other")
    to_onnx_segments(dataclasses.replace(alone, arrays=arrays), other)
    with pytest.raises(ValueError, match="segment 2 gives other logits than the network: off by"):
        verify_cascades(other, [images], logits, exits)
    (other / "segment_3.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"run\.py does not run: .*segment_3"):
        verify_cascades(other, [images], logits, exits)
    with pytest.raises(ValueError, match=r"1 of 5 images leave at another exit with macs<=57k"):
        exits["macs<=57k"][-1] = 4
        verify_cascades(directory, [images[:65], images[65:]], logits, exits)


def test_damaged_parameters_are_one_line_for_extract_too(here, tmp_path, capsys):
    arguments = [f"--run={here}/damaged", f"--subnet=k3-e3-d2-l7-h1@{RESOLUTION}", f"--out={tmp_path}/net.safetensors"]
    assert extract.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and "params cannot be read" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_several_exits_exported_whole(made, tmp_path):
    _, alone, _ = made
    alone.save(tmp_path / "net.safetensors")
    arguments = [f"--network={tmp_path}/net.safetensors", "--format=onnx", f"--out={tmp_path}/net.onnx"]
    assert export.main(arguments) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "exit_1", "exit_2", "exit_3"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra(package, here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [argument.format(here=here) for argument in (*USUAL, LIMIT)]
    assert cascade.main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {package} is missing: pip install 'ofav2_jax[export]'\n")


RUN, NETWORK, OUT = "--run={here}/run", "--network={here}/net.safetensors", "--out={here}/new"
LIMIT = "--constraint=macs<=57k"
USUAL = [RUN, NETWORK, OUT]
WRONG = [
    ([], "--run, --network, --constraint, --out"),
    (USUAL, "--constraint"),
    ([RUN, NETWORK, LIMIT, "--out={here}/taken"], "it exists already"),
    ([RUN, NETWORK, LIMIT, "--out={here}/nowhere/new"], "is not a directory"),
    ([*USUAL, LIMIT, "--nothing"], "--nothing"),
    ([*USUAL, LIMIT, "--input=int8"], "invalid choice: 'int8'"),
    (
        [*USUAL, "--constraint=macs<57k"],
        "constraint='macs<57k' is not allowed: it must be a cost and its largest value",
    ),
    ([*USUAL, "--constraint=macs<="], "constraint='macs<='"),
    ([*USUAL, "--constraint=params<=57k"], "constraint='params<=57k'"),
    ([*USUAL, "--constraint=macs<=-1"], "constraint='macs<=-1'"),
    ([*USUAL, "--constraint=macs<=nan"], "constraint='macs<=nan'"),
    ([*USUAL, "--constraint=macs<=2T"], "constraint='macs<=2T'"),
    (
        [*USUAL, LIMIT, "--constraint=macs<=50k"],
        "'macs<=50k' is not allowed: an image that leaves at the first exit costs 52,112",
    ),
    ([*USUAL, LIMIT, "--constraint=macs <= 57k"], "each once"),
    ([*USUAL, LIMIT, "--constraint=latency<=2ms"], "without the latency of each segment"),
    ([*USUAL, LIMIT, "--latency=1,2"], "latency=(1.0, 2.0) is not allowed: it must be 3 positive numbers"),
    ([*USUAL, LIMIT, "--latency=1,2,0"], "latency=(1.0, 2.0, 0.0)"),
    ([*USUAL, LIMIT, "--latency=1,2,nan"], "latency=(1.0, 2.0, nan)"),
    ([*USUAL, LIMIT, "--latency=1,2,fast"], "latency='1,2,fast'"),
    ([*USUAL, "--constraint=latency<=0.9ms", "--latency=1,2,3"], "costs 1"),
    ([RUN, "--network={here}/single.safetensors", OUT, LIMIT], "it has one exit"),
    ([RUN, "--network={here}/homeless.safetensors", OUT, LIMIT], "it was not taken out of a run"),
    ([RUN, "--network={here}/later.safetensors", OUT, LIMIT], "out of another run than {here}/run"),
    ([RUN, "--network={here}/pointer.safetensors", OUT, LIMIT], "pointer.safetensors"),
    ([RUN, "--network={here}/missing.safetensors", OUT, LIMIT], "missing.safetensors"),
    ([RUN, "--network={here}/run", OUT, LIMIT], "must end in .safetensors"),
    (["--run={here}/other", NETWORK, OUT, LIMIT], "another run than {here}/other"),
    (["--run={here}/empty", NETWORK, OUT, LIMIT], "is not a run directory"),
    (["--run={here}/missing", NETWORK, OUT, LIMIT], "is not a run directory"),
    (["--run={here}/damaged", NETWORK, OUT, LIMIT], "params cannot be read"),
]


@pytest.mark.parametrize("arguments, told", WRONG)
def test_wrong_input_is_one_line(arguments, told, here, monkeypatch, capsys):
    monkeypatch.setattr(of_run, "_logits", lambda *arguments: pytest.fail("images are classified"))
    before = sorted(here.rglob("*"))
    assert told.format(here=here) in refusal_of(
        cascade.main, [argument.format(here=here) for argument in arguments], capsys
    )
    assert sorted(here.rglob("*")) == before
