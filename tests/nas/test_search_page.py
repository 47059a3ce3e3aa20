"""Searches on a run's page."""

import json
import types

import pytest

from ofav2_jax.report import searches as page
from tests.helpers import searches


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a finished search and one that is not."""
    directory = tmp_path_factory.mktemp("run")
    searches.search(directory / "search" / "done", images=100, constraints=["macs<=1G", "params<=1M"]).run()
    archive = (directory / "search" / "done" / "archive.jsonl").read_text().splitlines(keepends=True)
    (directory / "search" / "begun").mkdir()
    (directory / "search" / "begun" / "archive.jsonl").write_text("".join(archive[:7]))
    return types.SimpleNamespace(directory=directory)


def test_section(run):
    text = "\n".join(page.section(run))
    assert "<h2>Search begun</h2>\n<p>Not finished: 7 trunks are evaluated.</p>" in text
    assert "<svg" in text and 'id="search-done"' in text
    front = json.loads((run.directory / "search" / "done" / "front.json").read_text())
    for line in front["lines"]:
        assert f"{line['design']['validation']['top1']:.2f}" in text and line["design"]["subnet"] in text
    assert f"{front['quality']['rounds'][0]['predicted']['within_height']:.2f}" in text
    assert "macs&lt;=1G" in text
    assert list(page.section(types.SimpleNamespace(directory=run.directory / "nothing"))) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda front: front["archive"].append([1, 2]),
        lambda front: front.update(cost="<b>"),
        lambda front: front["lines"][0]["design"].update(macs="<b>"),
        lambda front: front["lines"][0].pop("uniform"),
        lambda front: front["quality"].pop("rounds"),
        lambda front: front["quality"].update(reliability={"across": "x"}),
        lambda front: front.pop("lines"),
    ],
)
def test_what_is_no_outcome_is_refused(run, tmp_path, change):
    content = json.loads((run.directory / "search" / "done" / "front.json").read_text())
    change(content)
    path = tmp_path / "search" / "done" / "front.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"front\.json cannot be read") as error:
        list(page.section(types.SimpleNamespace(directory=tmp_path)))
    assert "\n" not in str(error.value)


def test_texts_of_others_are_escaped(run, tmp_path):
    content = json.loads((run.directory / "search" / "done" / "front.json").read_text())
    content["lines"][0]["design"]["text"] = content["run"]["phase"] = "<script>"
    content["lines"][0]["constraint"] = content["exits"] = "<script>"
    path = tmp_path / "search" / "<script>" / "front.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    assert "<script>" not in "\n".join(page.section(types.SimpleNamespace(directory=tmp_path)))
