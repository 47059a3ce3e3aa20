"""Runs that are told to stop, that need the same directory, whose data changed, or whose loss is not finite."""

import dataclasses
import errno
import os
import re
import signal

import pytest

from experiments.config import settings_from_config
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.run_directory import DifferentRunError, DirectoryInUseError, RunDirectory
from tests.configs.tiny import get_config
from tests.helpers.runs import TINY, finish, kill, launch, wait_until


def test_told_to_stop_saves_and_says_how_to_go_on(cache, tmp_path):
    # By Ctrl-C; test_killed.py sends SIGTERM, and tests/test_stopping.py every signal.
    workdir = tmp_path / "run"
    # The run saves at the end of an epoch only, so that a checkpoint inside one was saved because of the signal.
    process = launch(workdir, cache, "--config.checkpoint.every_s=1000")
    assert wait_until((workdir / "state" / "3").exists, process)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 128 + signal.SIGINT
    (line,) = err.splitlines()
    assert line.startswith(f"stopped by SIGINT; last checkpoint: {workdir}/state/")
    assert f"to go on: python -m experiments.eps --config={TINY} --workdir={workdir}" in line


def test_second_run_in_a_directory_is_refused(cache, tmp_path):
    first = launch(tmp_path / "run", cache)
    assert wait_until((tmp_path / "run" / "settings.json").exists, first)
    status, _, err = finish(launch(tmp_path / "run", cache))
    kill(first)
    assert status == 2
    assert re.fullmatch(rf"error: workdir='.*run' is in use by process {first.pid} on .+\n", err)
    # The killed run's lock is gone, so that the directory is free; only the text in the lock file is left.
    assert (tmp_path / "run" / "lock").read_text(encoding="utf-8").startswith(f"process {first.pid} on ")
    directory = RunDirectory(tmp_path / "run")
    directory.claim(settings_from_config(get_config()), fingerprint(load_digits(0)))
    directory.release()


def test_directory_of_another_run_is_refused(killed, cache):
    status, _, err = finish(launch(killed, cache, "--config.seed=7", "--config.phases.kernel.epochs=2"))
    assert status == 2
    assert "seed is 0 there and 7 here" in err
    assert "epochs is 1 there and 2 here" in err
    assert err.count("\n") == 1


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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_locks(number, tmp_path, monkeypatch, caplog):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    directory = RunDirectory(tmp_path)
    directory.claim(settings_from_config(get_config()), fingerprint(load_digits(0)))
    directory.release()
    assert (tmp_path / "settings.json").exists()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}/lock cannot be locked ({os.strerror(number)}): the run goes on")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_machine_holds(number, tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError(number, os.strerror(number))

    (tmp_path / "lock").write_text("process 7 on other\n", encoding="utf-8")
    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(DirectoryInUseError, match="is in use by process 7 on other"):
        RunDirectory(tmp_path).claim(settings_from_config(get_config()), {})
    assert (tmp_path / "lock").read_text(encoding="utf-8") == "process 7 on other\n"


def test_loss_that_is_no_number_names_the_subnet(cache, tmp_path):
    status, _, err = finish(launch(tmp_path / "run", cache, "--config.phases.kernel.learning_rate=1e30"))
    assert status == 1
    assert re.search(
        r"error: loss=\S+ in phase kernel, step [23], subnet k[357]+-e6-d4-l7-h5: training is stopped", err
    )
    assert f"last good checkpoint: {tmp_path}/run/state/" in err
