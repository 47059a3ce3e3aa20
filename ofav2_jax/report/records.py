"""Reads the directory of a run, finished or under way: its settings, and the results and measurements so far."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import is_number, refuse, require_among
from ofav2_jax.model.network import CHOICES, network_spec
from ofav2_jax.settings.authors import authors_summary
from ofav2_jax.settings.phases import Phase
from ofav2_jax.settings.settings import Settings

_SETTINGS = (
    *("name", "network", "width_multiplier", "seed", "resolutions", "batch_size", "engine", "teacher"),
    *("warmup_learning_rate", "data", "phases", "recipe", "evaluation"),
)
# What every version has written into the sections, and is read from them.
_READ = {
    *(("data", name) for name in ("dataset", "base_resolution", "num_classes")),
    *(("evaluation", name) for name in ("recalibration_images", "recalibration_batch_size")),
    ("recipe", "augmentation"),
}


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """The measurements of one epoch, which are one line of `metrics.jsonl`.

    Attributes:
        step: number of training steps since the start of the run, over all phases.
        phase: name of the phase.
        epoch: number of the epoch within its phase, from 1.
        loss: training loss, averaged over the steps of the epoch and the subnets of each step.
        train_top1: top-1 on the training batches in %, averaged in the same way.
        learning_rate: learning rate of the epoch's last step.
        images_per_s: training images per second.
        validation_top1: top-1 on the validation split in %, measured at the end of the epoch.
        images_waited: share of the time of the training steps, in %, for which streamed images were waited for; None if
            the images are on the devices.
        start_top1: validation top-1 in % before the phase's first epoch, where that is a candidate for the best one;
            else None.
    """

    step: int
    phase: str
    epoch: int
    loss: float
    train_top1: float
    learning_rate: float
    images_per_s: float
    validation_top1: float
    images_waited: float | None = None
    start_top1: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The record as a dictionary that JSON can hold; `from_json` is the inverse."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EpochRecord":
        """Reads a record; keys that it does not know are ignored.

        Args:
            record: has every attribute as a key. Older versions wrote, instead of `train_top1`, the key `top1` with
                the accuracy as a fraction in [0, 1]; such records are read as well.

        Raises:
            ValueError: if a field is missing or has a value of another type; names the field.
        """
        if not isinstance(record, Mapping):
            raise ValueError("it is not a JSON object")
        values = dict(record)
        if "train_top1" not in values and is_number(values.get("top1")):
            values["train_top1"] = 100 * values["top1"]
        fields = [field.name for field in dataclasses.fields(cls)]
        optional = ("images_waited", "start_top1")
        values = {**dict.fromkeys(optional), **values}
        for name in fields:
            if name not in values:
                raise ValueError(f"{name!r} is missing")
            value = values[name]
            if name == "phase":
                valid, allowed = isinstance(value, str), "a str"
            elif name in ("step", "epoch"):
                valid, allowed = type(value) is int, "an int"
            elif name in optional:
                valid, allowed = value is None or is_number(value), "a number"
            else:
                valid, allowed = is_number(value), "a number"
            if not valid:
                raise ValueError(f"{name}={value!r} is not {allowed}")
        return cls(**{name: values[name] for name in fields})


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of a run directory, whether the run is finished or still under way.

    Attributes:
        directory: the run directory.
        settings: content of `settings.json`.
        phases: the phases in `settings`, as objects.
        results: for each finished phase, by its name and in order, the content of its `result.json`, with
            "authors_avg" and "authors_best", see `authors_summary`.
        metrics: the epochs trained so far, in order.
        info: content of `run.json`: commands, versions, machine; None if the file does not exist.
        totals: content of `results.json`; None if it does not exist, because the run writes it at its end.
        data: content of `data.json`; None if it does not exist.
    """

    directory: Path
    settings: dict[str, Any]
    phases: tuple[Phase, ...]
    results: dict[str, dict[str, Any]]
    metrics: list[EpochRecord]
    info: dict[str, Any] | None
    totals: dict[str, Any] | None
    data: dict[str, Any] | None = None

    @property
    def design(self) -> str | None:
        """The design that the run fine-tunes, as text; None: it trains a supernet."""
        return self.phases[0].design if self.phases else None


def read_run(directory: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        ValueError: if `directory` is no run directory, or if a file in it cannot be read; names the file and the
            reason.
    """
    settings, phases = _read_settings(directory)
    results = {}
    for index, phase in enumerate(phases):
        result = files.phase_directory(directory, index, phase.name) / files.PHASE_RESULT
        if result.is_file():
            results[phase.name] = files.read_json(result, ("avg", "best", "subnets"))
            _require_result(results[phase.name], result)
            # Older versions did not write these.
            results[phase.name] |= authors_summary(results[phase.name]["subnets"], phases, index)
    info, totals, data = (directory / name for name in (files.INFO, files.RESULTS, files.DATA))
    return RunRecord(
        directory=directory,
        settings=settings,
        phases=phases,
        results=results,
        metrics=_read_metrics(directory / files.METRICS),
        info=files.read_json(info) if info.is_file() else None,
        totals=files.read_json(totals) if totals.is_file() else None,
        data=files.read_json(data) if data.is_file() else None,
    )


def _read_settings(directory: Path) -> tuple[dict[str, Any], tuple[Phase, ...]]:
    path = directory / files.SETTINGS
    if not path.is_file():
        raise ValueError(f"{directory} is not a run directory: there is no {files.SETTINGS} in it")
    settings = files.read_json(path)
    missing = [name for name in _SETTINGS if name not in settings]
    if missing:
        raise ValueError(f"{path} does not hold a run's settings: {', '.join(missing)} missing")
    try:
        network_spec(settings["network"])
        _require_alike(settings, json.loads(json.dumps(Settings.paper(settings["network"]).as_json())))
        phases = tuple(Phase(**{**phase, "values": tuple(phase["values"])}) for phase in settings["phases"])
        for phase in phases:
            require_among(f"phases.{phase.key}.unlocks", phase.unlocks, ("", *CHOICES))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold a run's settings: {error}") from error
    return settings, phases


def _require_alike(value: Any, like: Any, name: str = "") -> None:
    """Refuses settings with fields of other kinds than those of the paper's settings, for instance a text for a number.

    Args:
        value: a field of settings, or settings as a whole; they may lack what older versions did not write.
        like: the same of the paper's settings.
        name: the field's name, for messages.
    """
    kinds = (dict, "an object"), (list, "a list"), (str, "a text"), (bool, "true or false")
    kind, told = next((each for each in kinds if isinstance(like, each[0])), (None, "a number"))
    if name == "recipe.exit_weights" and isinstance(value, list):
        like = [1]
    elif like is None:
        if not (value is None or isinstance(value, str | list) or is_number(value)):
            refuse(name, value, "a number, a text, a list or null")
    elif not (isinstance(value, kind) if kind else is_number(value)):
        refuse(name, value, told)
    if isinstance(like, dict):
        for key, inner in like.items():
            if key in value:
                _require_alike(value[key], inner, f"{name}.{key}" if name else key)
            elif (name, key) in _READ:
                raise ValueError(f"{name}.{key} is missing")
    elif isinstance(like, list):
        if name == "recipe.augmentation" and len(value) != len(like):
            refuse(name, value, f"a list of {len(like)}")
        for i, item in enumerate(value):
            _require_alike(item, like[min(i, len(like) - 1)] if like else 0, f"{name}[{i}]")


def _require_result(result: Mapping[str, Any], path: Path) -> None:
    """Refuses a `result.json` whose numbers are none."""
    for name in ("avg", "best"):
        if not is_number(result[name]):
            raise ValueError(f"{path} cannot be read: {name}={result[name]!r} is not a number")
    subnets = result["subnets"]
    if not isinstance(subnets, list) or not subnets:
        raise ValueError(f"{path} cannot be read: 'subnets' is not a list of subnets")
    # The choices of a fine-tuned design, which can differ from level to level, are not read from here.
    choices = () if "design" in result else CHOICES
    for number, subnet in enumerate(subnets):
        for name in ("resolution", *choices, "top1", "macs", "params"):
            value = subnet.get(name) if isinstance(subnet, dict) else None
            if not is_number(value) and not (name == "height" and isinstance(value, str)):
                raise ValueError(f"{path} cannot be read: subnets[{number}].{name}={value!r} is not a number")
    if "design" in result:
        _require_tuned(result, path)


def _require_tuned(result: Mapping[str, Any], path: Path) -> None:
    """Refuses the `result.json` of a fine-tuned design whose numbers are none."""
    top1 = result.get("top1")
    for split in ("validation", "test"):
        of_split = top1.get(split) if isinstance(top1, dict) else None
        for name in ("before", "after", "images"):
            value = of_split.get(name) if isinstance(of_split, dict) else None
            if not is_number(value):
                raise ValueError(f"{path} cannot be read: top1.{split}.{name}={value!r} is not a number")
    if type(result.get("best_epoch")) is not int:
        raise ValueError(f"{path} cannot be read: best_epoch={result.get('best_epoch')!r} is not an int")


def _read_metrics(path: Path) -> list[EpochRecord]:
    if not path.is_file():
        return []
    records = []
    # A run that is stopped while it writes leaves an incomplete last line, without its line break.
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            records.append(EpochRecord.from_json(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: line {number}: {error}") from error
    return records
