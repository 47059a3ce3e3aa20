"""Run directories with made-up results, for the tests of reports and tables."""

import dataclasses
import json
from pathlib import Path

from configs.common import paper_config
from experiments.settings import settings_from_config
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.settings.phases import learning_rate, unlocked_values


def write_run(directory: Path, network: str, finished: int | None = None, offset: float = 0.0, **changes) -> Path:
    """Writes a run directory with the paper's settings and a made-up accuracy for every tested subnet.

    Args:
        directory: created.
        network: of Table II.
        finished: how many phases are; all if not given. One epoch of the next one is recorded.
        offset: added to every top-1.
        changes: of the config, by the names of its fields; `epochs` sets those of every phase.
    """
    config = paper_config(network, None)
    epochs = changes.pop("epochs", None)
    if epochs:
        for phase in config.phases.values():
            phase.update(epochs=epochs, warmup_epochs=0)
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (config[section] if section else config)[field] = value
    settings = settings_from_config(config)
    finished = len(settings.phases) if finished is None else finished

    (directory / "phases").mkdir(parents=True)
    (directory / "settings.json").write_text(json.dumps(settings.as_json()))
    space = SearchSpace(SuperNet(network, settings.width_multiplier, 200))
    lines, step = [], 0
    for index, phase in enumerate(settings.phases[: finished + 1]):
        for epoch in range(1, phase.total_epochs + 1 if index < finished else 2):
            step += 10
            rate = learning_rate(phase, 10 * epoch - 1, 10)
            record = {"step": step, "phase": phase.name, "epoch": epoch, "loss": 5 / epoch, "top1": 0.35}
            lines.append(
                record
                | {
                    "learning_rate": rate,
                    "images_per_s": 100.0,
                    "validation_top1": 30 + 10 * epoch / phase.total_epochs,
                }
            )
        if index < finished:
            subnets = list(_subnets(space.restrict(**unlocked_values(settings.phases, index)), settings, not phase.num_subnets))
            for subnet in subnets:
                subnet["top1"] += offset
            top1 = [subnet["top1"] for subnet in subnets]
            result = {"name": phase.name, "avg": sum(top1) / len(top1), "best": max(top1), "subnets": subnets}
            path = directory / "phases" / f"{index:02d}-{phase.name}" / "result.json"
            path.parent.mkdir()
            path.write_text(json.dumps(result))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
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
                "macs": 10 * size * subnet.height,
                "params": size,
            }
