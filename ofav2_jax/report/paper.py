"""The numbers of the paper's Tables IV and V, and a check whether a run can be compared with them."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.data.augment import Augmentation
from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.train.step import Recipe

Cell = dict[str, float]

# Maps the values of `Phase.unlocks` to the columns of the tables; phase full unlocks nothing.
COLUMNS = {
    "": "resolution",
    "kernel": "kernel",
    "level": "level",
    "height": "height",
    "depth": "depth",
    "expand": "width",
}
TABLES = {1.0: "Table IV", 1.2: "Table V"}
# In the order of the paper's rows.
ROWS = ("ofa_mbv3", "se_d", "ee_b", "ee_d", "se_p", "se_dp", "ee_p", "ee_dp")
TEACHERS = ("fixed", "progressive")

DATASET = "tiny_imagenet"
_NUM_CLASSES = 200
_BASE_RESOLUTION = 64
_RESOLUTIONS = [48, 56, 64]
_BATCH_SIZE = 200
_RECALIBRATION = {"recalibration_images": 1000, "recalibration_batch_size": 100}
_PHASE_FIELDS = {"learning_rate": "learning rate", "num_subnets": "subnets per batch"}


def paper_row(network: str, width_multiplier: float, teacher: str) -> dict[str, Cell | None]:
    """Returns one row of Table IV (width multiplier 1.0) or Table V (1.2).

    Args:
        network: name of one of the networks in Table II.
        width_multiplier: width multiplier of the supernet; for any other value than those two every cell is None.
        teacher: "fixed" or "progressive".

    Returns:
        For each column a dictionary with "avg" and "best", the test top-1 on Tiny ImageNet in %, or None where the
        paper has no number.

    Raises:
        ValueError: for an unknown network or teacher.
    """
    network_spec(network)
    if teacher not in TEACHERS:
        raise ValueError(f"teacher={teacher!r} is not allowed: it must be one of {', '.join(TEACHERS)}")
    if width_multiplier not in TABLES:
        return dict.fromkeys(COLUMNS.values())
    return dict(_tables()[f"{width_multiplier:.1f}"][network][teacher])


@functools.cache
def _tables():
    return files.read_json(Path(__file__).with_name("paper_tables.json"))["width_multiplier"]


def column_phases(network: str) -> dict[str, str]:
    """Maps each column of a network to the phase whose result it shows: the last one that widens that choice."""
    return {COLUMNS[phase.unlocks]: phase.name for phase in paper_phases(network)}


def comparable(settings: Mapping[str, Any]) -> list[str]:
    """Why the results of a run cannot be held against the paper's.

    Args:
        settings: what `settings.json` of the run directory holds.

    Returns:
        What differs from the paper's setting, a short text each; empty if nothing does.
    """
    return [
        *_data_differences(settings),
        *_phase_differences(settings),
        *_recipe_differences(settings),
    ]


def _data_differences(settings):
    data = settings["data"]
    if data["dataset"] != DATASET:
        yield f"data set {data['dataset']} instead of Tiny ImageNet"
    elif data["num_classes"] not in (None, _NUM_CLASSES):
        yield f"{data['num_classes']} instead of {_NUM_CLASSES} classes"
    # Only runs with a reduced test set record this.
    if data.get("max_test_images") is not None:
        yield f"at most {data['max_test_images']} test images"
    if data["base_resolution"] != _BASE_RESOLUTION:
        yield f"images of {data['base_resolution']} instead of {_BASE_RESOLUTION} pixels"
    if sorted(settings["resolutions"]) != _RESOLUTIONS:
        yield f"resolutions {_listed(settings['resolutions'])} instead of {_listed(_RESOLUTIONS)}"
    if settings["width_multiplier"] not in TABLES:
        yield f"width multiplier {settings['width_multiplier']} instead of {' or '.join(map(str, TABLES))}"
    if settings["batch_size"] != _BATCH_SIZE:
        yield f"batches of {settings['batch_size']} instead of {_BATCH_SIZE} images"


def _phase_differences(settings):
    theirs = {phase.name: dataclasses.asdict(phase) for phase in paper_phases(settings["network"])}
    ours = {phase["name"]: phase for phase in settings["phases"]}
    if list(ours) != list(theirs):
        yield f"phases {_listed(ours)} instead of {_listed(theirs)}"
        return
    epochs = [sum(p["epochs"] + p["warmup_epochs"] for p in phases.values()) for phases in (ours, theirs)]
    if any(ours[name][field] != theirs[name][field] for name in ours for field in ("epochs", "warmup_epochs")):
        total = f"{epochs[0]:,} instead of {epochs[1]:,} epochs"
        yield total if epochs[0] != epochs[1] else f"the {total[: total.index(' ')]} epochs are spread differently"
    for field, noun in _PHASE_FIELDS.items():
        changed = [name for name in ours if ours[name][field] != theirs[name][field]]
        if len(changed) > 2:
            yield f"other {noun} than Table III in {len(changed)} of {len(ours)} phases"
        elif changed:
            texts = [f"{ours[name][field]:g} instead of {theirs[name][field]:g} in {name}" for name in changed]
            yield f"{noun} {_listed(texts)}"


def _recipe_differences(settings):
    ours, theirs = map(_flat, (settings["recipe"], json.loads(json.dumps(dataclasses.asdict(Recipe())))))
    for field, value in theirs.items():
        if ours.get(field) != value:
            yield f"{field.replace('_', ' ')} {_plain(ours.get(field))} instead of {_plain(value)}"
    for field, value in _RECALIBRATION.items():
        if settings["evaluation"][field] != value:
            yield f"{field.replace('_', ' ')} {settings['evaluation'][field]} instead of {value}"
    if settings["engine"] != "masked":
        yield f"engine {settings['engine']}, which does not sample the whole space"
    if settings["warmup_learning_rate"] is not None:
        yield f"warm-up from learning rate {settings['warmup_learning_rate']:g} instead of the phase's own"


def _flat(recipe):
    """A recipe without nesting; JSON has made a list of the named tuple in it."""
    rest = {name: value for name, value in recipe.items() if name != "augmentation"}
    return rest | {f"augmentation {name}": value for name, value in zip(Augmentation._fields, recipe["augmentation"])}


def _listed(values):
    return ", ".join(map(str, values))


def _plain(value):
    """Nested lists of numbers, without the digits that nobody reads."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plain, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
