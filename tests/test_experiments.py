"""The command line: every config builds, and bad input is refused in one line with exit status 2."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common, quickstart
from experiments.settings import load_dataset, settings_from_config
from ofav2_jax.network import NETWORKS

ROOT = Path(__file__).parents[1]


def eps(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.eps", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("arg", [None, "wm=1.2,teacher=fixed"])
def test_every_config_builds(network, arg):
    settings = settings_from_config(common.paper_config(network, arg))
    assert settings.network == network
    assert settings.width_multiplier == (1.2 if arg else 1.0)
    assert settings.teacher == ("fixed" if arg else "progressive")
    assert settings.batch_size == 200 and settings.resolutions == (48, 56, 64)


def test_arguments_of_the_experiments():
    config = common.paper_config("ee_p", "epochs=0.1,classes=20,wm=1.2")
    assert config.name == "ee_p-epochs0.1-classes20-wm1.2"
    assert {phase.epochs for phase in config.phases.values()} == {18, 12, 2, 6, 9}
    # 5 warm-up epochs become half an epoch, which rounds to none
    assert {phase.warmup_epochs for phase in config.phases.values()} == {0}
    assert config.data.num_classes == 20
    smoke = settings_from_config(common.paper_config("ee_d", "smoke"))
    assert all(phase.total_epochs == 1 for phase in smoke.phases)
    assert smoke.data.num_classes == 4 and smoke.data.max_test_images == 100


def test_fewer_test_images_are_spread_over_the_classes():
    config = ConfigDict(quickstart.get_config())
    config.data.max_test_images = 25
    dataset = load_dataset(config)
    counts = np.bincount(dataset.labels[dataset.splits["test"]])
    assert counts.sum() == 25 and set(counts) == {2, 3}


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    done = eps("--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "ee_d" in done.stdout and "height-4" in done.stdout and "parameters" in done.stdout
    assert not list((tmp_path / "run").iterdir())


QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/nothing.py"], "nothing.py"),
        (
            ["--config=configs/ee_d.py:width=1.2"],
            "config argument 'width' is unknown; this config takes: wm, teacher, epochs, classes, smoke",
        ),
        (["--config=configs/ee_d.py:wm=1.1"], "wm must be one of 1.0, 1.2"),
        (["--config=configs/ee_d.py:epochs=0"], "epochs must be a number > 0"),
        (["--config=configs/ee_d.py:classes=1"], "classes must be an int of at least 2"),
        (["--config=configs/ee_d.py:smoke=1"], "smoke must be without a value"),
        ([QUICKSTART, "--config.network=ee_x"], "network='ee_x' is unknown; choose one of ofa_mbv3"),
        ([QUICKSTART, "--config.width_multiplier=0"], "width_multiplier=0.0 is not allowed: it must be a number > 0"),
        ([QUICKSTART, "--config.resolutions=(24,0)"], "resolutions=0 is not allowed: it must be positive ints"),
        ([QUICKSTART, "--config.nothing=1"], "nothing"),
        ([QUICKSTART, "--config.batch_size=5000"], "batch_size=5000 is not allowed: there are 1222 training images"),
        ([QUICKSTART, "--config.data.num_classes=5"], "data.num_classes=5 is not allowed: the digits have no such"),
        (["--config=configs/ee_d.py", "--config.data.dataset=imagnet"], "data set 'imagnet' is unknown to TensorFlow"),
        ([QUICKSTART, "--workdir="], "workdir='' is not allowed"),
        ([QUICKSTART, "--workdir=setup.cfg/run"], "workdir='setup.cfg/run' is not allowed: it must be a writable"),
        ([QUICKSTART, "extra"], "argument 'extra' is not understood"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    done = eps(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("engine", "fast", "engine='fast' is not allowed: it must be one of masked, static"),
        ("teacher", "none", "teacher='none' is not allowed"),
        ("seed", -1, "seed=-1 is not allowed"),
        ("batch_size", 0, "batch_size=0 is not allowed"),
        ("recipe.dropout_rate", 1.0, r"recipe.dropout_rate=1.0 is not allowed: it must be a number >= 0 and < 1"),
        ("recipe.exit_weights", "best", "exit_weights='best' is unknown"),
        ("recipe.kd_ratio", float("nan"), "recipe.kd_ratio=nan is not allowed"),
        ("evaluation.subnets_per_pass", 0, "evaluation.subnets_per_pass=0 is not allowed"),
        ("phases.kernel.epochs", 0, "phases.kernel.epochs=0 is not allowed"),
        ("network", "ofa_mbv3", "do not belong to network='ofa_mbv3'"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    config = ConfigDict(common.base_config("ee_d"))
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError) as error:
        settings_from_config(config)
    assert message in str(error.value)
