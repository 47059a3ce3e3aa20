"""Runs that are killed, at bad and at random moments, end with the same result as an undisturbed run."""

import json
import random
import shutil
import signal
import time

import pytest

from tests.helpers.runs import assert_same_run, finish, kill, launch, results_of, wait_until

_QUICKSTART = "configs/quickstart.py"
_NUM_KILLS = 30


def _newest(workdir):
    """The number of the newest checkpoint."""
    return max((int(path.name) for path in workdir.glob("state/*") if path.name.isdigit()), default=0)


def _saving_state(workdir):
    return any((workdir / "state").glob("*.orbax-checkpoint-tmp"))


def _saving_result(workdir):
    """Whether a phase has saved its parameters but not yet its scores."""
    return any(
        (phase / "params").exists() and not (phase / "result.json").exists() for phase in workdir.glob("phases/*")
    )


def _between_phases(workdir):
    phases = sorted(workdir.glob("phases/*"))
    return bool(phases) and (phases[-1] / "result.json").exists()


def _testing(workdir):
    """Whether the last epoch of phase full is recorded, but its result is not: the phase is being evaluated."""
    records = workdir / "metrics.jsonl"
    return records.exists() and records.read_text().count("\n") == 2 and not any(workdir.glob("phases/*"))


def test_killed_at_bad_moments(uninterrupted, cache, tmp_path):
    """One run is killed at each bad moment, told to stop once, and then left alone."""
    workdir = tmp_path / "run"

    def start(**variables):
        return launch(workdir, cache, "--config.checkpoint.every_s=0", **variables)

    for moment in (_saving_state, _testing, _saving_result, _between_phases):
        # Moments that last long enough to be seen on a machine that is busy with other things.
        process = start(TEST_SAVES_AFTER_S="0.5")
        assert wait_until(lambda: moment(workdir), process), moment  # noqa: B023
        kill(process)
    process, seen = start(), _newest(workdir)
    assert wait_until(lambda: _newest(workdir) > seen, process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 143, err
    assert err.splitlines()[-1].startswith(f"stopped by SIGTERM; last checkpoint: {workdir}/state/")
    status, _, err = finish(start())
    assert status == 0, err
    assert_same_run(workdir, uninterrupted[0])


def test_finished_run_does_nothing_when_started_again(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    before = results_of(workdir)
    content, written_at = (workdir / "results.json").read_bytes(), (workdir / "results.json").stat().st_mtime_ns
    status, out, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert (workdir / "results.json").read_bytes() == content
    assert (workdir / "results.json").stat().st_mtime_ns == written_at
    assert before["compiled_programs"] > 1 and f"programs     {before['compiled_programs']}\n" in out

    (workdir / "results.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in (workdir / "phases").glob("*/result.json")}
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    after = results_of(workdir)
    assert after["phases"] == before["phases"] and after["params_sha256"] == before["params_sha256"]


@pytest.mark.slow
def test_killed_at_30_random_moments(cache, tmp_path):
    """A quickstart run that is killed again and again, some seconds after each start."""
    status, _, err = finish(launch(tmp_path / "whole", cache, config=_QUICKSTART))
    assert status == 0, err
    moments = random.Random(0)
    workdir, killed_at = tmp_path / "run", []
    for _ in range(_NUM_KILLS):
        process = launch(workdir, cache, "--config.checkpoint.every_s=0.5", config=_QUICKSTART)
        # Each start takes about eight seconds.
        time.sleep(moments.uniform(2, 22))
        assert process.poll() is None, "the run ended before it was killed as often as it should"
        kill(process)
        position = max(
            (int(path.name) for path in (workdir / "state").glob("[0-9]*") if path.name.isdigit()), default=0
        )
        killed_at.append(position)
    print(json.dumps(killed_at))
    status, _, err = finish(launch(workdir, cache, config=_QUICKSTART))
    assert status == 0, err
    assert_same_run(workdir, tmp_path / "whole")
