"""The page of a run: what stands in it, for finished, unfinished and reduced runs."""

import json
import random
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from experiments import report as command
from ofav2_jax.report import page as report
from ofav2_jax.report import pictures
from ofav2_jax.report.records import read_run
from tests.helpers.synthetic import write_run

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks nesting and collects what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figures, self.links, self.ids, self.tags = [], [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.links += [value for name, value in attrs.items() if name.split(":")[-1] in ("src", "href", "action")]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "figure":
            self.figures.append(attrs["id"])
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def text_of(page):
    """What a reader sees, in one line."""
    page = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One page each of a finished parallel early-exit run and of reduced, unfinished and hardly started others."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "finished", "ee_d", width_multiplier=1.2)
    write_run(root / "reduced", "se_p", finished=5, epochs=2, data__num_classes=20)
    write_run(root / "started", "ofa_mbv3", finished=0)
    write_run(root / "one", "ee_b", finished=1)
    return {path.name: (path, report.write_report(path).read_text()) for path in sorted(root.iterdir())}


@pytest.mark.parametrize("name", ["finished", "reduced", "started", "one"])
def test_pages_are_valid_and_load_nothing(runs, name):
    text = runs[name][1]
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    # Inside the page, or data that the page contains.
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not {"script", "link", "iframe"} & page.tags
    assert not re.search(r"url\(\s*['\"]?https?:|@import", text)
    for link in page.links:
        assert link.startswith("data:") or link[1:] in page.ids
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_every_picture_is_there(runs):
    curves, phases = ["loss", "accuracy", "rate"], [phase.name for phase in read_run(runs["finished"][0]).phases]
    small = [f"phase-{name}" for name in phases]
    assert Page(runs["finished"][1]).figures == ["front", *small, *curves, "choices"]
    assert Page(runs["reduced"][1]).figures[:2] == ["front", "phase-full"]
    # One phase needs no small multiples, and three subnets are too few to speak of their best tenth.
    assert Page(runs["one"][1]).figures == ["front", *curves]
    assert Page(runs["started"][1]).figures == curves


def test_a_comparable_run_stands_beside_the_paper(runs):
    path, page = runs["finished"]
    text = text_of(page)
    assert "Reduced run" not in text
    assert "Finished: all 10 phases" in text
    avg, best = (read_run(path).results["width-2"][key] for key in ("avg", "best"))
    # Table V: 47.46 and 53.76.
    row = f"width-2 405 {avg:.2f} 47.46 {avg - 47.46:+.2f} {best:.2f} 53.76 {best - 53.76:+.2f}"
    assert row in text
    # A phase that is not the last one of its choice has no number in the paper.
    assert re.search(r"height-2 27 [\d.]+ [\d.]+ height-3", text)


def test_a_reduced_run_says_so_and_shows_no_number_of_the_paper(runs):
    text = text_of(runs["reduced"][1])
    assert "Reduced run: not comparable with the paper" in text
    assert "20 instead of 200 classes" in text and "16 instead of 755 epochs" in text
    assert "paper avg" not in text and "diff." not in text
    assert "Not finished: 5 of 8 phases are trained and tested, 11 of 16 epochs trained" in text


def test_a_run_that_has_hardly_begun(runs):
    text = text_of(runs["started"][1])
    assert "No phase is finished yet" in text and "Too few subnets" in text


def test_without_any_epoch(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=0)
    (run / "metrics.jsonl").unlink()
    assert "No epoch is finished yet" in report.write_report(run).read_text()


def test_the_same_run_gives_the_same_page(runs):
    path, page = runs["reduced"]
    assert report.write_report(path).read_text() == page
    assert not list(path.glob("*.partial"))


def test_names_are_escaped(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=0, name="<script>alert(1)</script>")
    report.write_run_info(run, ["eps", "<b>&"])
    text = report.write_report(run).read_text()
    assert "<script" not in text and "<b>" not in text
    assert "eps '&lt;b&gt;&amp;'" in text.replace("&#x27;", "'")


def test_run_info_keeps_the_first_start_and_appends_the_others(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=0)
    assert "were not recorded" in report.write_report(run).read_text()
    report.write_run_info(run, ["python", "-m", "experiments.eps", "--workdir=a b"])
    report.write_run_info(run, ["second"])
    report.write_run_info(run, ["third"])
    info = json.loads((run / "run.json").read_text())
    assert info["command"] == "python -m experiments.eps '--workdir=a b'"
    assert [start["command"] for start in info["resumed"]] == ["second", "third"]
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(info["versions"])
    assert set(info["machine"]) == {"platform", "cores", "devices"}
    text = text_of(report.write_report(run).read_text()).replace("&#x27;", "'")
    assert "python -m experiments.eps '--workdir=a b'" in text and "third" in text
    assert info["versions"]["orbax-checkpoint"] in text and info["machine"]["platform"] in text


def test_versions_that_changed_on_the_way_are_shown(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=0)
    report.write_run_info(run, ["first"])
    info = json.loads((run / "run.json").read_text())
    info["versions"]["jax"] = "0.0.7"
    (run / "run.json").write_text(json.dumps(info))
    report.write_run_info(run, ["second"])
    text = text_of(report.write_report(run).read_text())
    assert "0.0.7" in text and text.count("Since it was resumed") == 1


def test_pareto_front_is_what_nothing_beats():
    rng = random.Random(0)
    subnets = [{"macs": rng.randrange(20), "top1": rng.randrange(20), "n": n} for n in range(100)]

    def beaten(s):
        return any(
            t["macs"] <= s["macs"] and t["top1"] >= s["top1"] and (t["macs"], t["top1"]) != (s["macs"], s["top1"])
            for t in subnets
        )

    front = pictures.pareto_front(subnets)
    assert {(s["macs"], s["top1"]) for s in front} == {(s["macs"], s["top1"]) for s in subnets if not beaten(s)}
    assert [s["macs"] for s in front] == sorted({s["macs"] for s in front})


def test_best_tenth_includes_equals_of_its_last_one():
    subnets = [{"top1": top1} for top1 in [1.0] * 17 + [5.0, 5.0, 9.0]]
    assert [s["top1"] for s in pictures.best_subnets(subnets)] == [5.0, 5.0, 9.0]
    assert len(pictures.best_subnets(subnets[:1])) == 1


def test_only_choices_that_vary_are_looked_at(runs):
    run = read_run(runs["reduced"][0])
    assert list(run.results) == ["full", "kernel", "level-1", "level-2", "depth-1"]
    varied = pictures.varied_choices(run.results["level-2"]["subnets"])
    assert varied == {"resolution": [64, 56, 48], "kernel": [7, 5, 3], "level": [7, 6, 5, 4, 3, 2, 1]}
    assert pictures.value_name("level", 5) == "5: IB+L"


def test_an_unfinished_last_line_of_metrics_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=1)
    before = read_run(run).metrics
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "pha')
    assert read_run(run).metrics == before


def test_command(runs, capsys):
    path = runs["one"][0]
    assert command.main([str(path)]) == 0
    assert capsys.readouterr().out == f"{path / 'report.html'}\n"


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("settings.json", None, "there is no settings.json in it"),
        ("settings.json", "{", "cannot be read"),
        ("settings.json", "[]", "does not hold a JSON object"),
        ("settings.json", '{"name": "x"}', "network, width_multiplier, seed"),
        ("phases/00-full/result.json", '{"avg": 1}', "'best' is missing"),
        ("metrics.jsonl", "nonsense\n", "cannot be read"),
        ("run.json", "nonsense", "cannot be read"),
    ],
)
def test_bad_directories_are_refused_in_one_line(tmp_path, capsys, runs, file, content, said):
    run = shutil.copytree(runs["one"][0], tmp_path / "run")
    (run / "report.html").unlink()
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    assert command.main([str(run)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert not (run / "report.html").exists()
