"""Fields of a config that are refused: unknown names, types, ranges, choices, and what contradicts each other."""

import dataclasses
import re

import pytest

from configs.common import base_config
from experiments import eps
from experiments.config import settings_from_config
from tests.helpers.bad_input import EE_D, QUICKSTART, not_allowed, reading

POSITIVE = "a positive int"
COMMAND_LINES = [
    # --- names of fields
    ([QUICKSTART, "--config.nothing=1"], "--config.nothing is unknown$"),
    ([QUICKSTART, "--config.batch_sise=3"], r"--config\.batch_sise is unknown; did you mean --config\.batch_size\?"),
    ([QUICKSTART, "--config.dropout_rate=0"], r"did you mean --config\.recipe\.dropout_rate\?"),
    ([QUICKSTART, "--config.phases.kernal.epochs=1"], r"did you mean --config\.phases\.kernel\.epochs\?"),
    ([QUICKSTART, "--config.phases.level_1.epochs=1"], r"--config\.phases\.level_1\.epochs is unknown; did you mean"),
    ([QUICKSTART, "--config.phases.kernel={}"], r"--config\.phases\.kernel holds several fields: set one of phases"),
    ([QUICKSTART, "--config.seed.x=1"], r"--config\.seed\.x is unknown"),
    # --- types
    ([QUICKSTART, "--config.batch_size=many"], not_allowed("batch_size", "'many'", "an int")),
    ([QUICKSTART, "--config.batch_size=64.0"], not_allowed("batch_size", "'64.0'", "an int")),
    ([QUICKSTART, "--config.batch_size=True"], not_allowed("batch_size", "'True'", "an int")),
    ([QUICKSTART, "--config.batch_size="], not_allowed("batch_size", "''", "an int")),
    ([QUICKSTART, "--config.phases.full.epochs=1.5"], not_allowed("phases.full.epochs", "'1.5'", "an int")),
    ([QUICKSTART, "--config.recipe.momentum=big"], not_allowed("recipe.momentum", "'big'", "a number")),
    ([QUICKSTART, "--config.data.flip=perhaps"], not_allowed("data.flip", "'perhaps'", "true or false")),
    (
        [QUICKSTART, "--config.evaluation.interpolate=2"],
        not_allowed("evaluation.interpolate", "'2'", "true or false"),
    ),
    ([EE_D, "--config.data.num_classes=few"], not_allowed("data.num_classes", "'few'", "an int")),
    ([QUICKSTART, "--config.resolutions=(24,"], not_allowed("resolutions", "'(24,'", "a tuple, for instance (48,64)")),
    ([QUICKSTART, "--config.resolutions=('a',)"], not_allowed("resolutions", "'a'", "positive ints")),
    ([QUICKSTART, "--config.resolutions=(24.0,)"], not_allowed("resolutions", "24.0", "positive ints")),
    # --- ranges
    ([QUICKSTART, "--config.resolutions=(24,0)"], not_allowed("resolutions", 0, "positive ints")),
    ([QUICKSTART, "--config.resolutions=()"], not_allowed("resolutions", "()", "at least one positive int")),
    ([QUICKSTART, "--config.resolutions=(24,24)"], not_allowed("resolutions", "(24, 24)", "different ints")),
    ([QUICKSTART, "--config.width_multiplier=0"], not_allowed("width_multiplier", 0.0, "a number > 0")),
    ([QUICKSTART, "--config.width_multiplier=nan"], not_allowed("width_multiplier", "nan", "a number > 0")),
    ([QUICKSTART, "--config.width_multiplier=inf"], not_allowed("width_multiplier", "inf", "a number > 0")),
    ([QUICKSTART, "--config.seed=-1"], not_allowed("seed", -1, "an int >= 0 and < 4294967296")),
    ([QUICKSTART, "--config.seed=4294967296"], not_allowed("seed", 2**32, "an int >= 0 and < 4294967296")),
    ([QUICKSTART, "--config.batch_size=0"], not_allowed("batch_size", 0, POSITIVE)),
    ([QUICKSTART, "--config.warmup_learning_rate=-0.1"], not_allowed("warmup_learning_rate", -0.1, "a number >= 0")),
    ([QUICKSTART, "--config.warmup_learning_rate=inf"], not_allowed("warmup_learning_rate", "inf", "a number >= 0")),
    ([QUICKSTART, "--config.phases.kernel.epochs=0"], not_allowed("phases.kernel.epochs", 0, "an int of at least 1")),
    ([QUICKSTART, "--config.phases.width_2.warmup_epochs=-1"], "phases.width_2.warmup_epochs=-1 is not allowed"),
    ([QUICKSTART, "--config.phases.full.learning_rate=0"], "phases.full.learning_rate=0.0 is not allowed"),
    ([QUICKSTART, "--config.phases.full.learning_rate=nan"], "phases.full.learning_rate=nan is not allowed"),
    ([QUICKSTART, "--config.phases.kernel.num_subnets=0"], "phases.kernel.num_subnets=0 .* an int of at least 1"),
    ([QUICKSTART, "--config.recipe.label_smoothing=1"], "recipe.label_smoothing=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.dropout_rate=1"], "recipe.dropout_rate=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.dropout_full=-0.1"], "recipe.dropout_full=-0.1 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.momentum=1"], "recipe.momentum=1.0 .* a number >= 0 and < 1"),
    ([QUICKSTART, "--config.recipe.kd_ratio=nan"], not_allowed("recipe.kd_ratio", "nan", "a number >= 0")),
    ([QUICKSTART, "--config.recipe.weight_decay=-1"], not_allowed("recipe.weight_decay", -1.0, "a number >= 0")),
    ([QUICKSTART, "--config.evaluation.batch_size=0"], not_allowed("evaluation.batch_size", 0, POSITIVE)),
    ([QUICKSTART, "--config.evaluation.subnets_per_pass=-2"], "evaluation.subnets_per_pass=-2 is not allowed"),
    ([QUICKSTART, "--config.evaluation.recalibration_images=0"], "evaluation.recalibration_images=0 is not allowed"),
    ([QUICKSTART, "--config.data.max_test_images=0"], not_allowed("data.max_test_images", 0, POSITIVE)),
    ([EE_D, "--config.data.base_resolution=0"], not_allowed("data.base_resolution", 0, POSITIVE)),
    ([EE_D, "--config.data.num_classes=1"], not_allowed("data.num_classes", 1, "an int of at least 2")),
    ([QUICKSTART, "--config.checkpoint.every_s=-1"], not_allowed("checkpoint.every_s", -1.0, "a number >= 0")),
    ([QUICKSTART, "--config.checkpoint.every_s=nan"], not_allowed("checkpoint.every_s", "nan", "a number >= 0")),
    ([QUICKSTART, "--config.checkpoint.every_s=inf"], not_allowed("checkpoint.every_s", "inf", "a number >= 0")),
    # --- choices
    ([QUICKSTART, "--config.network=ee_x"], "network='ee_x' is unknown; choose one of ofa_mbv3"),
    ([QUICKSTART, "--config.network=ofa_mbv"], r"network='ofa_mbv' is unknown; .*; did you mean 'ofa_mbv3'\?"),
    ([QUICKSTART, "--config.engine=maskd"], r"engine='maskd' .* one of masked, static; did you mean 'masked'\?"),
    ([QUICKSTART, "--config.dtype=bfloat8"], r"dtype='bfloat8' .* float32, bfloat16; did you mean 'bfloat16'\?"),
    ([QUICKSTART, "--config.teacher=none"], not_allowed("teacher", "'none'", "one of progressive, fixed") + "$"),
    (
        [QUICKSTART, "--config.recipe.exit_weights=0.5,half"],
        not_allowed("recipe.exit_weights", "'0.5,half'", "a scheme, or numbers with commas between them"),
    ),
    ([QUICKSTART, "--config.recipe.exit_weights=0.5,0.5"], r"exit_weights=\(0.5, 0.5\) is not allowed: give 5 numbers"),
    ([QUICKSTART, "--config.recipe.exit_weights=dsc"], r"exit_weights='dsc' is unknown; .*; did you mean 'desc'\?"),
    # --- contradictions
    ([QUICKSTART, "--config.network=ofa_mbv3"], "phases=.* do not belong to network='ofa_mbv3', which goes through"),
    ([QUICKSTART, "--config.phases.full.num_subnets=2"], "phases.full.num_subnets=2 is not allowed: it must be 0"),
    ([QUICKSTART, "--config.data.num_classes=5"], "data.num_classes=5 is not allowed: the digits have no such choice"),
    ([QUICKSTART, "--config.data.archive=a.zip"], "data.archive='a.zip' is not allowed: the digits have no such"),
    ([QUICKSTART, "--config.data.base_resolution=16"], not_allowed("data.base_resolution", 16, "8, the size of the")),
    ([QUICKSTART, "--config.data.test_split=dev"], "data.test_split='dev' is not allowed: the digits have no such"),
    ([QUICKSTART, "--config.data.skip_broken"], "data.skip_broken=True is not allowed: the digits have no such choice"),
    ([EE_D, "--config.data.skip_broken=perhaps"], not_allowed("data.skip_broken", "'perhaps'", "true or false")),
    (
        [EE_D, "--config.data.validation_fraction=0"],
        not_allowed("data.validation_fraction", 0.0, "a number > 0 and < 1"),
    ),
    (
        [EE_D, "--config.data.validation_fraction=1"],
        not_allowed("data.validation_fraction", 1.0, "a number > 0 and < 1"),
    ),
    ([EE_D, "--config.data.test_split="], not_allowed("data.test_split", "''", "a printable str that is not empty")),
    (
        [EE_D, "--config.data.normalisation=(1,2)"],
        r"data.normalisation=\(1, 2\) is not allowed: it must be three means",
    ),
    (
        [EE_D, "--config.data.normalisation=(123,117,104),(58,57,57)"],
        r"data.normalisation=.* must be three means in \[0, 1\] and three standard deviations in \(0, 1\]",
    ),
    ([EE_D, "--config.data.dataset=folder"], not_allowed("data.data_dir", None, "the folder of the images")),
    (
        [EE_D, "--config.data.dataset=folder", "--config.data.data_dir=x", "--config.data.archive=a.zip"],
        "data.archive='a.zip' is not allowed: it goes with data.dataset='tiny_imagenet' only, not with 'folder'",
    ),
    (
        [EE_D, "--config.data.dataset=npz:a", "--config.data.data_dir=x"],
        "data.data_dir='x' is not allowed: data.dataset=",
    ),
    ([EE_D, "--config.data.data_dir="], not_allowed("data.data_dir", "''", "a printable str that is not empty")),
    ([EE_D, "--config.data.dataset="], not_allowed("data.dataset", "''", "a printable str that is not empty")),
    ([EE_D, "--config.data.base_resolution=48"], not_allowed("resolutions", 56, "at most data.base_resolution=48")),
    ([EE_D, "--config.resolutions=(64,72)"], not_allowed("resolutions", 72, "at most data.base_resolution=64")),
    (
        [QUICKSTART, "--config.engine=static", "--config.phases.kernel.num_subnets=4"],
        not_allowed("phases.kernel.num_subnets", 4, "at most 3, the uniform subnets that are unlocked then"),
    ),
    (
        [EE_D, "--config.engine=static", "--config.phases.width_2.num_subnets=136"],
        not_allowed("phases.width_2.num_subnets", 136, "at most 135, the uniform subnets that are unlocked then"),
    ),
    # The tests run on eight devices.
    ([QUICKSTART, "--config.batch_size=63"], not_allowed("batch_size", 63, "divisible by the 8 devices")),
    (
        ["--config=configs/finetune.py"],
        "network is missing in the config, which is therefore not that of a supernet's run",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), COMMAND_LINES, ids=[" ".join(arguments) for arguments, _ in COMMAND_LINES]
)
def test_refused_without_the_data(arguments, message, refuse, monkeypatch):
    monkeypatch.setattr(eps, "load_dataset", reading)
    assert re.match(f".*{message}", refuse(arguments))


# --- phases in a wrong order, which no config can express: it has phases by name, without order ------------------


@pytest.mark.parametrize("order", [(1, 0), (0, 2, 1), (1, 2), (0, 1, 1), ()])
def test_phases_out_of_order(order):
    settings = settings_from_config(base_config("ofa_mbv3"))
    wrong = tuple(settings.phases[index] for index in order)
    with pytest.raises(
        ValueError, match=r"phases=.* is not allowed: ofa_mbv3 goes through full, kernel, .* in this order"
    ):
        dataclasses.replace(settings, phases=wrong)


def test_phases_that_unlock_something_else():
    settings = settings_from_config(base_config("ofa_mbv3"))
    kernel = dataclasses.replace(settings.phases[1], values=(3,))
    with pytest.raises(ValueError, match="phases=full, kernel"):
        dataclasses.replace(settings, phases=(settings.phases[0], kernel, *settings.phases[2:]))
