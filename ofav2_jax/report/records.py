"""Run directories as they are found: settings, results and measurements so far, read without the networks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import Phase

RUN_INFO = "run.json"
_SETTINGS = (
    *("name", "network", "width_multiplier", "seed", "resolutions", "batch_size", "engine", "teacher"),
    *("warmup_learning_rate", "data", "phases", "recipe", "evaluation"),
)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run directory holds, of a finished run or of one that is under way.

    Attributes:
        directory: where it was read.
        settings: of `settings.json`.
        phases: the same phases as in `settings`.
        results: the `result.json` of each phase that is finished, by the phase's name, in order.
        metrics: the lines of `metrics.jsonl`, one for each epoch.
        info: of `run.json`: commands, versions, machine; None if there is none.
        totals: of `results.json`, which is written last; None before that.
    """

    directory: Path
    settings: dict[str, Any]
    phases: tuple[Phase, ...]
    results: dict[str, dict[str, Any]]
    metrics: list[dict[str, Any]]
    info: dict[str, Any] | None
    totals: dict[str, Any] | None


def read_run(directory: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        ValueError: if it is none, or a file in it cannot be read; names the file and the reason.
    """
    path = directory / "settings.json"
    if not path.is_file():
        raise ValueError(f"{directory} is not a run directory: there is no settings.json in it")
    settings = read_json(path)
    missing = [name for name in _SETTINGS if name not in settings]
    if missing:
        raise ValueError(f"{path} does not hold a run's settings: {', '.join(missing)} missing")
    try:
        network_spec(settings["network"])
        settings["data"]["dataset"], settings["data"]["base_resolution"], settings["data"]["num_classes"]
        phases = tuple(Phase(**{**phase, "values": tuple(phase["values"])}) for phase in settings["phases"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold a run's settings: {error}") from error
    results = {}
    for index, phase in enumerate(phases):
        result = directory / "phases" / f"{index:02d}-{phase.name}" / "result.json"
        if result.is_file():
            results[phase.name] = read_json(result, ("avg", "best", "subnets"))
    info, totals = directory / RUN_INFO, directory / "results.json"
    return RunRecord(
        directory=directory,
        settings=settings,
        phases=phases,
        results=results,
        metrics=_read_metrics(directory / "metrics.jsonl"),
        info=read_json(info) if info.is_file() else None,
        totals=read_json(totals) if totals.is_file() else None,
    )


def read_json(path: Path, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: of the file.
        fields: what it must hold.

    Raises:
        ValueError: naming the file and the reason.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} cannot be read: it does not hold a JSON object")
    for field in fields:
        if field not in value:
            raise ValueError(f"{path} cannot be read: {field!r} is missing")
    return value


def _read_metrics(path):
    if not path.is_file():
        return []
    # The last line is incomplete if the run was stopped while it wrote it.
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
