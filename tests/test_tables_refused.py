"""Tables IV and V: what is skipped and named, and what is refused."""

import json
import os
import subprocess
import sys

import pytest

from experiments import report, tables
from ofav2_jax import Settings, files
from ofav2_jax.report.page import write_report
from ofav2_jax.settings.finetuning import Finetuning
from tests.helpers.runs import ROOT
from tests.helpers.synthetic import write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with one run of which tables can be made."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a", "ee_d")
    return root


def test_a_fine_tuned_network_is_named_and_skipped(root, tmp_path, capsys):
    settings = Finetuning().settings(Settings.paper("ee_d"), "k3-e3-d2-l7-h2@48", 48, "0" * 64)
    files.write_json(tmp_path / "tuned" / files.SETTINGS, settings.as_json())
    for flags in ([], ["--seeds"]):
        assert tables.main([str(tmp_path / "tuned"), str(root / "a"), *flags, f"--out={tmp_path / 'out'}"]) == 0
        printed = capsys.readouterr()
        reason = "fine-tunes one network, k3-e3-d2-l7-h2@48; the tables are of supernets"
        assert printed.err == f"skipped: {tmp_path / 'tuned'} {reason}\n"
        assert "finetune" not in printed.out and str(tmp_path / "tuned") not in printed.out


@pytest.mark.parametrize("command", [tables, report])
@pytest.mark.parametrize("arguments", [[], ["run", "--other=3"]])
def test_a_wrong_command_line_is_one_line(command, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1


def test_what_is_no_run_is_named_and_skipped(root, tmp_path, capsys):
    (tmp_path / "stray.txt").write_text("notes")
    # A dry run leaves an empty directory.
    (tmp_path / "dry").mkdir()
    broken = write_run(tmp_path / "broken", "se_d", finished=1)
    (broken / "settings.json").write_text("{")
    out = tmp_path / "out"
    others = [tmp_path / "stray.txt", tmp_path / "dry", broken, tmp_path / "missing"]
    assert tables.main([str(others[0]), str(root / "a"), *map(str, others[1:]), f"--out={out}"]) == 0
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == len(others)
    for line, path in zip(lines, others):
        assert line.startswith(f"skipped: {path}")
    assert tables.main([str(root / "a"), f"--out={tmp_path / 'alone'}"]) == 0
    alone = capsys.readouterr()
    assert alone.err == "" and alone.out.replace(str(tmp_path / "alone"), str(out)) == printed.out
    for kind in ("md", "csv", "json"):
        assert (out / f"tables.{kind}").read_text() == (tmp_path / "alone" / f"tables.{kind}").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["tables.csv", "tables.json", "tables.md"]


BROKEN = {
    "settings.json": [
        lambda value: value.update(width_multiplier="wide"),
        lambda value: value.update(resolutions=48),
        lambda value: value.update(data=[]),
        lambda value: value.update(evaluation={}),
        lambda value: value["recipe"].update(augmentation=[1]),
        lambda value: value["recipe"].update(augmentation=None),
        lambda value: value["phases"][1].update(values=[None]),
        lambda value: value["phases"][1].update(name=3),
        lambda value: value["phases"][1].update(unlocks="colour"),
    ],
    "phases/00-full/result.json": [
        lambda value: value.update(avg="high"),
        lambda value: value.update(best=None),
        lambda value: value.update(subnets=[]),
        lambda value: value.update(subnets=["k7"]),
        lambda value: value["subnets"][0].update(macs="many"),
        lambda value: value["subnets"][0].pop("kernel"),
    ],
}


@pytest.mark.parametrize(("file", "change"), [(file, change) for file in BROKEN for change in BROKEN[file]])
def test_a_run_with_broken_numbers_is_named_and_skipped(file, change, root, tmp_path, capsys):
    broken = write_run(tmp_path / "broken", "se_d", finished=1)
    content = json.loads((broken / file).read_text(encoding="utf-8"))
    change(content)
    (broken / file).write_text(json.dumps(content), encoding="utf-8")
    assert tables.main([str(broken), str(root / "a"), f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"skipped: {broken}/{file} ") and printed.err.count("\n") == 1
    assert f"{root}/a, seed 0" in printed.out
    with pytest.raises(ValueError, match=f"{broken}/{file} "):
        write_report(broken)


def test_foreign_text_is_neither_markup_nor_a_command_to_the_terminal(tmp_path, capsys):
    foreign = write_run(tmp_path / "<b>|x", "se_d", finished=1)
    settings = json.loads((foreign / "settings.json").read_text(encoding="utf-8"))
    settings["data"]["dataset"] = "<script>|\x1b[2J\n# head"
    (foreign / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert tables.main([str(foreign), f"--out={tmp_path / 'out'}"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    markdown = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert "<" not in markdown and "\n# head" not in markdown
    assert "data set &lt;script&gt;" in markdown and "&lt;b&gt;\\|x, seed 0" in markdown


def test_what_the_terminal_cannot_print_is_escaped(tmp_path):
    write_run(tmp_path / "r\N{LATIN SMALL LETTER E WITH ACUTE}\N{RIGHTWARDS ARROW}", "se_d", finished=1)
    command = [sys.executable, "-m", "experiments.tables", str(next(tmp_path.iterdir())), f"--out={tmp_path / 'out'}"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "r\\xe9\\u2192, seed 0" in done.stdout


def test_paths_in_the_home_directory(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(root))
    assert tables.main(["~/a", f"--out={tmp_path}"]) == 0
    assert f"{root}/a, seed 0" in capsys.readouterr().out
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tables.main([str(root / "a"), "--out=~/tables"]) == 0 and (tmp_path / "tables" / "tables.md").exists()
    assert tables.main(["gs://bucket/run", str(root / "a"), f"--out={tmp_path}"]) == 0
    assert "skipped: RUN='gs://bucket/run' is not allowed: it must be a path" in capsys.readouterr().err
    assert tables.main([str(root / "a"), "--out=gs://bucket/tables"]) == 2
    assert report.main(["gs://bucket/run"]) == 2


def test_without_any_run_nothing_is_written(tmp_path, capsys):
    (tmp_path / "stray.txt").write_text("notes")
    (tmp_path / "dry").mkdir()
    out = tmp_path / "out"
    assert tables.main([str(tmp_path / "stray.txt"), str(tmp_path / "dry"), f"--out={out}"]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 3 and "stray.txt" in lines[0] and "dry" in lines[1] and lines[2].startswith("error: ")
    assert printed.out == "" and not out.exists()


def test_a_directory_that_cannot_be_written(root, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tables.main([str(root / "a"), f"--out={tmp_path / 'file'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
