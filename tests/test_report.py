"""A run's page and the records it is made from, for finished, unfinished, reduced and foreign runs."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from experiments import report as command
from ofav2_jax import files
from ofav2_jax.report import page as report
from ofav2_jax.report import pictures
from ofav2_jax.report.records import read_run
from ofav2_jax.run.run_info import write_run_info
from tests.helpers.synthetic import write_run

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks the nesting of a page's elements and collects its figures, links, identifiers, tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figures, self.links, self.ids, self.tags, self.attributes = [], [], [], [], set(), set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(attrs)
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
    """The text of a page without its pictures, as one line."""
    page = re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directory and page of four runs: finished, reduced and unfinished, just started, and with one finished phase."""
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
    # A single phase gets no small multiples, and three subnets are too few for a picture of the best tenth.
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
    write_run_info(run, ["eps", "<b>&"])
    text = report.write_report(run).read_text()
    assert "<script" not in text and "<b>" not in text
    assert "eps '&lt;b&gt;&amp;'" in text.replace("&#x27;", "'")


# Text that, unescaped, would end an attribute, a comment or an element, or start a formula of matplotlib.
HOSTILE = """"'--!></i><script>&$\\frac{$"""


def rename_phase(run, old, new):
    """Gives a phase another name, in all files of a run directory."""
    settings = json.loads((run / "settings.json").read_text())
    for index, phase in enumerate(settings["phases"]):
        if phase["name"] == old:
            phase["name"] = new
            target = run / "phases" / f"{index:02d}-{new}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (run / "phases" / f"{index:02d}-{old}").rename(target)
    (run / "settings.json").write_text(json.dumps(settings))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [record | {"phase": new if record["phase"] == old else record["phase"]} for record in records]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def replace_texts(value):
    """Replaces every string in a JSON value by a hostile one; keys and numbers stay."""
    if isinstance(value, dict):
        return {key: replace_texts(inner) for key, inner in value.items()}
    return HOSTILE if isinstance(value, str) else value


def test_nothing_from_a_file_becomes_markup(runs, tmp_path):
    run = write_run(tmp_path / "run", "se_p", finished=2, epochs=1)
    rename_phase(run, "full", HOSTILE)
    rename_phase(run, "kernel", f"kernel {HOSTILE}")
    result = run / "phases" / f"01-kernel {HOSTILE}" / "result.json"
    kernel = json.loads(result.read_text())
    # The subnets are repeated, because the picture of the choices needs 20 of them.
    kernel["subnets"] = [subnet | {"height": f"{HOSTILE} {subnet['kernel']}"} for subnet in kernel["subnets"] * 3]
    result.write_text(json.dumps(kernel))
    write_run_info(run, ["eps", HOSTILE])
    info = replace_texts(json.loads((run / "run.json").read_text()))
    info["versions"][HOSTILE] = info["machine"][HOSTILE] = HOSTILE
    (run / "run.json").write_text(json.dumps(info | {"resumed": [info | {"versions": {HOSTILE: HOSTILE}}]}))
    (run / "results.json").write_text(json.dumps({"seconds": {HOSTILE: 1.0}, "params_sha256": HOSTILE}))
    settings = json.loads((run / "settings.json").read_text())
    settings |= {field: HOSTILE for field in ("name", "teacher", "engine")}
    settings |= {"recipe": settings["recipe"] | {HOSTILE: HOSTILE, "distillation": HOSTILE}}
    settings["data"] |= {field: HOSTILE for field in ("dataset", "num_classes", "max_test_images", HOSTILE)}
    (run / "settings.json").write_text(json.dumps(settings))

    text = report.write_report(run).read_text(encoding="utf-8")
    page, ordinary = Page(text), Page(runs["reduced"][1])
    assert "<script" not in text
    assert len(page.figures) == 7
    # The hostile text adds neither elements nor attributes to the page, nor to its pictures.
    assert page.tags <= ordinary.tags and page.attributes <= ordinary.attributes
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", figure) for figure in page.figures)
    assert len(page.ids) == len(set(page.ids))
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    # The reader sees the text as it is in the files.
    assert f"{HOSTILE} 1 0" in html.unescape(text_of(text))


def test_run_info_keeps_the_first_start_and_appends_the_others(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=0)
    assert "were not recorded" in report.write_report(run).read_text()
    write_run_info(run, ["python", "-m", "experiments.eps", "--workdir=a b"])
    write_run_info(run, ["second"])
    write_run_info(run, ["third"])
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
    write_run_info(run, ["first"])
    info = json.loads((run / "run.json").read_text())
    info["versions"]["jax"] = "0.0.7"
    (run / "run.json").write_text(json.dumps(info))
    write_run_info(run, ["second"])
    text = text_of(report.write_report(run).read_text())
    assert "0.0.7" in text and text.count("Since it was resumed") == 1


def test_only_choices_that_vary_are_looked_at(runs):
    run = read_run(runs["reduced"][0])
    assert list(run.results) == ["full", "kernel", "level-1", "level-2", "depth-1"]
    varied = pictures.varied_choices(run.results["level-2"]["subnets"])
    assert varied == {"resolution": [64, 56, 48], "kernel": [7, 5, 3], "level": [7, 6, 5, 4, 3, 2, 1]}
    assert pictures.value_name("level", 5) == "5: IB+L"


def test_records_of_older_versions_give_the_same_page(runs, tmp_path):
    path, page = runs["reduced"]
    old = shutil.copytree(path, tmp_path / "old")
    records = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record["top1"] = record.pop("train_top1") / 100
    (old / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_run(old).metrics == read_run(path).metrics
    assert report.write_report(old).read_text() == page


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
        ("metrics.jsonl", "nonsense\n", "cannot be read: line 1"),
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


def test_names_of_classes_are_shown_and_escaped(tmp_path):
    run = write_run(tmp_path / "run", "se_d", finished=1, data__dataset="folder", data__data_dir="images")
    names = ["cat & <dog>", *(f"class{number}" for number in range(30))]
    files.write_json(run / files.DATA, {"name": "pets", "class_names": names})
    page = report.write_report(run).read_text(encoding="utf-8")
    assert "folder: pets" in page and "31: cat &amp; &lt;dog&gt;, class0" in page and "class18 and 11 more" in page
    assert "<dog>" not in page
