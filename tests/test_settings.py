"""Settings from Python: the paper's values, once, and their way through JSON."""

import json

import pytest

from configs.common import base_config, paper_config
from experiments.config import settings_from_config
from ofav2_jax import Settings
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.report.paper import comparable
from ofav2_jax.settings import recipe
from ofav2_jax.settings import settings as settings_module
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import paper_phases, sorting, unlocked_values
from ofav2_jax.train.engines import ENGINES
from ofav2_jax.train.losses import DISTILLATIONS
from ofav2_jax.train.optimizer import OPTIMIZERS


@pytest.mark.parametrize("network", NETWORKS)
def test_the_papers_settings_are_those_of_the_configs(network):
    ours = Settings.paper(network, width_multiplier=1.2, teacher="fixed", dtype="float32")
    theirs = settings_from_config(paper_config(network, "wm=1.2,teacher=fixed"))
    assert {**theirs.as_json(), "name": network} == ours.as_json()
    assert comparable(json.loads(json.dumps(ours.as_json()))) == []


def test_the_numbers_of_the_paper():
    settings = Settings.paper("ee_d")
    assert (settings.batch_size, settings.resolutions, settings.width_multiplier) == (200, (48, 56, 64), 1.0)
    assert (settings.recipe.weight_decay, settings.recipe.momentum, settings.recipe.kd_ratio) == (3e-5, 0.9, 1.0)
    assert sum(phase.total_epochs for phase in settings.phases) == 915
    assert base_config("ee_d").evaluation.batch_size == settings.evaluation.batch_size


def test_the_names_that_settings_allow_are_those_that_there_are():
    # Settings know no JAX, and therefore no function that a name stands for.
    assert recipe.DISTILLATIONS == tuple(DISTILLATIONS)
    assert recipe.OPTIMIZERS == tuple(OPTIMIZERS)
    assert settings_module.ENGINES == tuple(ENGINES)


@pytest.mark.parametrize("network", NETWORKS)
def test_settings_come_back_from_json(network):
    settings = Settings.paper(network, seed=3, warmup_learning_rate=0.1)
    assert from_nested(Settings, json.loads(json.dumps(settings.as_json()))) == settings
    numbers = {**settings.as_json(), "recipe": {**settings.as_json()["recipe"], "exit_weights": [5, 4, 3, 2, 1]}}
    assert from_nested(Settings, json.loads(json.dumps(numbers))).recipe.exit_weights == (5, 4, 3, 2, 1)


def test_phases_can_be_left_out():
    phases = paper_phases("ee_d")
    chosen = tuple(phase for phase in phases if phase.unlocks in ("", "kernel", "depth"))
    settings = Settings.paper("ee_d", phases=chosen)
    assert [phase.name for phase in settings.phases] == ["full", "kernel", "depth-1", "depth-2"]
    assert unlocked_values(settings.phases, 3)["height"] == (5,)
    assert from_nested(Settings, json.loads(json.dumps(settings.as_json()))) == settings
    config = base_config("ee_d")
    for phase in phases:
        if phase not in chosen:
            del config.phases[phase.key]
    config.phases.kernel.epochs = 3
    assert [phase.epochs for phase in settings_from_config(config).phases] == [180, 3, 25, 120]
    assert len(Settings.paper("ee_d", phases=phases[:1]).phases) == 1


def test_the_first_width_phase_of_a_run_sorts_all_channels():
    phases = paper_phases("ofa_mbv3")
    assert [sorting(phases, index) for index in range(len(phases) + 1)] == [0, 0, 0, 0, 1, 2, 0]
    assert [sorting((phases[0], phases[-1]), index) for index in range(3)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widht_multiplier": 1.2}, "widht_multiplier is not a field of Settings"),
        ({"resolutions": [48]}, r"resolutions=\[48\] is not allowed: it must be a tuple"),
        ({"recipe": {}}, r"recipe=\{\} is not allowed: it must be a Recipe"),
        ({"dtype": "float16"}, "dtype='float16' is not allowed: it must be one of float32, bfloat16"),
        ({"phases": "full"}, "phases='full' is not allowed: it must be a tuple of Phases"),
        ({"phases": paper_phases("ee_d")[1:]}, "phases=kernel, .* in this order; all but full can be left out"),
        ({"phases": paper_phases("ee_dp")}, "phases=.* is not allowed: ee_d goes through full, kernel, height-1"),
        ({"phases": ()}, "phases= is not allowed: ee_d goes through full, kernel"),
    ],
)
def test_other_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings.paper("ee_d", **changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"Settings=\[\] is not allowed: it must be a mapping"),
        ({"name": "x", "network": "ee_d"}, "phases is missing"),
        ({"recipe": {"momentun": 1}}, r"recipe\.momentun is not a field of Recipe; did you mean 'momentum'\?"),
        ({"recipe": {"augmentation": [1]}}, r"recipe\.augmentation=\[1\] is not allowed: it must be a list of area,"),
        ({"phases": [{"name": "full"}]}, r"phases\[0\]\.learning_rate is missing"),
    ],
)
def test_what_is_no_nested_settings_is_refused(values, message):
    if isinstance(values, dict) and "name" not in values:
        values = {**Settings.paper("ee_d").as_json(), **values}
    with pytest.raises(ValueError, match=message):
        from_nested(Settings, values)
