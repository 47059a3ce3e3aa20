"""The command latency: a table of this machine, of a device without JAX, networks in files; what is refused."""

import functools
import json
import os
import shutil
import subprocess
import sys

import pytest

import ofav2_jax as ofa
from experiments import latency
from ofav2_jax import files
from ofav2_jax.deploy.segments import to_onnx_segments
from ofav2_jax.latency import measure, networks
from ofav2_jax.latency.table import LatencyTable
from tests.helpers.latencies import exact_timer, prepared, random_designs, shorten, small, times_of
from tests.helpers.networks import random_variables
from tests.helpers.refusals import refusal_of

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

RESOLUTION = 32


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A directory with a run, a prepared folder, tables, a network, and files of other kinds."""
    here = tmp_path_factory.mktemp("here")
    settings = ofa.Settings.paper("ee_b", resolutions=(RESOLUTION,), width_multiplier=0.1)
    files.write_json(here / "run" / files.SETTINGS, settings.as_json())
    files.write_json(here / "run" / files.DATA, {"classes": 7})
    files.write_json(here / "bad_run" / files.SETTINGS, settings.as_json())
    files.write_json(here / "bad_run" / files.DATA, {"classes": "seven"})
    (here / "no_run").mkdir()
    times_of(prepared(here / "device", "ee_b", (RESOLUTION,)))
    LatencyTable.collect(here / "device" / "times.json").save(here / "table.json")
    content = files.read_json(here / "table.json")
    foreign = {**content, "device": {**content["device"], "processor": "abacus"}}
    files.write_json(here / "foreign.json", foreign)
    files.write_json(here / "older.json", {**content, "format": "ofav2_jax.latency/0"})
    (here / "damaged.json").write_text((here / "table.json").read_text()[:-99])
    incomplete = {**files.read_json(here / "device" / "times.json"), "is_complete": False}
    files.write_json(here / "incomplete.json", incomplete)
    for name, net in (("net", small("ee_b")), ("other", small("ee_d"))):
        (design,) = random_designs(net, 1, RESOLUTION)
        ofa.to_onnx(ofa.extract(net, random_variables(net), design), here / f"{name}.onnx")
    ofa.to_onnx(ofa.extract(net, random_variables(net), design), here / "float.onnx", input="float")
    (here / "cascade").mkdir()
    several = ofa.Design.parse(f"k3-e3-d2-l7-h2@{RESOLUTION}+1")
    to_onnx_segments(ofa.extract(net, random_variables(net), several), here / "cascade")
    (here / "text.onnx").write_text("no model")
    (here / "taken.json").write_text("precious")
    return here


def test_a_table_of_this_machine(here, tmp_path, monkeypatch, capsys):
    build = functools.partial(LatencyTable.build, make_timer=exact_timer)
    monkeypatch.setattr(LatencyTable, "build", build)
    out = tmp_path / "device.json"
    assert latency.main([f"--run={here / 'run'}", f"--out={out}"]) == 0
    told, progress = capsys.readouterr()
    table = LatencyTable.load(out)
    table.require_fit(small("ee_b"), [RESOLUTION])
    assert "0.0 % (median of 20 other networks), 100 % within 10 %" in told and str(out) in told
    assert "warning" not in progress and "round " in progress and "s left" in progress


def test_a_device_without_jax(here, tmp_path, capsys):
    folder, out = tmp_path / "device", tmp_path / "device.json"
    assert latency.main([f"--run={here / 'run'}", f"--prepare={folder}", "--batch_size=3"]) == 0
    assert f"--collect={folder}/times.json" in capsys.readouterr().out
    text = (folder / "measure.py").read_text()
    assert "ofav2_jax." not in text.replace('"ofav2_jax.times/1"', "") and "jax" not in text.replace("ofav2_jax", "")
    shorten(folder, 2)
    # Isolated: neither this directory nor the environment's paths are searched for modules.
    done = subprocess.run([sys.executable, "-I", "measure.py"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "written to" in done.stdout
    assert latency.main([f"--collect={folder / 'times.json'}", f"--out={out}"]) == 0
    table = LatencyTable.load(out)
    assert table.setting == {"dtype": "float32", "threads": 1, "batch_size": 3}
    assert table.device["device"]["cores"] == os.cpu_count() and table.predict(random_designs(table.net, 3, 32)).all()


def test_the_script_says_what_is_wrong_in_one_line(here, tmp_path):
    for name in ("measure.py", "plan.json"):
        shutil.copy(here / "device" / name, tmp_path)
    for name in ("times.json", "plan.json"):
        (tmp_path / name).write_text("{")
        done = subprocess.run([sys.executable, "-I", "measure.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert name in done.stderr


def test_networks_in_files(here, monkeypatch, capsys):
    timed = functools.partial(networks.time_networks, make_timer=exact_timer)
    monkeypatch.setattr(networks, "time_networks", timed)
    file = here / "net.onnx"
    expected = f"{1e-3 * exact_timer(file, 1, 1)():.3f} ms"
    assert latency.main(["--measure", str(file), str(here / "other.onnx")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ")[-2].strip() == expected and str(file) in first and "other.onnx" in second
    assert latency.main(["--measure", str(file), f"--table={here / 'table.json'}"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.count(expected) == 2 and "+0.0 %" in line and str(file) in line


def test_a_bad_fit_is_not_passed_over(here, tmp_path, capsys):
    content = files.read_json(here / "device" / "times.json")
    for place in range(40):
        content["us"][f"whole/{place:02d}"] = [1e4 * (1 + place * 7 % 11)] * 2
    (tmp_path / "times.json").write_text(json.dumps(content))
    assert latency.main([f"--collect={tmp_path / 'times.json'}", f"--out={tmp_path / 'device.json'}"]) == 0
    assert capsys.readouterr().err.startswith("warning: sums of blocks explain whole networks badly")


RUN, OUT, MEASURE = "--run={here}/run", "--out={here}/new.json", "--measure={here}/net.onnx"
WRONG = [
    ([], "one of --run, --collect, --measure is required"),
    ([RUN, MEASURE], "one of --run, --collect, --measure is required"),
    ([RUN], "--run needs --out or --prepare"),
    ([RUN, OUT, "--prepare={here}/new"], "--run needs --out or --prepare"),
    ([RUN, OUT, "--table={here}/table.json"], "--table does not go with --run"),
    ([RUN, OUT, "--threads=0"], "threads=0"),
    ([RUN, OUT, "--threads=two"], "--threads"),
    ([RUN, OUT, "--batch_size=-1"], "batch_size=-1"),
    ([RUN, "--out={here}/new.txt"], "must end in .json"),
    ([RUN, "--out={here}/taken.json"], "it exists already"),
    ([RUN, "--out={here}/nowhere/new.json"], "is not a directory"),
    ([RUN, "--prepare={here}/device"], "it exists already"),
    ([RUN, "--prepare={here}/taken.json"], "it exists already"),
    ([RUN, "--prepare={here}/nowhere/new"], "is not a directory"),
    (["--run={here}/no_run", OUT], "is not a run directory"),
    (["--run={here}/bad_run", OUT], "num_classes='seven'"),
    (["--collect={here}/device/times.json"], "--collect needs --out"),
    (["--collect={here}/device/times.json", OUT, "--threads=1"], "--threads does not go with --collect"),
    (["--collect={here}/missing.json", OUT], "missing.json cannot be read"),
    (["--collect={here}/incomplete.json", OUT], "is not complete"),
    (["--collect={here}/table.json", OUT], "its format is 'ofav2_jax.latency/1'"),
    (["--collect={here}/damaged.json", OUT], "damaged.json cannot be read"),
    ([MEASURE, OUT], "--out does not go with --measure"),
    ([MEASURE, "--threads=0"], "threads=0"),
    (["--measure={here}/missing.onnx"], "there is no such file"),
    (["--measure={here}/text.onnx"], "text.onnx does not run"),
    (["--measure={here}/table.json"], "must end in .onnx or .safetensors"),
    ([MEASURE, "--table={here}/missing.json"], "missing.json cannot be read"),
    ([MEASURE, "--table={here}/damaged.json"], "damaged.json cannot be read"),
    ([MEASURE, "--table={here}/older.json"], "its format is 'ofav2_jax.latency/0'"),
    ([MEASURE, "--table={here}/foreign.json"], "abacus"),
    ([MEASURE, "--table={here}/table.json", "--threads=1"], "threads and batch size are those of --table"),
    (["--measure={here}/other.onnx", "--table={here}/table.json"], "network='ee_b', not 'ee_d'"),
    (["--measure={here}/float.onnx", "--table={here}/table.json"], "reads uint8 images"),
    (["--measure={here}/cascade/segment_2.onnx", "--table={here}/table.json"], "is a segment of a cascade"),
    (["--measure={here}/device/whole/00.onnx", "--table={here}/missing"], "must end in .json"),
    (["--measure={here}/device/32/stem.onnx", "--table={here}/table.json"], "does not say which network"),
]


@pytest.mark.parametrize("arguments, told", WRONG)
def test_wrong_input_is_one_line(arguments, told, here, monkeypatch, capsys):
    def untimed(*arguments):
        raise AssertionError("nothing is measured")

    if "does not run" not in told:
        monkeypatch.setattr(measure, "rounds", untimed)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert told in refusal_of(latency.main, [argument.format(here=here) for argument in arguments], capsys)
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
