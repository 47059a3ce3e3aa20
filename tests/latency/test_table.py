"""Tables of devices whose times are known, their files, and what is refused."""

import copy
import functools
import itertools
import json

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax import files
from ofav2_jax.latency import measure
from ofav2_jax.latency.networks import time_networks
from ofav2_jax.latency.table import LatencyTable
from ofav2_jax.latency.write import prepare, random_variables
from ofav2_jax.nas.genes import Designs
from tests.helpers.latencies import (
    CALL_US,
    RESOLUTION,
    exact_timer,
    prepared,
    random_designs,
    shorten,
    small,
    times_of,
)

pytest.importorskip("onnx", reason="the extra export is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("latency") / "device")


@pytest.fixture(scope="module")
def table(folder):
    return LatencyTable.of_times(times_of(folder))


# --- prediction ------------------------------------------------------------------------------------------------------


def test_blocks_add_up_to_whole_networks(table):
    """Where a block costs what it multiplies, the sum is what the network multiplies: nothing is missing, or twice."""
    designs = random_designs(table.net, 50, RESOLUTION)
    many = Designs.stack(designs)
    expected = CALL_US + ofa.Costs(table.net)(many.choices, many.resolution, many.exits).macs
    found = table._sums(many)
    assert np.array_equal(found, expected)
    np.testing.assert_allclose(table.predict(designs), 1e-3 * expected, rtol=1e-9)
    assert table.held_out["within_10pct"] == 100 and table.held_out["tau"] == pytest.approx(1)
    assert table.held_out["repeat_noise_pct"] == 0 and table.held_out["n"] == 20


def test_scale_and_offset_are_recovered(folder):
    table = LatencyTable.of_times(times_of(folder, lambda us: 1.3 * us + 5e5))
    assert table.fit.scale == pytest.approx(1.3) and table.fit.offset_us == pytest.approx(5e5)
    assert table.fit.us_per_mb * 10 < 1 and table.held_out["median_pct"] < 1e-6


# --- the measurement -------------------------------------------------------------------------------------------------


def test_a_measurement_that_was_stopped_goes_on(folder):
    shorten(folder, 3)
    (folder / "times.json").unlink(missing_ok=True)
    numbers = iter(range(1, 10**6))

    def timer(path, threads, batch_size):
        return lambda: float(next(numbers))

    def stopped(line):
        if line.startswith("round 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.main(folder, stopped, timer)
    with pytest.raises(ValueError, match="is not complete"):
        LatencyTable.collect(folder / "times.json")
    before = files.read_json(folder / "times.json")["us"]
    after = measure.main(folder, lambda line: None, timer)
    assert after["is_complete"] and after == files.read_json(folder / "times.json")
    for name, times in after["us"].items():
        assert len(times) == 3 and times[:1] == before[name]
    # A complete one is not measured again.
    assert measure.main(folder, lambda line: None, None) == after


def test_a_measurement_of_another_device_does_not_go_on(folder, monkeypatch):
    times_of(folder)
    other = {**measure.device(), "version": "0.1"}
    monkeypatch.setattr(measure, "device", lambda: other)
    with pytest.raises(ValueError, match="of another device or plan"):
        measure.main(folder, lambda line: None, exact_timer)


def test_rounds_end_with_the_budget():
    budget = {"min_rounds": 4, "max_rounds": 9, "seconds": 0}
    for seconds, expected in ((0, 4), (1e9, 9)):
        times = {"a": [], "b": []}
        visits = {"a": lambda: 1.0, "b": lambda: 2.0}
        assert list(measure.rounds(visits, times, {**budget, "seconds": seconds}, lambda line: None))[-1] == expected
        assert times == {"a": [1.0] * expected, "b": [2.0] * expected}


def test_every_file_runs(folder):
    """In onnxruntime, with threads and a batch of its own."""
    for place, path in enumerate(sorted(folder.rglob("*.onnx"))):
        if place % 3 == 0:
            assert measure.timer(path, 2, 3)() > 0


@pytest.mark.parametrize("threads, expected", [(1, 3.0), (2, 5.0)])
def test_others_on_the_processor_do_not_count_for_one_thread(folder, monkeypatch, threads, expected):
    """Clocks of which each call is some microseconds later than the one before."""
    for name, step_us in (("thread_time", 3), ("perf_counter", 5)):
        monkeypatch.setattr(measure.time, name, functools.partial(next, itertools.count(0, step_us * 1e-6)))
    visit = measure.timer(folder / str(RESOLUTION) / "overhead.onnx", threads, 1)
    assert visit() == pytest.approx(expected)


def test_whole_networks_in_turn(folder):
    alone = ofa.extract(small(), random_variables(small()), random_designs(small(), 1)[0])
    file = folder / "whole" / "03.onnx"
    found = time_networks([alone, file], make_timer=exact_timer)
    assert found == pytest.approx([1e-3 * (CALL_US + alone.macs), 1e-3 * exact_timer(file, 1, 1)()])


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_comes_back(table, tmp_path):
    table.save(tmp_path / "device.json")
    loaded = LatencyTable.load(tmp_path / "device.json")
    designs = random_designs(table.net, 20, RESOLUTION)
    assert np.array_equal(loaded.predict(designs), table.predict(designs))
    assert loaded.fit == table.fit and loaded.held_out == table.held_out and loaded.device == table.device
    content = files.read_json(tmp_path / "device.json")
    assert content["format"] == "ofav2_jax.latency/1" and content["threads"] == content["batch_size"] == 1
    assert content["blocks_us"].keys() == table.blocks_us.keys() and content["runtime"] == "onnxruntime"


DAMAGES = [
    (lambda c: c.update(format="ofav2_jax.latency/0"), "its format is 'ofav2_jax.latency/0'"),
    (lambda c: c.pop("format"), "its format is None"),
    (lambda c: c.update(network="resnet"), "network='resnet' is unknown"),
    (lambda c: c.update(num_classes=1), "num_classes=1"),
    (lambda c: c.pop("width_multiplier"), "width_multiplier"),
    (lambda c: c.update(resolutions=[]), "resolutions=[]"),
    (lambda c: c.update(resolutions=[RESOLUTION, 32]), "blocks_us lacks '32/1/add2'"),
    (lambda c: c.update(threads="1"), "threads='1'"),
    (lambda c: c.update(dtype="float16"), "dtype='float16'"),
    (lambda c: c["blocks_us"].pop(f"{RESOLUTION}/stem"), f"blocks_us lacks '{RESOLUTION}/stem'"),
    (lambda c: c["blocks_us"].update(a=1.0), "blocks_us must not have 'a'"),
    (lambda c: c["blocks_us"].update({f"{RESOLUTION}/stem": float("nan")}), "blocks_us 19/stem=nan"),
    (lambda c: c["fit"].pop("scale"), "fit lacks 'scale'"),
    (lambda c: c["fit"].update(scale="1"), "fit scale='1'"),
    (lambda c: c.update(held_out=None), "held_out"),
    (lambda c: c["device"].pop("processor"), "processor=None"),
    (lambda c: c.pop("version"), "version"),
]


@pytest.mark.parametrize("change, told", DAMAGES)
def test_damaged_tables_are_refused(table, tmp_path, change, told):
    file = tmp_path / "device.json"
    table.save(file)
    content = files.read_json(file)
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        LatencyTable.load(file)
    assert str(file) in str(error.value) and told in str(error.value) and "\n" not in str(error.value)


def test_foreign_files_are_refused(table, folder, tmp_path):
    table.save(tmp_path / "device.json")
    text = (tmp_path / "device.json").read_text()
    for name, data in (("cut", text[:-50]), ("empty", ""), ("list", "[]"), ("other", "{}")):
        (tmp_path / f"{name}.json").write_text(data)
        for read in (LatencyTable.load, LatencyTable.collect):
            with pytest.raises(ValueError, match=f"{name}.json"):
                read(tmp_path / f"{name}.json")
    times_of(folder)
    with pytest.raises(ValueError, match="its format is 'ofav2_jax"):
        LatencyTable.load(folder / "times.json")
    for read in (LatencyTable.load, LatencyTable.collect):
        with pytest.raises(ValueError, match="cannot be read"):
            read(tmp_path / "missing.json")
        with pytest.raises(ValueError, match="its name must end in"):
            read(folder)


TIMES = [
    (lambda c: c["us"].pop("whole/00"), "not the times of the plan's files"),
    (lambda c: c["us"].update({"whole/00": [1.0]}), "two rounds or more"),
    (lambda c: c["us"].update({"whole/00": [1.0, 0.0]}), "us of whole/00=0.0"),
    (lambda c: c["us"].update({"whole/00": [1.0, "2"]}), "us of whole/00='2'"),
    (lambda c: c["plan"].update(format="ofav2_jax.latency_plan/9"), "the plan's format is"),
    (lambda c: c["plan"]["designs"].pop(), "its plan is not one of this version"),
    (lambda c: c["plan"].update(network="ee_d"), "its plan is not one of this version"),
    (lambda c: c.pop("plan"), "plan"),
    (lambda c: c.update(is_complete=False), "is not complete"),
    (lambda c: c.update(device={}), "processor=None"),
]


@pytest.mark.parametrize("change, told", TIMES)
def test_damaged_times_are_refused(folder, tmp_path, change, told):
    content = copy.deepcopy(times_of(folder))
    change(content)
    (tmp_path / "times.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        LatencyTable.collect(tmp_path / "times.json")
    assert "times.json" in str(error.value) and told in str(error.value) and "\n" not in str(error.value)


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net, resolutions, told",
    [
        (ofa.SuperNet("ee_d", 0.1, 7), [RESOLUTION], "network='ee_dp', not 'ee_d'"),
        (ofa.SuperNet("ee_dp", 0.2, 7), [RESOLUTION], "width_multiplier=0.1, not 0.2"),
        (ofa.SuperNet("ee_dp", 0.1, 8), [RESOLUTION], "num_classes=7, not 8"),
        (ofa.SuperNet("ee_dp", 0.1, 7, exit_widths="ofa"), [RESOLUTION], "exit_widths='ofav2', not 'ofa'"),
        (small(), [RESOLUTION, 32], f"the resolutions {RESOLUTION}, not 32"),
    ],
)
def test_another_network_is_refused(table, net, resolutions, told):
    table.require_fit(small(), [RESOLUTION])
    with pytest.raises(ValueError) as error:
        table.require_fit(net, resolutions)
    assert told in str(error.value)


def test_refused_predictions(table):
    with pytest.raises(ValueError, match=f"the resolutions {RESOLUTION}, not 20"):
        table.predict(random_designs(small(), 2, 20))


def test_another_machine_is_refused(table, monkeypatch):
    table.require_here()
    here = measure.device()
    monkeypatch.setattr(measure, "device", lambda: {**here, "device": {**here["device"], "processor": "abacus"}})
    with pytest.raises(ValueError, match="abacus"):
        table.measure(None)


def test_refused_before_anything_is_written(tmp_path):
    net = small()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("precious")
    for arguments, told in (
        ((net, [], tmp_path / "a"), "resolutions=[]"),
        ((net, [0], tmp_path / "a"), "resolutions=[0]"),
        ((net, "19", tmp_path / "a"), "resolutions='19'"),
        (("ee_d", [19], tmp_path / "a"), "net='ee_d'"),
        ((net, [19], tmp_path / "a", 0), "threads=0"),
        ((net, [19], tmp_path / "a", 1, 1.5), "batch_size=1.5"),
        ((net, [19], tmp_path / "taken"), "it exists already"),
        ((net, [19], tmp_path / "nowhere" / "a"), "is not a directory"),
    ):
        with pytest.raises(ValueError) as error:
            prepare(*arguments)
        assert told in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
