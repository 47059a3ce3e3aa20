"""From a config to what the library takes."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from ofav2_jax.data.augment import Augmentation
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate import Evaluation
from ofav2_jax.phases import Phase, paper_phases
from ofav2_jax.settings import DataSettings, Settings
from ofav2_jax.step import Recipe


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
    if data.dataset == "digits":
        for field in ("archive", "data_dir", "num_classes"):
            if data[field] is not None:
                raise ValueError(f"data.{field}={data[field]!r} is not allowed: the digits have no such choice")
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
        ValueError: naming the field, the value and what is allowed.
    """
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
        dtype=_default_dtype() if config.dtype is None else config.dtype,
        engine=config.engine,
        teacher=config.teacher,
        warmup_learning_rate=config.warmup_learning_rate,
        data=DataSettings(
            **{field.name: config.data[field.name] for field in dataclasses.fields(DataSettings)},
        ),
        phases=_phases(config),
        recipe=Recipe(**recipe, augmentation=Augmentation(flip=config.data.flip)),
        evaluation=Evaluation(**config.evaluation),
    )


def _default_dtype() -> str:
    """Accelerators compute in bfloat16 several times as fast; CPUs do not."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _phases(config: ConfigDict) -> tuple[Phase, ...]:
    """Table III's phases with the numbers of the config."""
    phases = paper_phases(config.network)
    if {phase.key for phase in phases} != set(config.phases):
        raise ValueError(
            f"phases={', '.join(config.phases)} do not belong to network={config.network!r}, "
            f"which goes through {', '.join(phase.key for phase in phases)}"
        )
    return tuple(dataclasses.replace(phase, **config.phases[phase.key]) for phase in phases)
