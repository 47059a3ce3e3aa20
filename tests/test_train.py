"""Runs from the command line: results, and that being killed changes nothing."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.settings import settings_from_config
from ofav2_jax import train
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run_directory import DifferentRunError, RunDirectory
from tests.configs.tiny import get_config

ROOT = Path(__file__).parents[1]


def launch(workdir, cache, *arguments):
    command = [sys.executable, "-m", "experiments.eps", "--config=tests/configs/tiny.py", f"--workdir={workdir}"]
    # One cache for all processes of a test session: the programs are compiled once.
    # Huge pages are asked for, so that the program need not start itself over.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
    return subprocess.Popen(
        [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while process.poll() is None and not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    """A whole run: its directory and what it printed."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    status, out, err = finish(launch(workdir, cache))
    assert status == 0, err
    return workdir, out


@pytest.fixture(scope="module")
def killed(tmp_path_factory, cache, uninterrupted):
    """A run that was killed in the middle of its second phase, with a checkpoint after every step."""
    workdir = tmp_path_factory.mktemp("killed")
    process = launch(workdir, cache, "--config.checkpoint.every_s=0")
    # Phase full takes 6 steps, kernel another 3; the start of a phase has a number of its own.
    wait_for(workdir / "state" / "9", process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert not (workdir / "phases" / "01-kernel" / "result.json").exists()
    return workdir


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_results(uninterrupted):
    workdir, out = uninterrupted
    results = results_of(workdir)
    names = ["full", "kernel", "depth-1", "depth-2", "width-1", "width-2"]
    assert [phase["name"] for phase in results["phases"]] == names
    assert [len(phase["subnets"]) for phase in results["phases"]] == [1, 3, 6, 9, 18, 27]
    last = results["phases"][-1]
    assert last["best"] == max(subnet["top1"] for subnet in last["subnets"])
    assert math.isclose(last["avg"], sum(subnet["top1"] for subnet in last["subnets"]) / 27)
    assert {(s["kernel"], s["expand"], s["depth"]) for s in last["subnets"]} == {
        (k, e, d) for k in (3, 5, 7) for e in (3, 4, 6) for d in (2, 3, 4)
    }
    for subnet in last["subnets"]:
        assert 0 <= subnet["top1"] <= subnet["top5"] <= 100
        assert subnet["macs"] > 0 and subnet["params"] > 0 and subnet["height"] == 5 and subnet["level"] == 7
    assert re.fullmatch("[0-9a-f]{64}", results["params_sha256"])
    # For the one resolution: phase full, the step of one subnet, recalibration, test.
    assert results["compiled_programs"] == 4
    assert set(results["seconds"]) == {"compile", "train", "evaluate"}
    assert (workdir / "phases" / "03-depth-2" / "teacher").is_dir()
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6, 9, 12, 15, 18, 21]
    assert "parameters" in out and "width-2" in out and results["params_sha256"] in out


def test_resumed_run_ends_with_the_same_parameters(uninterrupted, killed, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    ours, theirs = results_of(workdir), results_of(uninterrupted[0])
    assert ours["params_sha256"] == theirs["params_sha256"]
    assert ours["phases"] == theirs["phases"]

    def losses(directory):
        records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
        return [(record["step"], record["validation_top1"]) for record in records]

    assert losses(workdir) == losses(uninterrupted[0])


def test_truncated_newest_checkpoint_is_skipped_with_a_warning(uninterrupted, killed, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    newest = max((workdir / "state").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, file.stat().st_size // 2)
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert f"{newest.name} is damaged" in err
    assert results_of(workdir)["params_sha256"] == results_of(uninterrupted[0])["params_sha256"]


def test_no_whole_checkpoint_is_an_error(killed, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    for file in (workdir / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            os.truncate(file, 100)
    status, _, err = finish(launch(workdir, cache))
    assert status == 1
    assert "none of the checkpoints" in err
    assert not (workdir / "results.json").exists()


def test_finished_run_does_nothing_when_started_again(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    before = results_of(workdir)
    (workdir / "results.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in (workdir / "phases").glob("*/result.json")}
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    after = results_of(workdir)
    assert after["phases"] == before["phases"] and after["params_sha256"] == before["params_sha256"]


def test_directory_of_another_run_is_refused(killed, cache):
    status, _, err = finish(launch(killed, cache, "--config.seed=7", "--config.phases.kernel.epochs=2"))
    assert status == 2
    assert "seed is 0 there and 7 here" in err
    assert "epochs is 1 there and 2 here" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_saves_and_says_how_to_go_on(number, uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    # Nothing is saved but at the end of an epoch: what is there afterwards was saved because of the signal.
    process = launch(workdir, cache, "--config.checkpoint.every_s=1000")
    wait_for(workdir / "state" / "3", process)
    told = time.monotonic()
    process.send_signal(number)
    status, _, err = finish(process)
    assert time.monotonic() - told < 30
    assert status == 128 + number
    (line,) = err.splitlines()
    assert line.startswith(f"stopped by {number.name}; last checkpoint: {workdir}/state/")
    assert f"to go on: python -m experiments.eps --config=tests/configs/tiny.py --workdir={workdir}" in line
    if number == signal.SIGINT:
        return
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert results_of(workdir)["params_sha256"] == results_of(uninterrupted[0])["params_sha256"]


def test_second_run_in_a_directory_is_refused(cache, tmp_path):
    first = launch(tmp_path / "run", cache)
    wait_for(tmp_path / "run" / "settings.json", first)
    status, _, err = finish(launch(tmp_path / "run", cache))
    first.kill()
    finish(first)
    assert status == 2
    assert re.fullmatch(rf"error: workdir='.*run' is in use by process {first.pid} on .+\n", err)
    # What the killed one wrote about itself is stale: the directory is free.
    third = launch(tmp_path / "run", cache)
    wait_for(tmp_path / "run" / "state" / "3", third)
    third.kill()
    finish(third)


def test_changed_data_are_refused(tmp_path):
    settings, digits = settings_from_config(get_config()), load_digits(0)
    directory = RunDirectory(tmp_path)
    directory.claim(settings, fingerprint(digits))
    directory.release()
    directory.claim(settings, fingerprint(load_digits(0)))
    directory.release()
    pixels = digits.images.copy()
    pixels[0, 0, 0, 0] += 1
    fewer = {**digits.splits, "test": digits.splits["test"][1:]}
    for changed, message in (
        (dataclasses.replace(digits, images=pixels), "belongs to a run on other data: pixels_sha256 is '.*' there"),
        (dataclasses.replace(digits, splits=fewer), "test_images is 359 there and 358 here"),
    ):
        with pytest.raises(DifferentRunError, match=message):
            directory.claim(settings, fingerprint(changed))
    directory.claim(settings, fingerprint(digits))
    directory.release()


def test_non_finite_loss_stops_the_run(killed, cache, tmp_path):
    status, _, err = finish(launch(tmp_path / "run", cache, "--config.phases.full.learning_rate=1e30"))
    assert status == 1
    assert re.search(r"loss=(nan|inf) in phase full, step \d+.*last good checkpoint", err)


def test_batch_size_that_the_devices_cannot_share_is_refused():
    settings = settings_from_config(get_config())
    train.check(settings, load_digits(0), 4)
    with pytest.raises(ValueError, match="batch_size=400 is not allowed: it must be divisible by the 3 devices"):
        train.check(settings, load_digits(0), 3)
