"""Tables IV and V, made from run directories."""

import csv
import json

import pytest

from experiments import tables
from ofav2_jax.report.page import write_report
from ofav2_jax.report.records import read_run
from ofav2_jax.report.tables import as_text, build_tables
from tests.helpers.synthetic import write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a", "ee_d")
    write_run(root / "b", "ee_d", seed=1, offset=2.0)
    write_run(root / "wide", "se_p", width_multiplier=1.2, teacher="fixed", finished=4)
    write_run(root / "reduced", "ofa_mbv3", epochs=1, data__num_classes=20)
    write_run(root / "narrow", "se_d", width_multiplier=0.5, data__dataset="cifar10")
    return root


@pytest.fixture(scope="module")
def written(root, tmp_path_factory):
    """The directory in which the program wrote its three files."""
    out = tmp_path_factory.mktemp("out") / "new" / "tables"
    assert tables.main([*map(str, sorted(root.iterdir())), f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def found(written):
    return json.loads((written / "tables.json").read_text())["tables"]


def row(table, network, teacher="progressive"):
    return next(row for row in table["rows"] if (row["network"], row["teacher"]) == (network, teacher))


def test_both_tables_are_complete_and_others_follow(found):
    assert [len(table["rows"]) for table in found] == [16, 16, 1]
    assert found[0]["title"].startswith("Table IV:") and found[1]["title"].startswith("Table V:")
    assert [r["network"] for r in found[0]["rows"][::2]] == [
        *("ofa_mbv3", "se_d", "ee_b", "ee_d", "se_p", "se_dp", "ee_p", "ee_dp")
    ]


def test_each_column_is_its_last_phase_beside_the_paper(found, root):
    run = row(found[0], "ee_d")["runs"][0]
    results = read_run(root / "a").results
    phases = {"resolution": "full", "kernel": "kernel", "height": "height-4", "depth": "depth-2", "width": "width-2"}
    for column, phase in phases.items():
        assert run["columns"][column]["avg"] == results[phase]["avg"]
        assert run["columns"][column]["best"] == results[phase]["best"]
    assert run["columns"]["level"] is None
    # Table IV: 44.22 and 51.90.
    assert run["columns"]["width"]["avg_difference"] == pytest.approx(results["width-2"]["avg"] - 44.22)
    assert run["columns"]["width"]["best_difference"] == pytest.approx(results["width-2"]["best"] - 51.9)
    assert run["differs"] == [] and run["note"] is None


def test_runs_of_one_cell_are_listed_one_by_one(found):
    first, second = row(found[0], "ee_d")["runs"]
    assert (first["seed"], second["seed"]) == (0, 1)
    for column in ("kernel", "width"):
        assert second["columns"][column]["avg"] - first["columns"][column]["avg"] == pytest.approx(2)


def test_phases_to_come_leave_their_cells_open(found):
    # Four of eight phases are finished: full, kernel, level-1 and level-2.
    run = row(found[1], "se_p", "fixed")["runs"][0]
    assert (run["finished_phases"], run["num_phases"]) == (4, 8)
    assert [column for column, cell in run["columns"].items() if cell] == ["resolution", "kernel", "level"]


def test_level_1_alone_does_not_fill_the_column(tmp_path):
    run = read_run(write_run(tmp_path / "run", "ee_p", finished=3))
    assert "level-1" in run.results
    columns = row(build_tables([run])[0], "ee_p")["runs"][0]["columns"]
    assert columns["kernel"] is not None and columns["level"] is None


def test_reduced_runs_are_marked_with_what_differs(found, written):
    run = row(found[0], "ofa_mbv3")["runs"][0]
    assert run["differs"] == ["20 instead of 200 classes", "6 instead of 605 epochs"] and run["note"] == 1
    assert run["columns"]["width"]["avg_difference"] == pytest.approx(run["columns"]["width"]["avg"] - 40.03)
    markdown = (written / "tables.md").read_text()
    assert "reduced, seed 0, reduced [1] |" in markdown
    assert "[1] not comparable with the paper: 20 instead of 200 classes; 6 instead of 605 epochs" in markdown


def test_numbers_about_other_images_are_not_subtracted(tmp_path):
    run = read_run(write_run(tmp_path / "run", "se_d", finished=1, data__dataset="cifar10"))
    table = build_tables([run])[0]
    cell = row(table, "se_d")["runs"][0]["columns"]["resolution"]
    assert cell["avg"] > 0 and cell["avg_difference"] is None
    assert "difference" not in as_text([table])


def test_other_width_multipliers_stand_without_the_papers_numbers(found, written):
    only = found[2]["rows"][0]
    assert only["width_multiplier"] == 0.5 and set(only["paper"].values()) == {None}
    last = (written / "tables.md").read_text().split("## ")[-1]
    assert "| se_d x0.5 | progressive |" in last and "| paper |" not in last


def test_the_second_pair_is_over_the_subnets_that_the_authors_test_visits(found, root, written):
    run = row(found[0], "ee_d")["runs"][0]
    results = read_run(root / "a").results

    def of_ends(row, **values):
        ends = {"resolution": (48, 64), "kernel": (7, 3), "expand": (6, 3), "depth": (4, 2), "height": (5, 1)} | values
        return all(row[name] in allowed for name, allowed in ends.items())

    visited = {
        "kernel": [r["top1"] for r in results["kernel"]["subnets"] if of_ends(r, kernel=(7, 5, 3))],
        "height": [r["top1"] for r in results["height-4"]["subnets"] if of_ends(r, height=(5, 4, 3, 2, 1))],
        "width": [r["top1"] for r in results["width-2"]["subnets"] if of_ends(r, expand=(6, 4, 3))],
    }
    assert [len(top1) for top1 in visited.values()] == [6, 20, 48]
    for column, top1 in visited.items():
        cell = run["columns"][column]
        assert cell["authors_avg"] == pytest.approx(sum(top1) / len(top1)) and cell["authors_best"] == max(top1)
    # The ensemble, at two of three resolutions.
    ensemble = [r["top1"] for r in results["full"]["subnets"] if r["resolution"] != 56]
    assert run["columns"]["resolution"]["authors_avg"] == pytest.approx(sum(ensemble) / 2)
    with (written / "tables.csv").open() as file:
        record = next(r for r in csv.DictReader(file) if r["run"] == str(root / "a") and r["column"] == "height")
    assert record["authors_avg"] == f"{run['columns']['height']['authors_avg']:.2f}"


def test_a_run_that_tests_no_others_has_one_pair(tmp_path):
    path = write_run(tmp_path / "run", "se_d", finished=2, resolutions=(48, 64))
    (table, _) = build_tables([read_run(path)])
    cell = row(table, "se_d")["runs"][0]["columns"]["kernel"]
    assert (cell["authors_avg"], cell["authors_best"]) == (pytest.approx(cell["avg"]), cell["best"])
    assert "  authors' subset  " not in as_text([table])


def test_phases_that_are_left_out_leave_their_cells_empty(tmp_path):
    path = write_run(tmp_path / "run", "ee_d", phases=("full", "kernel", "depth_1", "depth_2"))
    run = row(build_tables([read_run(path)])[0], "ee_d")["runs"][0]
    assert (run["finished_phases"], run["num_phases"]) == (4, 4)
    assert [column for column, cell in run["columns"].items() if cell] == ["resolution", "kernel", "depth"]
    assert run["differs"][0].startswith("phases full, kernel, depth-1, depth-2 instead of full, kernel, height-1")
    page = write_report(path).read_text(encoding="utf-8")
    assert "Finished: all 4 phases are trained and tested." in page and "height-1 instead of" not in page


def test_text_lines_up(root):
    text = as_text(build_tables([read_run(root / "a"), read_run(root / "b")]))
    lines = text.split("\n\n")[0].splitlines()[1:]
    header = lines[0]
    end = header.index("kernel") + len("kernel")
    # Numbers are aligned with the right end of their column's name.
    assert all(line[end - 1].isdigit() and line[end : end + 1] in ("", " ") for line in lines[1:])
    paper, first, subset, difference, second = (lines[i] for i in range(8, 13))
    assert "44.22 / 51.90" in paper
    assert first.split()[0].endswith("/a,") and second.split()[0].endswith("/b,")
    assert difference.split()[0] == "difference" and "n/a" in difference
    assert subset.startswith(" " * 10) and subset.split()[:2] == ["authors'", "subset"]


def test_csv_has_every_cell_once(written, root):
    with (written / "tables.csv").open() as file:
        records = list(csv.DictReader(file))
    keys = [(r["table"], r["network"], r["teacher"], r["column"], r["run"]) for r in records]
    assert len(keys) == len(set(keys))
    record = next(r for r in records if r["run"] == str(root / "a") and r["column"] == "width")
    avg = read_run(root / "a").results["width-2"]["avg"]
    assert (record["avg"], record["paper_avg"]) == (f"{avg:.2f}", "44.22")
    assert record["avg_difference"] == f"{avg - 44.22:.2f}"
    # A row of the paper to which no run belongs.
    empty = next(r for r in records if r["table"] == "Table V" and r["network"] == "ee_b" and r["column"] == "kernel")
    assert (empty["run"], empty["avg"], empty["paper_best"]) == ("", "", "40.45")


def test_markdown_tables_are_rectangular(written):
    lines = [line for line in (written / "tables.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {10}
