"""What the eight experiments of the paper share.

No full run of any of them has been timed here. The paper reports 1.5 GPU days for its PyTorch code. From what was
measured on an H100, the steps of EE_D would take it 51 minutes, and the last and longest of its tests 3 seconds
(benchmarks/README.md). The phases, and with them epochs and subnets per step, differ between the networks; `--dry_run`
prints them.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs.authors import use_authors_settings
from ofav2_jax.checks import did_you_mean
from ofav2_jax.settings.settings import Settings


def one_of(*allowed: Any) -> Callable[[str], Any]:
    """A parser of texts that stand for one of `allowed`."""
    texts = {str(value): value for value in allowed}

    def parse(text: str) -> Any:
        if text not in texts:
            # Which number was meant cannot be told from its digits.
            hint = did_you_mean(text, [value for value in allowed if isinstance(value, str)])
            raise ValueError(f"one of {', '.join(texts)}{hint}")
        return texts[text]

    return parse


def parse_arguments(arg: str | None, parsers: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Reads the part of `--config=FILE:name=value,name=value` behind the colon.

    Args:
        arg: that part, or None.
        parsers: for each argument what turns its text into a value, or raises ValueError with what is allowed.

    Raises:
        ValueError: for an unknown or repeated argument or a value that is not allowed.
    """
    values: dict[str, Any] = {}
    for item in (arg or "").split(","):
        if not item:
            continue
        name, _, text = item.partition("=")
        if name not in parsers:
            choices = ", ".join(parsers) or "none"
            hint = did_you_mean(name, parsers)
            raise ValueError(f"config argument {name!r} is unknown; this config takes: {choices}{hint}")
        if name in values:
            raise ValueError(f"config argument {name!r} is given twice")
        try:
            values[name] = parsers[name](text)
        except ValueError as error:
            raise ValueError(f"config argument {item!r} is not allowed: {name} must be {error}") from error
    return values


# A phase's numbers, which are free; what it unlocks is not.
_PHASE_FIELDS = ("learning_rate", "epochs", "warmup_epochs", "num_subnets")


def optional_fields() -> set[str]:
    """The names of the fields that can be None: `dtype`, `data.num_classes`, ..."""
    config = base_config("ofa_mbv3")
    sections = {name: value for name, value in config.items() if isinstance(value, ConfigDict)}
    inside = {f"{name}.{field}" for name, section in sections.items() for field in section if section[field] is None}
    return inside | {name for name in config if config[name] is None}


def base_config(network: str) -> ConfigDict:
    """The paper's settings for a network of Table II, as `Settings.paper(network)` has and describes them.

    Beside those there are, in `data`, what says where the images come from and whether they are mirrored, and
    `checkpoint`.
    """
    settings = Settings.paper(network)
    config = _section(settings, without=("phases",))
    config.phases = ConfigDict()
    for phase in settings.phases:
        config.phases[phase.key] = ConfigDict({name: getattr(phase, name) for name in _PHASE_FIELDS})
    # A local copy of tiny-imagenet-200.zip (or the same tree as a tar, or unpacked); none: it is downloaded.
    config.data.archive = placeholder(str)
    # The folder of images of `dataset="folder"`, else where prepared data sets are; none: ~/tensorflow_datasets.
    config.data.data_dir = placeholder(str)
    # Whether training images are mirrored at random.
    config.data.flip = settings.recipe.augmentation.flip
    config.checkpoint = ConfigDict()
    # Seconds between checkpoints inside an epoch; each epoch ends with one anyway.
    config.checkpoint.every_s = 60.0
    return config


def _section(values: Any, without: tuple[str, ...] = ("augmentation",)) -> ConfigDict:
    """A dataclass as a ConfigDict; a field that is None has the type of its annotation, one of several types any."""
    config, hints = ConfigDict(), typing.get_type_hints(type(values))
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if field.name in without:
            continue
        if value is None:
            (kind,) = (each for each in typing.get_args(hints[field.name]) if each is not type(None))
            value = placeholder(typing.get_origin(kind) or kind)
        elif len(typing.get_args(hints[field.name])) > 1 and isinstance(hints[field.name], types.UnionType):
            value = FieldReference(value, field_type=object)
        config[field.name] = _section(value) if dataclasses.is_dataclass(value) else value
    return config


def _epoch_factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Beyond a thousand times Table III lie only slips of the keyboard, and numbers of epochs that overflow.
    if not 0 < value <= 1000:
        raise ValueError("a number > 0 and <= 1000")
    return value


def _class_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise ValueError("an int of at least 2")
    return int(text)


def _flag(text: str) -> bool:
    if text:
        raise ValueError("without a value")
    return True


def scale_epochs(config: ConfigDict, factor: float) -> None:
    """Multiplies the epochs of every phase, and its warm-up; at least one epoch is left."""
    for phase in config.phases.values():
        phase.epochs = max(1, round(phase.epochs * factor))
        phase.warmup_epochs = round(phase.warmup_epochs * factor)


def make_smoke_test(config: ConfigDict) -> None:
    """Every phase of the network on real images, in minutes on a CPU; its accuracy means nothing."""
    config.data.num_classes = config.data.num_classes or 4
    for phase in config.phases.values():
        # One number of subnets for all phases: one program for each resolution.
        phase.update(epochs=1, warmup_epochs=0)
        if config.sampling == "random":
            phase.num_subnets = min(phase.num_subnets, 1)
    config.resolutions = (48, 64)
    config.batch_size = 100
    config.evaluation.recalibration_images = 100
    config.evaluation.batch_size = 100
    config.data.max_test_images = 100


# What turns the texts of arguments into values.
PARSERS: dict[str, Callable[[str], Any]] = {
    "wm": one_of(1.0, 1.2),
    "teacher": one_of("progressive", "fixed"),
    "epochs": _epoch_factor,
    "classes": _class_count,
    "settings": one_of("paper", "authors"),
    "sandwich": _flag,
    "smoke": _flag,
}


def run_name(start: str, arg: str | None) -> str:
    """A run's name: `start`, then the arguments as they were given."""
    return "-".join([start, *(item.replace("=", "") for item in (arg or "").split(",") if item)])


def config_with(network: str, values: Mapping[str, Any]) -> ConfigDict:
    """An experiment of the paper, changed as arguments say whose texts `PARSERS` have read; see `paper_config`."""
    config = base_config(network)
    if values.get("settings") == "authors":
        use_authors_settings(config)
    config.width_multiplier = values.get("wm", 1.0)
    config.teacher = values.get("teacher", "progressive")
    scale_epochs(config, values.get("epochs", 1.0))
    config.data.num_classes = values.get("classes")
    if "sandwich" in values:
        config.sampling = "sandwich"
        for phase in config.phases.values():
            if phase.num_subnets:
                phase.num_subnets = max(phase.num_subnets, 3)
    if "smoke" in values:
        make_smoke_test(config)
    return config


def paper_config(network: str, arg: str | None) -> ConfigDict:
    """An experiment of the paper.

    Args:
        network: of Table II.
        arg: any of `wm=1.0|1.2`, `teacher=progressive|fixed`, `epochs=F` (scales the epochs of every phase, at
            least one each), `classes=N` (the first N), `smoke` (minutes on a CPU: 4 classes, an epoch a phase,
            one subnet a batch, two resolutions, 100 test images), `settings=paper|authors` (of the authors' published
            script, see `configs.authors`), `sandwich` (each step trains the largest subnet, the smallest and random
            ones, at least three together).
    """
    config = config_with(network, parse_arguments(arg, PARSERS))
    config.name = run_name(network, arg)
    return config
