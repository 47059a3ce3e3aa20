"""The command line: every config builds, and a plan is printed."""

import errno
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common, quickstart
from experiments import eps as eps_module
from experiments.arguments import read_arguments
from experiments.config import load_dataset, settings_from_config
from experiments.console import Console, rebuild_report
from experiments.eps import main
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.report.records import EpochRecord
from ofav2_jax.run import assembly
from tests.helpers.synthetic import write_run

ROOT = Path(__file__).parents[1]


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


def settings_of(*arguments):
    return settings_from_config(read_arguments(["eps", "--config=configs/quickstart.py", *arguments]).config)


@pytest.mark.parametrize("weights", ["5,4,3,2,1", "(5,4,3,2,1)", "[5, 4, 3, 2, 1]", "(5.0, 4, 3, 2, 1,)"])
def test_exit_weights_can_be_numbers(weights):
    assert settings_of(f"--config.recipe.exit_weights={weights}").recipe.exit_weights == (5, 4, 3, 2, 1)
    config = quickstart.get_config()
    for value in (weights, (5, 4, 3, 2, 1), [5, 4, 3, 2, 1], "asc"):
        config.recipe.exit_weights = value
        assert settings_from_config(config).recipe.exit_weights == ("asc" if value == "asc" else (5, 4, 3, 2, 1))


def test_none_on_the_command_line():
    for dtype in (
        ["--config.dtype=None"],
        ["--config.dtype", "None"],
        ["--config.dtype=bfloat16", "-config.dtype=None"],
    ):
        assert settings_of(*dtype).dtype == "float32"
    assert settings_of("--config.dtype=None", "--config.dtype=bfloat16", "--config.seed=3").dtype == "bfloat16"
    config = read_arguments(
        ["eps", "--config=ee_d:smoke", "--config.data.num_classes=None", "--config.data.archive=None"]
    ).config
    assert config.data.num_classes is None and config.data.archive is None
    with pytest.raises(ValueError, match="batch_size='None' is not allowed: it must be an int"):
        settings_of("--config.batch_size=None")


def test_a_home_directory_is_the_users(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(ROOT / "configs" / "quickstart.py", tmp_path / "own.py")
    assert main(["eps", "--config=~/own.py", "--workdir=~/runs/here", "--dry_run"]) == 0
    assert f"directory    {tmp_path}/runs/here" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]


def test_data_in_the_home_directory(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(assembly, "load_dataset", lambda name, **arguments: told.update(arguments))
    arguments = ["--config.data.archive=~/a.zip", "--config.data.data_dir", "~/sets"]
    load_dataset(read_arguments(["eps", "--config=ee_d", *arguments]).config)
    assert (told["archive"], told["data_dir"]) == (tmp_path / "a.zip", tmp_path / "sets")


def test_without_a_home_directory_programs_are_not_kept(monkeypatch, caplog):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(Path, "expanduser", unknown_home)
    eps_module._cache_programs()
    assert "jax_compilation_cache_dir" not in told
    assert "no home directory is known: set JAX_COMPILATION_CACHE_DIR, XDG_CACHE_HOME or HOME" in caplog.text
    monkeypatch.undo()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~/xla")
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    eps_module._cache_programs()
    assert told["jax_compilation_cache_dir"] == str(Path("~/xla").expanduser())


def unknown_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_a_closed_terminal_does_not_end_a_run(tmp_path, monkeypatch):
    def closed(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    console = Console(tmp_path)
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(write=closed, flush=closed))
    console.epoch_ended(EpochRecord(3, "full", 1, 2.0, 30.0, 0.01, 100.0, 40.0))
    console.phase_ended(0, {"name": "full", "subnets": [], "avg": 1.0, "best": 2.0})


def test_a_page_that_cannot_be_written_is_a_line_of_warning(tmp_path, monkeypatch, capsys, caplog):
    run = write_run(tmp_path / "run", "ee_d", finished=1)
    front = run / "search" / "old" / "front.json"
    front.parent.mkdir(parents=True)
    front.write_text("{}")
    rebuild_report(run)
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {run / 'report.html'} was not written: {front} ") and error.count("\n") == 1
    assert not caplog.records

    def closed(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(write=closed, flush=closed))
    rebuild_report(run)


def test_the_plan_names_phases_that_are_left_out(tmp_path, capsys):
    arguments = ["--config=configs/ofa_mbv3.py", "--config.network=ee_b", "--config.data.dataset=digits"]
    arguments += ["--config.data.base_resolution=8", f"--workdir={tmp_path / 'run'}", "--dry_run"]
    assert main(["eps", *arguments]) == 0
    assert "\nleft out     height-1, height-2, height-3, height-4\n" in capsys.readouterr().out


def test_help(capsys):
    assert main(["eps", "--help"]) == 0
    assert "--config=configs/quickstart.py" in capsys.readouterr().out


def test_fewer_test_images_are_spread_over_the_classes():
    config = ConfigDict(quickstart.get_config())
    config.data.max_test_images = 25
    dataset = load_dataset(config)
    counts = np.bincount(dataset.labels[dataset.splits["test"]])
    assert counts.sum() == 25 and set(counts) == {2, 3}


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    # test_commands.py does so in a process of its own.
    assert main(["eps", "--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}", "--dry_run"]) == 0
    out, err = capsys.readouterr()
    assert "ee_d" in out and "height-4" in out and "parameters" in out and err == ""
    assert not list(tmp_path.iterdir())
