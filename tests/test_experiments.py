"""The command line: every config builds, and a plan is printed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common, quickstart
from experiments.config import load_dataset, settings_from_config
from experiments.eps import main
from ofav2_jax.model.network import NETWORKS

ROOT = Path(__file__).parents[1]


def eps(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.eps", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("arg", [None, "wm=1.2,teacher=fixed"])
def test_every_config_builds(network, arg):
    settings = settings_from_config(common.paper_config(network, arg))
    assert settings.network == network
    assert settings.width_multiplier == (1.2 if arg else 1.0)
    assert settings.teacher == ("fixed" if arg else "progressive")
    assert settings.batch_size == 200 and settings.resolutions == (48, 56, 64)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_whole_training_is_at_most_twelve_programs(network):
    settings = settings_from_config(common.paper_config(network, None))
    # There is one program for each resolution and number of subnets, whatever is unlocked; test_train counts them.
    assert len({phase.num_subnets for phase in settings.phases}) * len(settings.resolutions) <= 12


def test_arguments_of_the_experiments():
    config = common.paper_config("ee_p", "epochs=0.1,classes=20,wm=1.2")
    assert config.name == "ee_p-epochs0.1-classes20-wm1.2"
    assert {phase.epochs for phase in config.phases.values()} == {18, 12, 2, 6, 9}
    # 5 warm-up epochs become half an epoch, which is rounded to 0.
    assert {phase.warmup_epochs for phase in config.phases.values()} == {0}
    assert config.data.num_classes == 20
    smoke = settings_from_config(common.paper_config("ee_d", "smoke"))
    assert all(phase.total_epochs == 1 for phase in smoke.phases)
    assert smoke.data.num_classes == 4 and smoke.data.max_test_images == 100


def test_exit_weights_can_be_numbers():
    config = quickstart.get_config()
    config.recipe.exit_weights = "0.06,0.13,0.2,0.27,0.34"
    assert settings_from_config(config).recipe.exit_weights == (0.06, 0.13, 0.2, 0.27, 0.34)


def test_help(capsys):
    assert main(["eps", "--help"]) == 0
    assert "--config=configs/quickstart.py" in capsys.readouterr().out


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
