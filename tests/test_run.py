"""A `Run` from Python, before it trains: what it compares, where it works, and what it refuses before it is there."""

import dataclasses
from pathlib import Path

import pytest

import ofav2_jax as ofa
from experiments.config import settings_from_config
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run import run as run_module
from ofav2_jax.settings.recipe import Evaluation
from tests.configs.tiny import get_config

SETTINGS = settings_from_config(get_config())


def test_processes_compare_all_that_the_data_are(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(run_module.processes, "require_same", lambda what, value: told.append((what, value)))
    digits = load_digits(0)
    pixels = digits.images.copy()
    pixels[0, 0, 0, 0] += 1
    for number, dataset in enumerate((digits, load_digits(0), dataclasses.replace(digits, images=pixels))):
        ofa.Run(SETTINGS, dataset, tmp_path / str(number))
    of_settings, of_data = ([value for what, value in told if what == name] for name in ("settings", "data"))
    assert of_settings[0] == of_settings[1] == of_settings[2]
    assert of_data[0] == of_data[1] != of_data[2]


def test_a_directory_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    ofa.Run(SETTINGS, load_digits(0), "~/run")
    assert (tmp_path / "run" / "settings.json").exists()
    assert ofa.open_run(Path("~/run")).settings == SETTINGS


REFUSED = {
    "a bucket": (
        dict(workdir="gs://bucket/run"),
        "workdir='gs://bucket/run' is not allowed: it must be a path of a local",
    ),
    "a bucket as a path": (dict(workdir=Path("s3://bucket/run")), "workdir='s3:/bucket/run' is not allowed"),
    "no directory": (dict(workdir=""), "workdir='' is not allowed"),
    "nothing": (dict(workdir=None), "workdir=None is not allowed: it must be a path"),
    "no home directory": (dict(workdir="~no_such_user/run"), "a path without '~', because no home directory is known"),
    "an interval": (dict(checkpoint_every_s=float("nan")), "checkpoint_every_s=nan is not allowed"),
    "too few images": (
        dict(settings=dataclasses.replace(SETTINGS, evaluation=Evaluation(recalibration_images=50))),
        "evaluation.recalibration_batch_size=100 is not allowed: there are 50 images to recalibrate with",
    ),
    "too large a batch": (dict(settings=dataclasses.replace(SETTINGS, batch_size=1600)), "batch_size=1600"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(case, monkeypatch, tmp_path):
    changes, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        ofa.Run(**{"settings": SETTINGS, "dataset": load_digits(0), "workdir": "run", **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(directory="gs://bucket/run"), "directory='gs://bucket/run' is not allowed"),
        (dict(directory=None), "directory=None is not allowed: it must be a path"),
        (dict(directory="run", data_dir="s3://sets"), "data_dir='s3://sets' is not allowed"),
        (dict(directory="run", archive="https://example.org/a.zip"), "archive='https://example.org/a.zip'"),
    ],
)
def test_runs_that_cannot_be_opened(arguments, message):
    with pytest.raises(ValueError, match=message):
        ofa.open_run(**arguments)
