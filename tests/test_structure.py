"""The house: few floors, short modules, settings without JAX."""

import subprocess
import sys

import hypothesis
import pytest

from tests.helpers import structure


def test_few_levels_and_no_circle():
    levels = structure.levels()
    assert max(levels.values()) <= 9, levels


def test_layers_point_downwards():
    graph = structure.arrows()
    package = structure.PACKAGE
    assert graph[f"{package}.ops"] == set()
    assert graph[f"{package}.settings"] <= {f"{package}.{room}" for room in ("checks", "model")}
    assert f"{package}.evaluate" not in graph[f"{package}.train"]
    assert f"{package}.train" not in graph[f"{package}.evaluate"]
    assert not graph[f"{package}.report"] & {f"{package}.{room}" for room in ("ops", "data", "runtime", "train", "run")}
    assert all("experiments" not in others for room, others in graph.items() if room.startswith(package))


def test_modules_and_functions_are_short():
    modules = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in structure.sources().items()}
    assert {name: lines for name, lines in modules.items() if lines > 300} == {}
    assert {name: lines for name, lines in structure.functions().items() if lines > 60} == {}


def test_modules_of_tests_are_short():
    files = sorted((structure.ROOT / "tests").rglob("*.py"))
    lengths = {str(file.relative_to(structure.ROOT)): len(file.read_text("utf-8").splitlines()) for file in files}
    assert {file: lines for file, lines in lengths.items() if lines > 300} == {}
    # Without packages, pytest imports test modules by their bare names.
    names = [file.stem for file in files if file.stem.startswith("test_")]
    assert len(names) == len(set(names))


def test_text_files_are_utf_8_whatever_the_locale_says():
    unspecified = {name: lines for name, lines in structure.unspecified_encodings().items() if lines}
    assert unspecified == {}


def test_tests_of_a_module_run_in_one_process(request):
    if not hasattr(request.config, "workerinput"):
        pytest.skip("tests are not distributed over processes")
    # Two modules of one group are those that need the same runs.
    # A test's parameters may have an @, too.
    names = [item.nodeid.rpartition("@") for item in request.session.items]
    assert all(group for _, _, group in names)
    groups = {(name.partition("::")[0], group) for name, _, group in names if group != "runs"}
    assert len(groups) == len({file for file, _ in groups})


def test_no_test_fails_because_a_machine_is_slow():
    assert hypothesis.settings.default.deadline is None


def test_settings_and_reports_need_no_jax():
    code = """
import sys
import ofav2_jax
settings = ofav2_jax.Settings.paper("ee_d", width_multiplier=1.2, teacher="fixed")
assert len(settings.phases) == 10
import ofav2_jax.report.page, ofav2_jax.report.tables
assert not {"jax", "flax", "orbax", "tensorflow_datasets"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=structure.ROOT)
