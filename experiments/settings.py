"""From a config to what the library takes."""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from ofav2_jax.data.augment import Augmentation
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate import Evaluation
from ofav2_jax.phases import Phase, paper_phases
from ofav2_jax.settings import Settings
from ofav2_jax.step import Recipe


def _not_yet(_: ConfigDict) -> Dataset:
    raise ValueError("data.dataset='tiny_imagenet' is not available yet in this version: try configs/quickstart.py")


DATASETS: dict[str, Callable[[ConfigDict], Dataset]] = {
    "digits": lambda config: load_digits(config.seed),
    "tiny_imagenet": _not_yet,
}
# The digits have a left and a right.
_MIRRORED = {"digits": False, "tiny_imagenet": True}


def load_dataset(config: ConfigDict) -> Dataset:
    """The data set that `config.data` names.

    Raises:
        ValueError: if there is none of this name.
    """
    _check_dataset(config.data.dataset)
    return DATASETS[config.data.dataset](config)


def _check_dataset(name):
    if name not in DATASETS:
        raise ValueError(f"data.dataset={name!r} is unknown; choose one of {', '.join(DATASETS)}")


def settings_from_config(config: ConfigDict) -> Settings:
    """The library's settings.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """
    _check_dataset(config.data.dataset)
    recipe = dict(config.recipe)
    if not isinstance(recipe["exit_weights"], str):
        recipe["exit_weights"] = tuple(recipe["exit_weights"])
    return Settings(
        name=config.name,
        network=config.network,
        width_multiplier=config.width_multiplier,
        seed=config.seed,
        resolutions=tuple(config.resolutions),
        batch_size=config.batch_size,
        engine=config.engine,
        teacher=config.teacher,
        warmup_learning_rate=config.warmup_learning_rate,
        phases=_phases(config),
        recipe=Recipe(**recipe, augmentation=Augmentation(flip=_MIRRORED[config.data.dataset])),
        evaluation=Evaluation(**config.evaluation),
    )


def _phases(config: ConfigDict) -> tuple[Phase, ...]:
    """Table III's phases with the numbers of the config."""
    phases = paper_phases(config.network)
    if {phase.key for phase in phases} != set(config.phases):
        raise ValueError(
            f"phases={', '.join(config.phases)} do not belong to network={config.network!r}, "
            f"which goes through {', '.join(phase.key for phase in phases)}"
        )
    return tuple(dataclasses.replace(phase, **config.phases[phase.key]) for phase in phases)
