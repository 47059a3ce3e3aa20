"""From a config to what the library takes."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.common import base_config
from ofav2_jax.checks import require_range, require_text, did_you_mean, refuse
from ofav2_jax.settings.recipe import Augmentation
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.data.digits import RESOLUTION as DIGITS_RESOLUTION
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.evaluator import Evaluation
from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.settings import DataSettings, Settings
from ofav2_jax.train.step import Recipe

_DIGITS = "digits"


def load_dataset(config: ConfigDict) -> Dataset:
    """The data set that `config.data` names.

    Raises:
        ValueError: if there is none of this name, or it cannot be used.
    """
    dataset = _load(config)
    if config.data.max_test_images is not None:
        test = dataset.splits["test"]
        # Class by class in turn, so that any number of them is balanced.
        rank = np.empty(len(test), int)
        for label in range(dataset.num_classes):
            members = np.flatnonzero(dataset.labels[test] == label)
            rank[members] = np.arange(len(members))
        kept = np.sort(np.argsort(rank, kind="stable")[: config.data.max_test_images])
        dataset = dataclasses.replace(dataset, splits={**dataset.splits, "test": test[kept]})
    return dataset


def _load(config: ConfigDict) -> Dataset:
    data = config.data
    if data.dataset == _DIGITS:
        return load_digits(config.seed)
    # TFDS takes a second to import, which the digits can do without.
    from ofav2_jax.data.tfds_source import load_tfds

    return load_tfds(
        data.dataset,
        base_resolution=data.base_resolution,
        seed=config.seed,
        data_dir=data.data_dir,
        archive=data.archive,
        num_classes=data.num_classes,
    )


def settings_from_config(config: ConfigDict) -> Settings:
    """The library's settings.

    Raises:
        ValueError: naming the field, the value and what is allowed; also for those fields that are no settings of
            the library.
    """
    network_spec(config.get("network"))
    declared = base_config(config.network)
    _check_phase_names(config, declared)
    _check_names(config, declared)
    settings = Settings(
        name=config.name,
        network=config.network,
        width_multiplier=config.width_multiplier,
        seed=config.seed,
        resolutions=_tuple("resolutions", config.resolutions),
        batch_size=config.batch_size,
        dtype=_default_dtype() if config.dtype is None else config.dtype,
        engine=config.engine,
        teacher=config.teacher,
        warmup_learning_rate=config.warmup_learning_rate,
        data=DataSettings(
            **{field.name: config.data[field.name] for field in dataclasses.fields(DataSettings)},
        ),
        phases=tuple(dataclasses.replace(phase, **config.phases[phase.key]) for phase in paper_phases(config.network)),
        recipe=_recipe(config),
        evaluation=Evaluation(**config.evaluation),
    )
    require_range("checkpoint.every_s", config.checkpoint.every_s, 0)
    _check_data(config, settings)
    return settings


def _default_dtype() -> str:
    """Accelerators compute in bfloat16 several times as fast; CPUs do not."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _check_phase_names(config: ConfigDict, declared: ConfigDict) -> None:
    """Refuses other phases than those of the network, which is easily the mistake if many are wrong at once."""
    phases = config.get("phases")
    if not isinstance(phases, ConfigDict):
        refuse("phases", phases, "a ConfigDict")
    unknown = [str(name) for name in phases if name not in declared.phases]
    if unknown or len(phases) < len(declared.phases):
        hint = did_you_mean(unknown[0], declared.phases) if unknown else ""
        raise ValueError(
            f"phases={', '.join(map(str, phases))} do not belong to network={config.network!r}, "
            f"which goes through {', '.join(phase.key for phase in paper_phases(config.network))}{hint}"
        )


def _check_names(config: ConfigDict, declared: ConfigDict, prefix: str = "") -> None:
    """Refuses a config with other fields than the declared ones: a misspelt one would be without effect."""
    for name in map(str, config):
        if name not in declared:
            raise ValueError(f"{prefix}{name} is not a field of the config{did_you_mean(name, declared)}")
    for name, value in declared.items():
        if name not in config:
            raise ValueError(f"{prefix}{name} is missing in the config")
        if isinstance(value, ConfigDict):
            if not isinstance(config[name], ConfigDict):
                refuse(f"{prefix}{name}", config[name], f"a ConfigDict of {', '.join(value)}")
            _check_names(config[name], value, f"{prefix}{name}.")


def _check_data(config: ConfigDict, settings: Settings) -> None:
    """Refuses what does not fit the data set, as far as that is known without it."""
    data = config.data
    if type(data.flip) is not bool:
        refuse("data.flip", data.flip, "True or False")
    for field in ("archive", "data_dir"):
        if data[field] is not None:
            require_text(f"data.{field}", data[field])
    if data.dataset == _DIGITS:
        for field in ("archive", "data_dir", "num_classes"):
            if data[field] is not None:
                raise ValueError(f"data.{field}={data[field]!r} is not allowed: the digits have no such choice")
        if data.base_resolution != DIGITS_RESOLUTION:
            refuse("data.base_resolution", data.base_resolution, f"{DIGITS_RESOLUTION}, the size of the digits")
        # They are trained on enlarged: there is nothing larger to read.
        return
    # Images of other sets are brought to the base resolution once. Beyond it, what was taken from them would be
    # made up again; a larger base resolution keeps it.
    for resolution in settings.resolutions:
        if resolution > data.base_resolution:
            refuse("resolutions", resolution, f"at most data.base_resolution={data.base_resolution}")


def _recipe(config: ConfigDict) -> Recipe:
    recipe = dict(config.recipe)
    weights = recipe["exit_weights"]
    if isinstance(weights, str) and "," in weights:
        try:
            recipe["exit_weights"] = tuple(float(weight) for weight in weights.split(","))
        except ValueError:
            refuse("recipe.exit_weights", weights, "a scheme, or numbers with commas between them")
    elif isinstance(weights, list):
        recipe["exit_weights"] = tuple(weights)
    return Recipe(**recipe, augmentation=Augmentation(flip=config.data.flip))


def _tuple(field: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        refuse(field, value, "a tuple")
    return tuple(value)
