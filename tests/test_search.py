"""A search as a whole, on made-up accuracies: what it finds, that it can be killed anywhere, what it refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ofav2_jax as ofa
from ofav2_jax import files as package_files
from ofav2_jax.nas.costs import Constraint, DesignCosts
from ofav2_jax.nas.result import Accuracy, Found, best_of, read_front
from ofav2_jax.run.run import StoppedError
from ofav2_jax.run.run_directory import DifferentRunError, DirectoryInUseError
from ofav2_jax.run.search.directory import Journal, SearchDirectory
from tests.helpers import searches

ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted search that scores its final designs on more images than the others: directory and result."""
    directory = tmp_path_factory.mktemp("whole") / "search"
    return directory, searches.search(directory, images=100).run()


def test_what_is_written(whole):
    directory, result = whole
    lines = [json.loads(line) for line in (directory / "archive.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0] * 20 + [1] * 6
    assert {line["images"] for line in lines} == {100} and set(lines[0]["top1"]) == {"5"}
    assert len({(line["trunk"], line["resolution"]) for line in lines}) == 26 == len(result.archive)
    front = json.loads((directory / "front.json").read_text())
    design = front["lines"][0]["design"]
    assert design["format"] == "ofav2_jax.design/1" and design["network"] == "ofa_mbv3"
    assert design["validation"]["images"] == len(searches.digits().splits["validation"]) > 100
    assert design["test"]["images"] == len(searches.digits().splits["test"])
    net = ofa.SuperNet("ofa_mbv3", 0.1, 10)
    for line in result.lines:
        cost = ofa.count(net, line.found.design.subnet, line.found.design.resolution, exits=line.found.design.exits)
        assert (line.found.costs["macs"], line.found.costs["params"]) == (cost.macs, cost.params)
    assert len(front["archive"]) == 26 and front["quality"]["reliability"]["across"] > 0.9


def test_the_front_is_not_dominated_and_beside_uniform_subnets(whole):
    _, result = whole
    space = ofa.SearchSpace(ofa.SuperNet("ofa_mbv3", 0.1, 10))
    uniform = {ofa.Design(subnet, resolution) for subnet in space.uniform_subnets() for resolution in (16, 24)}
    costs = [found.costs["macs"] for found in result.front]
    expected = [found.expected for found in result.front]
    assert costs == sorted(costs) and expected == sorted(expected) and len(set(expected)) == len(expected) > 2
    for line in result.lines:
        if line.uniform is not None:
            assert line.uniform.costs["macs"] <= line.found.costs["macs"]
            assert line.uniform.expected <= line.found.expected
            assert line.uniform.design in uniform
    # Of 20 subnets of the start, half are uniform.
    assert result.lines[-1].uniform is not None


def test_test_images_are_seen_once_and_last(tmp_path):
    of = searches.source()
    result = searches.search(tmp_path / "s", of, images=100).run()
    splits = [images for _, images in of.evaluator.seen]
    assert splits == [100] * splits.count(100) + ["validation"] * splits.count("validation") + ["test"] * splits.count(
        "test"
    )
    shown = {
        (split, each.design) for line in result.lines for each in (line.found, line.uniform) if each for split in "t"
    }
    assert sum(number for number, images in of.evaluator.seen if images == "test") == len(shown)
    number = len(of.evaluator.seen)
    assert searches.search(tmp_path / "s", of, images=100).run().lines == result.lines
    assert len(of.evaluator.seen) == number


def test_killed_at_every_write(whole, tmp_path, monkeypatch):
    """Each process dies at its first write: before it, amid it, or right after it, so that the next gets further."""
    append, write_json = Journal.append, package_files.write_json
    deaths = 0

    def killed(write, half=lambda *args: None):
        def at(*args):
            nonlocal deaths
            deaths += 1
            (lambda *args: None, half, write)[deaths % 3](*args)
            raise Killed

        return at

    def half_line(journal, value):
        with journal.path.open("ab") as file:
            file.write(json.dumps(value).encode()[:-40])

    monkeypatch.setattr(Journal, "append", killed(append, half_line))
    monkeypatch.setattr(package_files, "write_json", killed(write_json))
    directory, ended = tmp_path / "search", False
    while not ended:
        try:
            searches.search(directory, images=100).run()
            ended = True
        except Killed:
            # `front.json` is written anew by every process, so that this would go on for ever.
            ended = (directory / "front.json").exists()
    assert deaths > 2 * 26
    monkeypatch.undo()
    assert searches.files(directory) == searches.files(whole[0])
    searches.search(directory, images=100).run()
    assert searches.files(directory) == searches.files(whole[0])


def test_killed_processes_with_one_device(whole, tmp_path):
    """The other search ran with the eight devices of the tests, so that both propose the same, too."""
    directory = tmp_path / "search"
    command = [sys.executable, "-m", "tests.helpers.searches", str(directory)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    for evaluated in (21, None):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        while evaluated is not None and process.poll() is None:
            archive = directory / "archive.jsonl"
            if archive.exists() and archive.read_bytes().count(b"\n") >= evaluated:
                process.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=600)
        assert process.returncode == (0 if evaluated is None else -signal.SIGKILL), err
    assert searches.files(directory) == searches.files(whole[0])


def test_a_larger_budget_goes_on(whole, tmp_path):
    directory = tmp_path / "search"
    first = searches.search(directory, budget=20, images=100).run()
    result = searches.search(directory, budget=26, images=100).run()
    assert result.archive[:20] == first.archive and len(result.archive) == 26
    assert searches.files(directory)["archive.jsonl"] == searches.files(whole[0])["archive.jsonl"]
    # A smaller one evaluates nothing.
    assert searches.search(directory, budget=5, images=100).run().archive == result.archive


def test_one_archive_answers_other_questions(whole, tmp_path):
    directory = tmp_path / "search"
    for name, content in searches.files(whole[0]).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    limit = sorted(found.costs["params"] for found in whole[1].front)[1]
    result = searches.search(directory, images=100, cost="params", constraints=[f"params<={limit}", "macs<=100M"]).run()
    assert result.archive == whole[1].archive
    assert [line.constraint.limit for line in result.lines[:2]] == [limit, 100e6]
    best = result.best(Constraint("params", limit))
    assert best == result.lines[0].found and result.best("macs<=100M") == result.lines[1].found
    assert searches.files(directory)["archive.jsonl"] == searches.files(whole[0])["archive.jsonl"]


def test_stopped_between_two_passes(tmp_path):
    search = searches.search(tmp_path / "search")
    assert search.latest_checkpoint is None
    search._reporter.evaluated = lambda progress: search.request_stop()
    with pytest.raises(StoppedError):
        search.run()
    assert search.latest_checkpoint == f"{tmp_path / 'search'}, 4 trunks evaluated"


def test_sets_of_exits(tmp_path):
    result = searches.search(tmp_path / "search", searches.source("ee_dp"), exits="any", budget=21).run()
    assert len(result.archive[0].top1) == 31
    assert all(found.design.exits[-1] == found.design.subnet.height for found in result.front)


class Table:
    """Latencies that grow with the MACs and fall with the resolution."""

    def __init__(self, net):
        self._costs = DesignCosts(net)

    def predict(self, designs):
        return self._costs("macs", designs) / 1e6 / designs.resolution

    def require_fit(self, net, resolutions):
        if net.network != "ofa_mbv3":
            raise ValueError(f"table is one of ofa_mbv3, not of {net.network}")


def test_latency_is_a_cost_like_others(tmp_path):
    table = Table(ofa.SuperNet("ofa_mbv3", 0.1, 10))
    limit = "latency<=20us"
    result = searches.search(tmp_path / "search", table=table, cost="latency", constraints=[limit]).run()
    assert result.lines[0].found.costs["latency"] <= 0.02
    design = json.loads((tmp_path / "search" / "front.json").read_text())["lines"][0]["design"]
    assert design["latency"]["predicted_ms"] == result.lines[0].found.costs["latency"]
    round = json.loads((tmp_path / "search" / "rounds" / "01.json").read_text())
    assert len(design["latency"]["table"]) == 64 and round["table"] == design["latency"]["table"]
    for search in (dict(cost="latency"), dict(constraints=["latency<=2ms"])):
        with pytest.raises(ValueError, match="not allowed without a table of latencies"):
            searches.search(tmp_path / "other", **search)


@pytest.mark.parametrize(
    "of, settings, told",
    [
        ({"params": 1.0}, {}, "run.params_sha256 is"),
        ({"network": "ofa_mbv3", "resolutions": (16,)}, {}, "resolutions is"),
        ({}, {"images": 101}, "images is 100 there and 101 here"),
        ({}, {"seed": 1}, "seed is 0 there and 1 here"),
        ({}, {"exits": "any"}, "exits is 'single' there and 'any' here"),
    ],
)
def test_a_directory_of_another_search_is_refused(whole, of, settings, told):
    before = searches.files(whole[0])
    with pytest.raises(DifferentRunError, match="give this one another name") as error:
        searches.search(whole[0], searches.source(**of), **{"images": 100, **settings})
    assert told in str(error.value) and "\n" not in str(error.value)
    assert searches.files(whole[0]) == before


def test_two_searches_cannot_work_in_one_directory(whole):
    search = searches.search(whole[0], images=100)
    other = SearchDirectory(whole[0])
    other.claim(search._identity)
    try:
        with pytest.raises(DirectoryInUseError, match=f"in use by process {os.getpid()}"):
            search.run()
    finally:
        other.release()


@pytest.mark.parametrize(
    "name, old, new, told",
    [
        ("archive.jsonl", b'"top1"', b'"top2"', "archive.jsonl cannot be read: line 1: 'top1' is missing"),
        ("archive.jsonl", b"{", b"[", "archive.jsonl cannot be read: line 1"),
        ("archive.jsonl", b'"loss": [', b'"loss": 5, "l": [', "archive.jsonl cannot be read: line 1: TypeError"),
        ("archive.jsonl", b'"resolution": 16', b'"resolution": 24', "line 1 is not what its round proposed"),
        ("rounds/00.json", b'"trunks"', b'"trunk"', "00.json cannot be read: KeyError 'trunks'"),
        ("settings.json", b"{", b"", "settings.json cannot be read"),
    ],
)
def test_damaged_files_are_refused(whole, tmp_path, name, old, new, told):
    for each, content in searches.files(whole[0]).items():
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_bytes(content.replace(old, new, 1) if each == name else content)
    with pytest.raises(ValueError, match="cannot be read") as error:
        searches.search(tmp_path, images=100)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_table_of_another_network_is_refused(tmp_path):
    of = searches.source("ee_d")
    with pytest.raises(ValueError, match="table is one of ofa_mbv3, not of ee_d"):
        ofa.search(of.net, {"params": of.params}, of.dataset, tmp_path / "s", cost="latency", table=Table(of.net))
    assert not list(tmp_path.iterdir())


def test_of_equally_accurate_designs_the_winner_is_that_of_the_table():
    accuracy = Accuracy(50.0, 100)
    few_macs = Found(ofa.Design.parse("k3-e6-d2-l7-h4@16"), {"macs": 1.0, "params": 9.0}, accuracy, accuracy, 50.0)
    few_params = Found(ofa.Design.parse("k7-e3-d2-l7-h3@16"), {"macs": 2.0, "params": 3.0}, accuracy, accuracy, 50.0)
    for found in ([few_macs, few_params], [few_params, few_macs]):
        for constraint in ("macs<=10", "params<=10"):
            assert best_of(found, "macs", constraint) == few_macs
            assert best_of(found, "params", constraint) == few_params


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda front: front["run"].update(phase="full"), None),
        (lambda front: front["run"].pop("phase"), "front.json cannot be read: KeyError 'phase'"),
        (lambda front: front["lines"][0].pop("design"), "front.json cannot be read: KeyError 'design'"),
        (lambda front: front["lines"][0]["design"].update(macs="x"), "macs of k"),
        (lambda front: front.update(lines=[]), "the search found none"),
        (lambda front: front.update(cost="flops"), "cost='flops' is not allowed"),
        (lambda front: front.update(cost="latency"), "front.json cannot be read: latency of k"),
        (lambda front: front.pop("lines"), "'lines' is missing"),
    ],
)
def test_winners_of_a_file(whole, tmp_path, change, told):
    front = json.loads((whole[0] / "front.json").read_text())
    front["run"]["phase"] = "width-2"
    change(front)
    (tmp_path / "front.json").write_text(json.dumps(front))
    if told is None:
        cheapest = whole[1].front[0]
        assert best_of(read_front(tmp_path)[0], "macs", f"macs<={cheapest.costs['macs']:.0f}") == cheapest
        with pytest.raises(ValueError, match=r"is met by none of the \d+ designs .* search with this constraint"):
            best_of(read_front(tmp_path)[0], "macs", "macs<=2")
        with pytest.raises(ValueError, match="the search knew no latency"):
            best_of(read_front(tmp_path)[0], "macs", "latency<=2ms")
        return
    with pytest.raises(ValueError) as error:
        best_of(read_front(tmp_path)[0], "macs", "macs<=1G")
    assert told in str(error.value) and "\n" not in str(error.value)
