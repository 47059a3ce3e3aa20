"""The command search on a run: what it prints and writes, that extract takes its winners, what is refused."""

import json
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest

import ofav2_jax as ofa
from experiments import extract, search, search_console
from experiments.parser import data_flags
from ofav2_jax import files
from ofav2_jax.nas.costs import Constraint, DesignCosts
from ofav2_jax.nas.result import Accuracy, Found, FoundLine, SearchResult
from ofav2_jax.run.run import StoppedError
from ofav2_jax.settings.finetuning import Finetuning
from tests.helpers import searches
from tests.helpers.refusals import refusal_of


@pytest.fixture(scope="module")
def run(uninterrupted, tmp_path_factory):
    """A copy of a whole run, for a search to write into."""
    return shutil.copytree(uninterrupted[0], tmp_path_factory.mktemp("searched") / "run")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr("experiments.caching.cache_programs", lambda: None)


def test_from_a_run_to_a_network(run, tmp_path, capsys):
    arguments = [f"--run={run}", "--budget=21", "--constraint=macs<=300k"]
    assert search.main([*arguments, "--dry_run"]) == 0
    plan = capsys.readouterr().out
    assert "21 trunks: 20 to start with, then 1 in rounds of 20" in plan and "216 of 216 validation images" in plan
    assert not (run / "search").exists()

    assert search.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith(plan.rstrip("\n")) and "0:00 left" in out
    front = json.loads((run / "search" / "default" / "front.json").read_text())
    winner = front["lines"][0]
    assert winner["constraint"] == "macs<=300k" and winner["design"]["macs"] <= 300e3
    design = ofa.Design.from_json(winner["design"])
    for split in ("validation", "test"):
        assert f"{winner['design'][split]['top1']:.2f} ± " in out
    assert f"{design}" in out and "Kendall's tau" not in out and "halves       of the images" in out
    assert "<h2>Search default</h2>" in (run / "report.html").read_text(encoding="utf-8")
    told = f"python -m experiments.extract --run={run} --search=default '--constraint=macs<=300k' --out=macs-300k.safe"
    assert told in out

    before = searches.files(run / "search")
    assert search.main(arguments) == 0
    again = capsys.readouterr().out
    assert again.partition("top-1 in %")[2] == out.partition("top-1 in %")[2] and " trunks  best " not in again
    assert searches.files(run / "search") == before

    network = tmp_path / "net.safetensors"
    assert extract.main([f"--run={run}", "--search=default", "--constraint=macs<=300k", f"--out={network}"]) == 0
    alone = ofa.Standalone.load(network)
    assert alone.design == design and alone.macs == winner["design"]["macs"]
    for split in ("validation", "test"):
        found, images = alone.about["accuracy"][split]["top1"], alone.about["accuracy"][split]["images"]
        assert images == winner["design"][split]["images"]
        assert abs(found - winner["design"][split]["top1"]) <= 100 / images + 1e-9


def test_the_command_to_take_a_winner_out_says_where_the_images_are():
    result = types.SimpleNamespace(lines=[types.SimpleNamespace(constraint=Constraint.parse("macs<=3M"))], cost="macs")
    given = search._parser("search").parse_args(["--run=run", "--data_dir=my pictures"])
    (command,) = search_console.extract_lines(result, "run", "default", "extract", data_flags(given))
    told = (
        "extract --run=run '--data_dir=my pictures' --search=default '--constraint=macs<=3M' --out=macs-3M.safetensors"
    )
    assert command == told


@pytest.fixture(scope="module")
def here(tmp_path_factory, uninterrupted):
    """A directory with files that are no tables, and a run with no search of any use."""
    here = tmp_path_factory.mktemp("here")
    shutil.copytree(uninterrupted[0], here / "run")
    (here / "empty").mkdir()
    tuned = Finetuning().settings(ofa.Settings.paper("ee_d"), "k3-e3-d2-l7-h2@48", 48, "0" * 64)
    files.write_json(here / "tuned" / files.SETTINGS, tuned.as_json())
    begun = here / "run" / "search" / "begun"
    begun.mkdir(parents=True)
    (here / "run" / "search" / "file").write_text("")
    (begun / "settings.json").write_text('{"format": "ofav2_jax.search/1"}')
    return here


_WRONG = [
    ([], "--run"),
    (["--run=nothing"], "run='nothing' is not a run directory"),
    (["--run=empty"], "run='empty' is not a run directory"),
    (["--run=tuned"], "tuned is not the run of a supernet, but of k3-e3-d2-l7-h2@48, fine-tuned"),
    (["--run=gs://bucket/run"], "local file system"),
    (["--run=run", "--cost=flops"], "cost='flops' is not allowed: it must be one of macs, params, latency"),
    (["--run=run", "--cost=latency"], "cost='latency' is not allowed without a table of latencies"),
    (["--run=run", "--constraint=latency<=2ms"], "constraint='latency<=2ms' is not allowed without a table"),
    (["--run=run", "--constraint=macs<3M"], "constraint='macs<3M' is not allowed"),
    (["--run=run", "--constraint=mac<=3M"], "constraint='mac' is not allowed: it must be one of macs"),
    (["--run=run", "--constraint=macs<=3m"], "in one of the units G, M, k"),
    (["--run=run", "--constraint=macs<=0"], "constraint on macs=0.0 is not allowed"),
    (["--run=run", "--constraint=macs<=1k"], "constraint='macs<=1k' cannot be met: the least of the space is"),
    (["--run=run", "--constraint=params<=10"], "constraint='params<=10' cannot be met"),
    (["--run=run", "--constraint", "macs<=1G", "params<=10"], "constraint='params<=10' cannot be met"),
    (["--run=run", "--exits=all"], "exits='all' is not allowed: it must be one of single, any"),
    (["--run=run", "--budget=0"], "budget=0 is not allowed"),
    (["--run=run", "--budget=many"], "invalid int value: 'many'"),
    (["--run=run", "--images=-5"], "images=-5 is not allowed"),
    (["--run=run", "--seed=-1"], "seed=-1 is not allowed"),
    (["--run=run", "--name=../x"], "name='../x' is not allowed"),
    (["--run=run", "--name="], "name='' is not allowed"),
    (["--run=run", "--name=file"], "is not allowed: it must be a directory"),
    (["--run=run", "--name=begun"], "begun' is another search, give this one another name"),
    (["--run=run", "--phase=kernal"], "phase='kernal' is not allowed: the run's are"),
    (["--run=run", "--phase=full"], "phase='full' leaves nothing to search"),
    (["--run=run", "--table=none.json"], "table='none.json' is not allowed: it must be a file of latencies"),
    (["--run=run", "--table=~nobody_of_this_name/t.json"], "table='~nobody_of_this_name/t.json' is not allowed"),
    (["--run=run", "--subnet=k7"], "unrecognized arguments: --subnet=k7"),
]


@pytest.mark.parametrize("arguments, told", _WRONG)
def test_wrong_input_is_refused_in_one_line(here, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(here)
    before = searches.files(here)
    assert told in refusal_of(search.main, arguments, capsys)
    assert searches.files(here) == before


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--search=begun"], "--constraint is missing"),
        (["--search=begun", "--constraint=macs<=1M"], "search='begun' is not finished"),
        (["--search=other", "--constraint=macs<=1M"], "search='other' is not allowed: there is no"),
        (["--search=../x", "--constraint=macs<=1M"], "search='../x' is not allowed"),
        (["--search=begun", "--constraint=1M"], "constraint='1M' is not allowed"),
        (["--search=begun", "--subnet=k7-e6-d4-l7-h5@16"], "not allowed with argument"),
        (["--subnet=k7-e6-d4-l7-h5@16", "--constraint=macs<=1M"], "--constraint goes with --search"),
        (["--search=begun", "--constraint=macs<=1M", "--phase=full"], "--phase is not allowed with --search"),
        ([], "--subnet is missing: run is the run of a supernet, which holds many; or name a --search"),
    ],
)
def test_extract_refuses_in_one_line(here, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(here)
    assert told in refusal_of(extract.main, ["--run=run", "--out=net.safetensors", *arguments], capsys)
    assert not (here / "net.safetensors").exists()


class Table:
    """Half a nanosecond for each multiply-accumulate."""

    network = "ofa_mbv3"

    def require_fit(self, net, resolutions):
        if net.network != self.network:
            raise ValueError(f"the latency table is of network={self.network!r}, not {net.network!r}")

    def predict(self, designs):
        return DesignCosts(ofa.SuperNet("ofa_mbv3", 0.1, 10))("macs", designs) / 2e6


def test_latencies_come_from_a_table(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    (here / "device.json").write_text("{}")
    loaded = types.SimpleNamespace(load=lambda path: Table() if path.read_text() else None)
    monkeypatch.setitem(sys.modules, "ofav2_jax.latency.table", types.SimpleNamespace(LatencyTable=loaded))
    arguments = ["--run=run", "--table=device.json", "--cost=latency", "--dry_run"]
    assert search.main([*arguments, "--constraint=latency<=1ms"]) == 0
    assert "few milliseconds, latency<=1ms" in capsys.readouterr().out
    assert search.main([*arguments, "--constraint=latency<=1us"]) == 2
    assert "cannot be met: the least of the space is 0.0" in capsys.readouterr().err
    monkeypatch.setattr(Table, "network", "ee_d")
    assert search.main(arguments) == 2
    assert capsys.readouterr().err == "error: the latency table is of network='ee_d', not 'ofa_mbv3'\n"


def test_winners_are_measured():
    accuracy = Accuracy(50.0, 100)
    design = ofa.Design.parse("k7-e6-d4-l7-h5@16")
    found = Found(design, {"macs": 1e6, "params": 1e5, "latency": 1.25}, accuracy, accuracy, 50.0)
    lines = (FoundLine(Constraint("latency", 2.0), found, None), FoundLine(None, found, None))
    result = SearchResult(Path("here"), "latency", lines, (), {})

    def refuse(design):
        raise ValueError("the table is of another machine")

    told = "latency      latency<=2ms: 1.5 ms measured, 1.25 ms predicted"
    assert list(search_console.latency_lines(result, lambda asked: 1.5 * (asked == design))) == [told]
    assert list(search_console.latency_lines(result, refuse)) == [
        "latency      not measured: the table is of another machine"
    ]
    assert list(search_console.latency_lines(result, None)) == []


@pytest.mark.parametrize("program", ["ofav2 search", "python -m experiments.search"])
def test_a_stopped_search_says_how_it_goes_on(program, tmp_path, monkeypatch, capsys):
    class Stopped:
        plan = latest_checkpoint = None

        def request_stop(self):
            self.told = True

        def run(self):
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.told
            raise StoppedError

    monkeypatch.setattr(search, "_prepare", lambda arguments: (Stopped(), [], None))
    assert search.main(["--run=here", "--budget=3"], program) == 128 + signal.SIGTERM
    assert f"last checkpoint: none yet; to go on: {program} --run=here --budget=3\n" in capsys.readouterr().err
