"""Run directories with made-up results, for the tests of reports and tables."""

import dataclasses
import json
from pathlib import Path

from configs.common import paper_config
from experiments.config import settings_from_config
from ofav2_jax import files
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.report.records import EpochRecord
from ofav2_jax.settings.phases import learning_rate, unlocked_values


def write_run(
    directory: Path, network: str, finished: int | None = None, offset: float = 0.0, arg: str | None = None, **changes
) -> Path:
    """Writes a run directory with the paper's settings and a made-up accuracy for every evaluated subnet.

    Args:
        directory: the run directory, which is created.
        network: name of one of the networks in Table II.
        finished: number of finished phases; None means all. One epoch of the next phase is recorded.
        offset: number added to every top-1.
        arg: what stands behind the colon of a config, for instance "settings=authors".
        changes: values for fields of the config, with "data__flip" for config.data.flip; `epochs` sets the number of
            epochs of every phase, and `phases` names those that are not left out.
    """
    config = paper_config(network, arg)
    for name in set(config.phases) - set(changes.pop("phases", config.phases)):
        del config.phases[name]
    epochs = changes.pop("epochs", None)
    if epochs:
        for phase in config.phases.values():
            phase.update(epochs=epochs, warmup_epochs=0)
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (config[section] if section else config)[field] = value
    settings = settings_from_config(config)
    finished = len(settings.phases) if finished is None else finished

    files.write_json(directory / files.SETTINGS, settings.as_json())
    space = SearchSpace(SuperNet(network, settings.width_multiplier, 200))
    lines, step = [], 0
    for index, phase in enumerate(settings.phases[: finished + 1]):
        for epoch in range(1, phase.total_epochs + 1 if index < finished else 2):
            step += 10
            rate = learning_rate(phase, 10 * epoch - 1, 10)
            validation = 30 + 10 * epoch / phase.total_epochs
            lines.append(EpochRecord(step, phase.name, epoch, 5 / epoch, 35.0, rate, 100.0, validation).as_json())
        if index < finished:
            unlocked = space.restrict(**unlocked_values(settings.phases, index))
            subnets = list(_subnets(unlocked, settings, phase.is_full))
            for subnet in subnets:
                subnet["top1"] += offset
            top1 = [subnet["top1"] for subnet in subnets]
            result = {"name": phase.name, "avg": sum(top1) / len(top1), "best": max(top1), "subnets": subnets}
            files.write_json(files.phase_directory(directory, index, phase.name) / files.PHASE_RESULT, result)
    files.write_text(directory / files.METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    return directory


def _subnets(space, settings, full):
    for resolution in settings.resolutions:
        for subnet in [space.maximal()] if full else space.uniform_subnets():
            choices = {name: value for name, value in dataclasses.asdict(subnet).items() if name != "height"}
            choices = {name: value[0] if isinstance(value, tuple) else value for name, value in choices.items()}
            size = resolution**2 * choices["kernel"] * choices["expand"] * choices["depth"] * choices["level"]
            top1 = 20 + 20 * (1 - 1e5 / (size + 1e5)) + (7 * size + subnet.height) % 11 / 4
            yield {
                "resolution": resolution,
                **choices,
                "height": "ensemble" if full and settings.network.startswith("ee") else subnet.height,
                "top1": top1,
                "top5": min(top1 * 2, 100),
                "mean_class_top1": top1,
                "macs": 10 * size * subnet.height,
                "params": size,
            }
