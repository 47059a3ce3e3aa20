"""Reads the directory of a run, finished or under way: its settings, and the results and measurements so far."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import is_number
from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import Phase

_SETTINGS = (
    *("name", "network", "width_multiplier", "seed", "resolutions", "batch_size", "engine", "teacher"),
    *("warmup_learning_rate", "data", "phases", "recipe", "evaluation"),
)


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
        values.setdefault("images_waited", None)
        for name in fields:
            if name not in values:
                raise ValueError(f"{name!r} is missing")
            value = values[name]
            if name == "phase":
                valid, allowed = isinstance(value, str), "a str"
            elif name in ("step", "epoch"):
                valid, allowed = type(value) is int, "an int"
            elif name == "images_waited":
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
        results: for each finished phase, by its name and in order, the content of its `result.json`.
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
        settings["data"]["dataset"], settings["data"]["base_resolution"], settings["data"]["num_classes"]
        phases = tuple(Phase(**{**phase, "values": tuple(phase["values"])}) for phase in settings["phases"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold a run's settings: {error}") from error
    return settings, phases


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
