"""Every experiment of the paper, at its real size, prints its plan and takes two steps."""

import dataclasses
import gc

import jax
import numpy as np
import pytest

from configs.common import paper_config
from experiments.config import settings_from_config
from experiments.console import print_plan
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.run.run import Run

BATCH = 8


class TwoSteps(Exception):
    """Two steps were taken."""


class StopAfterTwoSteps:
    """A reporter that ends the run."""

    def __init__(self):
        self.steps = []

    def stepped(self, progress):
        self.steps.append((progress.phase_name, progress.loss))
        if len(self.steps) == 2:
            raise TwoSteps

    def phase_started(self, index, phase):
        pass

    def epoch_ended(self, record):
        pass

    def phase_ended(self, index, result):
        pass


def images():
    """A data set of noise with 200 classes and one training batch."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="noise",
        images=rng.integers(0, 256, (BATCH + 4, 64, 64, 3), dtype=np.uint8),
        labels=rng.integers(0, 200, BATCH + 4).astype(np.int32),
        splits={
            "train": np.arange(BATCH),
            "validation": np.arange(BATCH, BATCH + 2),
            "test": np.arange(BATCH + 2, BATCH + 4),
        },
        num_classes=200,
        normalisation=Normalisation((0.5,) * 3, (0.25,) * 3),
    )


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory):
    """Caches compiled programs, because runs with either teacher use the same ones."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["progressive", "fixed"])
@pytest.mark.parametrize("width_multiplier", ["1.0", "1.2"])
@pytest.mark.parametrize("network", NETWORKS)
def test_takes_two_steps(network, width_multiplier, teacher, kept_programs, tmp_path, capsys):
    settings = settings_from_config(paper_config(network, f"wm={width_multiplier},teacher={teacher},epochs=0.001"))
    # An epoch is one step: the first step belongs to phase full, the second to phase kernel, which has a teacher.
    settings = dataclasses.replace(
        settings,
        batch_size=BATCH,
        resolutions=settings.resolutions[:1],
        evaluation=dataclasses.replace(
            settings.evaluation,
            recalibration_images=BATCH,
            recalibration_batch_size=BATCH,
            batch_size=2,
            subnets_per_pass=1,
        ),
    )
    dataset, devices, reporter = images(), jax.devices()[:1], StopAfterTwoSteps()
    print_plan(settings, dataset, tmp_path, devices)
    plan = capsys.readouterr().out
    assert f"{network}, width multiplier {width_multiplier}" in plan and f"teacher {teacher}" in plan
    assert all(phase.name in plan for phase in settings.phases)
    run = Run(settings, dataset, tmp_path, devices, reporter)
    with pytest.raises(TwoSteps):
        run.execute()
    assert [phase for phase, _ in reporter.steps] == ["full", "kernel"]
    assert all(np.isfinite(loss) for _, loss in reporter.steps)
    # Drops compiled programs as conftest.py does after a module, because each case here is as large as a module.
    del run
    jax.clear_caches()
    gc.collect()
