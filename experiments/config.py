"""From a config to the settings and the data set that the library takes."""

import dataclasses
import re
from typing import Any

import jax
from ml_collections import ConfigDict

from configs.common import base_config
from ofav2_jax.checks import did_you_mean, local_path, refuse, require_range, require_text
from ofav2_jax.data.dataset import Dataset, Request
from ofav2_jax.data.sources import DIGITS, require_allowed
from ofav2_jax.model.network import network_spec
from ofav2_jax.run.assembly import dataset_of, require_fit, with_definite_dtype
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Augmentation
from ofav2_jax.settings.settings import DataSettings, Settings

from .console import DecodingProgress


def load_dataset(config: ConfigDict, plan_only: bool = False) -> Dataset:
    """Loads the data set that `config.data` names.

    Args:
        config: the experiment.
        plan_only: download nothing, decode nothing and write nothing: images that are not decoded yet are zeros.

    Raises:
        ValueError: if there is none of this name, it cannot be used, or the settings do not fit it.
    """
    settings, data = settings_from_config(config), config.data
    return dataset_of(
        settings,
        data_dir=data.data_dir,
        archive=data.archive,
        progress=DecodingProgress(),
        plan_only=plan_only,
        check=lambda dataset: require_fit(settings, dataset, jax.device_count()),
    )


def settings_from_config(config: ConfigDict) -> Settings:
    """The library's settings.

    Raises:
        ValueError: naming the field, the value and what is allowed; also for those fields that are no settings of
            the library.
    """
    if "network" not in config:
        raise ValueError("network is missing in the config, which is therefore not that of a supernet's run")
    network_spec(config.network)
    declared = base_config(config.network)
    _require_phase_names(config, declared)
    # Phases can be left out.
    declared.phases = ConfigDict({name: phase for name, phase in declared.phases.items() if name in config.phases})
    _require_names(config, declared)
    flip = config.data.flip
    if type(flip) is not bool:
        refuse("data.flip", flip, "True or False")
    given = {
        **{field.name: config[field.name] for field in dataclasses.fields(Settings)},
        "phases": [
            dataclasses.replace(phase, **config.phases[phase.key])
            for phase in paper_phases(config.network)
            if phase.key in config.phases
        ],
        "data": {field.name: config.data[field.name] for field in dataclasses.fields(DataSettings)},
        "recipe": {
            **config.recipe,
            "exit_weights": _exit_weights(config.recipe.exit_weights),
            "augmentation": Augmentation(flip=flip),
        },
        "evaluation": dict(config.evaluation),
    }
    settings = with_definite_dtype(from_nested(Settings, given))
    require_range("checkpoint.every_s", config.checkpoint.every_s, 0)
    _require_data(config, settings)
    return settings


def _require_phase_names(config: ConfigDict, declared: ConfigDict) -> None:
    """Refuses other phases than those of the network, which is easily the mistake if many are wrong at once."""
    phases = config.get("phases")
    if not isinstance(phases, ConfigDict):
        refuse("phases", phases, "a ConfigDict")
    unknown = [str(name) for name in phases if name not in declared.phases]
    if unknown:
        raise ValueError(
            f"phases={', '.join(map(str, phases))} do not belong to network={config.network!r}, "
            f"which goes through {', '.join(phase.key for phase in paper_phases(config.network))}"
            f"{did_you_mean(unknown[0], declared.phases)}"
        )


def _require_names(config: ConfigDict, declared: ConfigDict, prefix: str = "") -> None:
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
            _require_names(config[name], value, f"{prefix}{name}.")


def _require_data(config: ConfigDict, settings: Settings) -> None:
    """Refuses what does not fit the data set, as far as that is known without it."""
    data = config.data
    for field in ("archive", "data_dir"):
        if data[field] is not None:
            require_text(f"data.{field}", data[field])
            local_path(f"data.{field}", data[field])
    require_allowed(
        Request(
            name=data.dataset,
            base_resolution=data.base_resolution,
            num_classes=data.num_classes,
            data_dir=data.data_dir,
            archive=data.archive,
            test_split=data.test_split,
            validation_split=data.validation_split,
            validation_fraction=data.validation_fraction,
            skip_broken=data.skip_broken,
        )
    )
    # The digits are trained on enlarged: there is nothing larger to read. Other images are brought to the base
    # resolution once; crops beyond it would only be enlarged again, while a larger base resolution keeps more of them.
    if data.dataset != DIGITS:
        for resolution in settings.resolutions:
            if resolution > data.base_resolution:
                refuse("resolutions", resolution, f"at most data.base_resolution={data.base_resolution}")


def _exit_weights(weights: Any) -> Any:
    """Weights of the exits as a scheme or a tuple; on a command line numbers are text, in parentheses or without."""
    if isinstance(weights, str) and "," in weights:
        numbers = re.fullmatch(r"[(\[]?(.*?),?\s*[)\]]?", weights.strip(), re.DOTALL)
        assert numbers is not None
        try:
            return tuple(float(weight) for weight in numbers[1].split(","))
        except ValueError:
            refuse("recipe.exit_weights", weights, "a scheme, or numbers with commas between them")
    return weights
