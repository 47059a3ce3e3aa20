"""What commands say of their flags, and what they do where two of them write the same file."""

import importlib
import os
import subprocess
import sys

import pytest

import ofav2_jax as ofa
from experiments.parser import new_directory, new_file
from ofav2_jax.run.search.source import source_of_run
from tests.helpers import supernets
from tests.helpers.refusals import refusal_of
from tests.helpers.structure import ROOT

SUBNET = "--subnet=k3-e3-d2-l7-h2@16"
OUT = "--out=net.safetensors"
# The commands that take a run, each with what else it needs.
OF_RUN = {
    "search": [],
    "extract": [SUBNET, OUT],
    "finetune": [SUBNET, "--workdir=new"],
    "cascade": ["--network=net.safetensors", "--constraint=macs<=1M", "--out=cascade"],
    "latency": ["--out=table.json"],
}
WITH_DATA = ("search", "extract", "finetune")
TUNED = "k3-e4-d2-l7-h2@16+1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run of a supernet, and one that has fine-tuned a design."""
    here = tmp_path_factory.mktemp("runs")
    supernets.write_supernet(here / "supernet", network="ee_d", phases=("full", "kernel"), ended=2)
    supernets.write_tuned(here / "tuned", TUNED)
    return here


@pytest.fixture
def here(runs, monkeypatch):
    """The folder of runs as the working directory, in which no refused command leaves anything."""
    monkeypatch.chdir(runs)
    before = sorted(runs.rglob("*"))
    yield runs
    assert sorted(runs.rglob("*")) == before


def refused(command, arguments, capsys):
    main = importlib.import_module(f"experiments.{command}").main
    # The first argument of this one is the name of the program.
    return refusal_of(main, ["finetune", *arguments] if command == "finetune" else arguments, capsys)


# --- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_RUN)
@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("nowhere", "error: run='nowhere' is not a run directory: there is no settings.json in it\n"),
        ("gs://bucket/run", "error: run='gs://bucket/run' is not allowed: it must be a path of a local file system"),
        # Not the working directory.
        ("", "error: run='' is not allowed: it must be a path that is not empty\n"),
    ],
)
def test_a_run_that_is_none(command, run, told, here, capsys):
    assert refused(command, [f"--run={run}", *OF_RUN[command]], capsys).startswith(told)


@pytest.mark.parametrize("command", WITH_DATA)
@pytest.mark.parametrize("flag", ["data_dir", "archive"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("sets", "='sets' is not allowed: the digits have no such"),
        ("gs://sets", "='gs://sets' is not allowed: it must be"),
    ],
)
def test_data_that_the_run_does_not_have(command, flag, value, told, here, capsys):
    arguments = ["--run=supernet", f"--{flag}={value}", *OF_RUN[command]]
    assert refused(command, arguments, capsys).startswith(f"error: {flag}{told}")


@pytest.mark.parametrize("flag", ["data_dir", "archive"])
def test_in_python_the_same_arguments_are_named(flag, here):
    with pytest.raises(ValueError, match=f"^{flag}='sets' is not allowed: the digits have no such choice"):
        _ = ofa.open_run("supernet", **{flag: "sets"}).dataset
    with pytest.raises(ValueError, match=r"^directory='nowhere' is not a run directory"):
        ofa.open_run("nowhere")
    with pytest.raises(ValueError, match=r"^path='net\.json' is not allowed: its name must end in \.safetensors"):
        ofa.Standalone.load("net.json")
    with pytest.raises(ValueError, match=r"^path='table' is not allowed: its name must end in \.json"):
        ofa.LatencyTable.load("table")


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        *(
            (command, ["--run=supernet", f"--subnet={subnet}", place], f"error: --subnet={subnet}: {reason}")
            for command, place in (("extract", OUT), ("finetune", "--workdir=new"))
            for subnet, reason in (
                ("x", "design='x' is not readable; write it like"),
                ("k9-e3-d2-l7-h2@16", "kernel contains 9, which is not allowed"),
                ("k3-e3-d2-l7-h2@32", "resolution=32 is not allowed: it must be one of the run's: 8, 16"),
                ("k3-e3-d2-l6-h2@16", "level=6 is outside the space"),
                ("k3-e3-d2-l7-h2@16+3", "exits=(3, 2) is not allowed"),
            )
        ),
        ("extract", ["--run=supernet", "--search=a/b", "--constraint=macs<=1M", OUT], "error: search='a/b' is not"),
        ("extract", ["--run=supernet", "--constraint=macs<=1M", OUT], "error: --constraint goes with --search"),
        ("cascade", ["--run=supernet", "--network=a.json", *OF_RUN["cascade"][1:]], "error: network='a.json' is not"),
        ("export", ["--network=gs://a.safetensors", "--format=onnx", "--out=a.onnx"], "error: network='gs://a.safete"),
        ("latency", ["--run=supernet", "--prepare=supernet"], "error: prepare='supernet' is not allowed: it exists"),
        ("latency", ["--collect=a", "--out=b.json"], "error: collect='a' is not allowed: its name must end in .json"),
        ("latency", ["--measure=a.onnx", "--table=a"], "error: table='a' is not allowed: its name must end in .json"),
        ("latency", ["--measure=a.txt"], "error: measure='a.txt' is not allowed: its name must end in .onnx or"),
    ],
)
def test_other_flags(command, arguments, told, here, capsys):
    assert refused(command, arguments, capsys).startswith(told)


# --- runs that have fine-tuned a design -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("extract", [SUBNET, OUT]),
        # The same subnet with other exits.
        ("extract", ["--subnet=k3-e4-d2-l7-h2@16", OUT]),
        ("extract", ["--search=default", "--constraint=macs<=1M", OUT]),
        ("extract", ["--search=default", OUT]),
        ("extract", ["--constraint=macs<=1M", OUT]),
        ("search", []),
        ("finetune", [f"--subnet={TUNED}", "--workdir=new"]),
    ],
)
def test_other_designs_than_the_tuned_one(command, arguments, here, capsys):
    assert TUNED in refused(command, ["--run=tuned", *arguments], capsys)


def test_other_designs_than_the_tuned_one_in_python(here, tmp_path):
    run, other = ofa.open_run("tuned"), ofa.Design.parse("k3-e3-d2-l7-h2@16")
    run.require_design(ofa.Design.parse(TUNED))
    assert run.design == ofa.Design.parse(TUNED)
    for refuse in (
        lambda: run.require_design(other),
        lambda: ofa.extract(run, other),
        lambda: ofa.search(run),
        lambda: source_of_run(run),
        lambda: ofa.finetune(run, run.design, tmp_path / "new"),
    ):
        with pytest.raises(ValueError, match=r"k3-e4-d2-l7-h2@16\+1"):
            refuse()
    assert not (tmp_path / "new").exists()


# --- two commands that write the same file --------------------------------------------------------------------------


def test_a_file_that_another_command_is_writing(here, capsys):
    with new_file("out", "net.safetensors", ".safetensors") as out:
        told = refusal_of(importlib.import_module("experiments.extract").main, ["--run=supernet", SUBNET, OUT], capsys)
        assert told.startswith(f"error: out='net.safetensors' is not allowed: process {os.getpid()} on ")
        assert told.endswith(" is writing it\n") and not out.exists()


def test_a_file_that_a_killed_command_did_not_write(tmp_path):
    code = f"""
import os, signal
from experiments.parser import new_file
with new_file("out", {str(tmp_path / "net.onnx")!r}, ".onnx"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    with new_file("out", str(tmp_path / "net.onnx"), ".onnx") as out:
        out.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    with pytest.raises(ValueError, match="is not allowed: it exists already"):
        with new_file("out", str(out), ".onnx"):
            pass


def test_an_empty_directory_can_be_as_good_as_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it exists already"):
        with new_directory("out", str(tmp_path / "empty")):
            pass
    with new_directory("out", str(tmp_path / "empty"), may_be_empty=True) as directory:
        (directory / "file").touch()
    with pytest.raises(ValueError, match="it exists already"):
        with new_directory("out", str(directory), may_be_empty=True):
            pass
