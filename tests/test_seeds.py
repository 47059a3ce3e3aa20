"""The comparison of runs over seeds, of made-up results."""

import csv
import json
import math

import pytest

from experiments import tables
from ofav2_jax.report.records import read_run
from ofav2_jax.report.seed_forms import as_markdown, as_text
from ofav2_jax.report.seeds import build_seeds
from tests.helpers.synthetic import write_run

# Added to every top-1 of a seed. The last ones are so far apart that nothing exceeds their errors.
OFFSETS = {"apart": (0.0, 0.5, 1.0), "below": (-3.0, -2.5, -2.0), "noisy": (-9.0, 0.0, 9.0)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(root / f"a{seed}", "ee_d", name=f"a{seed}", seed=seed, offset=OFFSETS["apart"][seed])
        write_run(root / f"b{seed}", "ee_d", seed=seed, offset=OFFSETS["below"][seed], teacher="fixed")
        finished = 6 if seed else 4
        write_run(root / f"c{seed}", "ofa_mbv3", seed=seed, offset=OFFSETS["noisy"][seed], finished=finished)
    write_run(root / "d", "ee_d", seed=7, recipe__exit_weights="asc", offset=20.0)
    return root


def runs_of(root, pattern="*"):
    return [read_run(path) for path in sorted(root.glob(pattern))]


@pytest.fixture(scope="module")
def found(root):
    return build_seeds(runs_of(root))


LABELS = ["ee_d progressive", "ee_d fixed", "ofa_mbv3 progressive", "ee_d progressive, recipe.exit_weights=asc"]


def test_runs_that_differ_in_the_seed_and_the_name_are_one_row(found, root):
    assert [row["label"] for row in found["rows"]] == LABELS
    assert [row["seeds"] for row in found["rows"]] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [7]]
    assert found["rows"][0]["directories"] == [str(root / f"a{seed}") for seed in range(3)]
    assert found["phases"][:3] == ["full", "kernel", "height-1"] and len(found["phases"]) == 10


@pytest.mark.parametrize("measure", ["avg", "best"])
def test_mean_and_standard_error(found, root, measure):
    for phase in ("full", "height-3", "width-2"):
        cell = found["rows"][0]["phases"][phase][measure]
        middle = read_run(root / "a1").results[phase][measure]
        # Three values 0.5 apart: a standard deviation of 0.5.
        assert cell["num_seeds"] == 3 and cell["mean"] == pytest.approx(middle)
        assert cell["standard_error"] == pytest.approx(0.5 / math.sqrt(3))


def test_the_pair_over_the_authors_subset_is_there_but_not_compared(found, root):
    cell = found["rows"][0]["phases"]["width-2"]["authors_avg"]
    assert cell["mean"] == pytest.approx(read_run(root / "a1").results["width-2"]["authors_avg"])
    assert cell["standard_error"] == pytest.approx(0.5 / math.sqrt(3))
    assert set(found["differences"][0]["phases"]["full"]) == {"avg", "best"} == set(found["orders"]["width"])
    assert "best of the subnets that the authors' test visits" in as_text(found)


def test_one_seed_has_no_standard_error(found):
    cell = found["rows"][3]["phases"]["full"]["avg"]
    assert (cell["num_seeds"], cell["standard_error"]) == (1, None)
    pair = next(pair for pair in found["differences"] if pair["rows"] == [LABELS[0], LABELS[3]])
    values = pair["phases"]["full"]["avg"]
    assert values["difference"] == pytest.approx(-19.5)
    assert values["standard_error"] is None and values["exceeds"] is None
    assert "one seed has no standard error: nothing is marked where a row has only one" in as_text(found)


def test_differences_are_marked_beyond_two_of_their_standard_errors(found):
    pairs = {tuple(pair["rows"]): pair["phases"] for pair in found["differences"]}
    assert len(pairs) == 6
    clear = pairs[LABELS[0], LABELS[1]]["width-2"]["avg"]
    assert clear["difference"] == pytest.approx(3)
    assert clear["standard_error"] == pytest.approx(0.5 * math.sqrt(2 / 3)) and clear["exceeds"] is True
    noisy = pairs[LABELS[0], LABELS[2]]["full"]["best"]
    assert noisy["standard_error"] > 5 and noisy["exceeds"] is False
    # Table IV: 44.22 and 40.30 for EE_D, 40.03 for the baseline; the paper has no other exit weights.
    assert clear["paper"] == pytest.approx(44.22 - 40.30)
    assert pairs[LABELS[0], LABELS[2]]["width-2"]["avg"]["paper"] == pytest.approx(44.22 - 40.03)
    assert pairs[LABELS[0], LABELS[3]]["width-2"]["avg"]["paper"] is None
    # No column of the paper's tables.
    assert pairs[LABELS[0], LABELS[1]]["depth-1"]["avg"]["paper"] is None
    assert "height-1" not in pairs[LABELS[0], LABELS[2]]


def test_interpolated_test_images_are_a_setting(tmp_path):
    write_run(tmp_path / "one", "se_d", finished=1)
    write_run(tmp_path / "two", "se_d", finished=1, evaluation__interpolate=True)
    rows = build_seeds(runs_of(tmp_path))["rows"]
    assert [row["label"] for row in rows] == ["se_d progressive", "se_d progressive, evaluation.interpolate=true"]
    assert [row["differs"] for row in rows] == [[], ["test images are interpolated at every resolution"]]


@pytest.mark.parametrize(("distance", "exceeds"), [(1.99, False), (2.01, True)])
def test_two_standard_errors_are_the_limit(tmp_path, distance, exceeds):
    error = 0.5 * math.sqrt(2 / 3)
    for seed in range(3):
        write_run(tmp_path / f"one{seed}", "se_d", finished=1, seed=seed, offset=OFFSETS["apart"][seed])
        offset = OFFSETS["apart"][seed] + distance * error
        write_run(tmp_path / f"two{seed}", "se_d", finished=1, seed=seed, offset=offset, teacher="fixed")
    found = build_seeds(runs_of(tmp_path))
    assert found["differences"][0]["phases"]["full"]["avg"]["exceeds"] is exceeds
    order = found["orders"]["resolution"]["avg"]
    assert order["ours"] == ["se_d fixed", "se_d progressive"] and order["exceeds"] == [exceeds]
    assert f"se_d fixed {'>' if exceeds else '~'} se_d progressive" in as_text(found)


def test_a_run_under_way_counts_where_it_has_finished(found):
    cells = found["rows"][2]["phases"]
    assert cells["depth-2"]["avg"]["num_seeds"] == 3 and cells["width-2"]["avg"]["num_seeds"] == 2
    assert "(2 seeds)" in as_text(found)


def test_the_papers_order_of_the_same_rows(found):
    order = found["orders"]["width"]["avg"]
    assert order["ours"][0] == LABELS[3] and set(order["ours"]) == set(LABELS)
    assert order["exceeds"][0] is None
    # Table IV; both rows of EE_D with a progressive teacher are one row there.
    assert order["paper"] == ["ee_d progressive", "ee_d fixed", "ofa_mbv3 progressive"]
    assert order["paper_values"] == [44.22, 40.30, 40.03]
    assert "height" in found["orders"] and "level" not in found["orders"]
    assert set(found["orders"]["height"]["avg"]["ours"]) == {LABELS[0], LABELS[1], LABELS[3]}


def test_a_row_is_named_by_what_most_rows_have_otherwise(tmp_path):
    write_run(tmp_path / "a", "ee_d", finished=1)
    write_run(tmp_path / "b", "ee_d", finished=1, batch_size=64)
    write_run(tmp_path / "c", "ee_d", finished=1, width_multiplier=1.2)
    write_run(tmp_path / "d", "ee_d", finished=1, phases=("full", "kernel"))
    labels = [row["label"] for row in build_seeds(runs_of(tmp_path))["rows"]]
    progressive = "ee_d progressive"
    assert labels == [
        progressive,
        f"{progressive}, batch_size=64",
        f"{progressive} x1.2",
        f"{progressive}, phases=full kernel",
    ]


def test_many_other_settings_are_a_footnote(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", "ee_d", finished=1, seed=seed)
        for name in ("b", "c"):
            changes = {"batch_size": 64, "data__num_classes": 20, "data__flip": False, "resolutions": (48, 64)}
            write_run(tmp_path / f"{name}{seed}", "ee_d" if name == "b" else "se_d", finished=1, seed=seed, **changes)
    found = build_seeds(runs_of(tmp_path))
    assert [row["label"] for row in found["rows"]] == [
        *("ee_d progressive, other settings 1", "ee_d progressive", "se_d progressive")
    ]
    assert found["rows"][0]["other_settings"]["batch_size"] == "200"
    lines = as_text(found).splitlines()
    assert sum(line.startswith("other settings 1: resolutions=[48, 56, 64]; batch_size=200;") for line in lines) == 1


def change(path, file, values):
    content = json.loads((path / file).read_text(encoding="utf-8")) if (path / file).exists() else {}
    (path / file).write_text(json.dumps(content | values), encoding="utf-8")


def test_settings_of_older_versions_are_the_same_row(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), "se_d", finished=1, seed=seed)
    older = json.loads((tmp_path / "0" / "settings.json").read_text(encoding="utf-8"))
    del older["data"]["skip_broken"], older["data"]["validation_fraction"], older["recipe"]["distillation"]
    (tmp_path / "0" / "settings.json").write_text(json.dumps(older), encoding="utf-8")
    (row,) = build_seeds(runs_of(tmp_path))["rows"]
    assert row["seeds"] == [0, 1]


def test_other_images_are_another_row(tmp_path):
    for number, pixels in enumerate(("ab" * 32, "ab" * 32, "cd" * 32)):
        write_run(
            tmp_path / str(number), "se_d", finished=1, seed=number, data__dataset="folder", data__data_dir="images"
        )
        change(tmp_path / str(number), "data.json", {"pixels_sha256": pixels})
    rows = build_seeds(runs_of(tmp_path))["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1], [2]]
    assert rows[1]["label"] == "se_d progressive, data.pixels_sha256=cdcdcdcdcdcd"


def test_the_command(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert tables.main(["--seeds", *map(str, sorted(root.iterdir())), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["seeds.csv", "seeds.json", "seeds.md"]
    assert f"written to {out / 'seeds.md'}" in printed
    found = build_seeds(runs_of(root))
    assert json.loads((out / "seeds.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    assert printed.startswith(as_text(found))
    lines = printed.splitlines()
    assert any(
        line.startswith("ee_d progressive - ee_d fixed") and "+3.00 \N{PLUS-MINUS SIGN} 0.41 *" in line
        for line in lines
    )
    assert any(line.split()[:2] == ["paper", "+0.28"] for line in lines)
    with (out / "seeds.csv").open(encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert len(records) == 4 * sum(len(row["phases"]) for row in found["rows"])
    record = next(r for r in records if (r["row"], r["phase"], r["measure"]) == (LABELS[0], "width-2", "avg"))
    assert (record["num_seeds"], record["standard_error"], record["paper"]) == ("3", "0.2887", "44.22")


def test_markdown_tables_are_rectangular_and_hold_no_markup(tmp_path):
    foreign = write_run(tmp_path / "run", "se_d", finished=1)
    write_run(tmp_path / "other", "se_d", finished=1)
    write_run(tmp_path / "third", "se_d", finished=1, seed=1)
    settings = json.loads((foreign / "settings.json").read_text(encoding="utf-8"))
    settings["data"]["dataset"] = "<script>|\x1b[2J\n# head"
    (foreign / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    found = build_seeds(runs_of(tmp_path))
    text = as_markdown(found)
    assert "<script>" not in text and "\x1b" not in text and "\n# head" not in text
    assert "\x1b" not in as_text(found)
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_run_that_is_there_twice_is_refused(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert tables.main(["--seeds", str(root / "a0"), str(root / "a1"), str(root / "a0"), f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {root}/a0 and {root}/a0 have the same settings, seed 0 included: name one of them\n"
    assert not out.exists()
