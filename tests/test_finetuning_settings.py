"""The settings of a run that fine-tunes a design."""

import dataclasses
import json
import re

import pytest

import ofav2_jax as ofa
from configs.finetune import get_config
from ofav2_jax.settings.finetuning import Finetuning
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import finetuning_phase
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.settings.settings import Settings
from tests.helpers import supernets

DESIGN = str(ofa.Design.parse("k35753575357535753575-e34634634634634634634-d32423-l7-h2@16+1"))


def test_settings_come_back_from_json():
    of_run = supernets.settings()
    settings = Finetuning(epochs=7).settings(of_run, DESIGN, 16, "abc")
    assert from_nested(Settings, json.loads(json.dumps(settings.as_json()))) == settings
    assert (settings.design, settings.phases[0].total_epochs, of_run.design) == (DESIGN, 7, None)
    kept = ("network", "width_multiplier", "seed", "data", "evaluation", "batch_size")
    assert all(getattr(settings, name) == getattr(of_run, name) for name in kept)
    assert settings.recipe.augmentation == of_run.recipe.augmentation
    # Settings that were written before there was fine-tuning.
    old = json.loads(json.dumps(of_run.as_json()))
    del old["recipe"]["optimizer"], old["phases"][0]["design"], old["phases"][0]["start"]
    assert from_nested(Settings, old) == of_run


def test_nothing_is_sampled_whatever_the_supernets_run_did():
    of_run = dataclasses.replace(supernets.settings(), sampling="sandwich", engine="static", teacher="progressive")
    settings = Finetuning().settings(of_run, DESIGN, 16, "abc")
    assert settings == Finetuning().settings(supernets.settings(), DESIGN, 16, "abc")


def test_the_config_has_the_defaults_of_the_library():
    config = get_config().to_dict()
    assert config.pop("checkpoint") == {"every_s": 60.0}
    assert from_nested(Finetuning, config) == Finetuning()


PHASE = finetuning_phase("k3-e3-d2-l7-h2@16", "abc", 1e-4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(phases=(PHASE, PHASE)), "phases=finetune, finetune is not allowed: a design is fine-tuned in one phase"),
        (dict(phases=(dataclasses.replace(PHASE, name="full"),)), "phases=full is not allowed: a design is fine-tuned"),
        (dict(phases=(dataclasses.replace(PHASE, start=None),)), "phases.finetune.start=None is not allowed"),
        (dict(phases=(dataclasses.replace(PHASE, design=""),)), "phases.finetune.design='' is not allowed"),
        (dict(recipe=Recipe()), "recipe.optimizer='sgd' is not allowed: it must be one of adamw"),
    ],
)
def test_other_settings_are_refused(changes, message):
    settings = Finetuning().settings(supernets.settings(), "k3-e3-d2-l7-h2@16", 16, "abc")
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(settings, **changes)
