"""The numbers of the paper's Tables IV and V, and a check whether a run can be compared with them."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.model.network import CHOICES, network_spec
from ofav2_jax.settings.authors import authors_settings
from ofav2_jax.settings.phases import TABLE_III, paper_phases
from ofav2_jax.settings.recipe import Augmentation
from ofav2_jax.settings.settings import Settings

Cell = dict[str, float]

# Maps the values of `Phase.unlocks` to the columns of the tables; phase full unlocks nothing.
COLUMNS = {
    name: CHOICES[name].label if name else "resolution" for name in dict.fromkeys(phase.unlocks for phase in TABLE_III)
}
TABLES = {1.0: "Table IV", 1.2: "Table V"}
# In the order of the paper's rows.
ROWS = ("ofa_mbv3", "se_d", "ee_b", "ee_d", "se_p", "se_dp", "ee_p", "ee_dp")
TEACHERS = ("fixed", "progressive")

DATASET = "tiny_imagenet"
_NUM_CLASSES = 200
# What a run with settings of the authors' script is told first.
AUTHORS = "the authors' settings, not the paper's"
_PROTOCOLS = {
    "paper": "all uniform subnets are tested",
    "authors": "only the subnets that the authors' scripts visit are tested",
}
_PHASE_FIELDS = {"learning_rate": "learning rate", "num_subnets": "subnets per batch"}


def paper_row(network: str, width_multiplier: float, teacher: str) -> dict[str, Cell | None]:
    """Returns one row of Table IV (width multiplier 1.0) or Table V (1.2).

    Args:
        network: name of one of the networks in Table II.
        width_multiplier: width multiplier of the supernet; for any other value than those two, and for a network that
            is not the paper's, every cell is None.
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
    if width_multiplier not in TABLES or network not in ROWS:
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
        What differs from the paper's setting, a short text each; empty if nothing does. Of settings that are more like
        those of the authors' script: `AUTHORS`, and what differs from theirs.
    """
    design = settings["phases"][0].get("design") if settings["phases"] else None
    if design is not None:
        return [f"one network alone is fine-tuned, {design}"]
    from_paper = _differences(settings, Settings.paper(settings["network"]), "Table III")
    from_authors = _differences(settings, authors_settings(settings["network"]), "the authors'")
    return [AUTHORS, *from_authors] if len(from_authors) < len(from_paper) else from_paper


def _differences(ours: Mapping[str, Any], other: Settings, source: str) -> list[str]:
    # As JSON has it, where tuples are lists.
    theirs = json.loads(json.dumps(other.as_json()))
    return [
        *_data_differences(ours, theirs),
        *_phase_differences(ours["phases"], theirs["phases"], source),
        *_recipe_differences(ours, theirs),
    ]


def _data_differences(ours, theirs):
    data, their_data = ours["data"], theirs["data"]
    if data["dataset"] != DATASET:
        yield f"data set {data['dataset']} instead of Tiny ImageNet"
    elif data["num_classes"] not in (None, _NUM_CLASSES):
        yield f"{data['num_classes']} instead of {_NUM_CLASSES} classes"
    # Older runs have no such field.
    if data.get("max_test_images") is not None:
        yield f"at most {data['max_test_images']} test images"
    for field in ("test_split", "validation_split", "validation_fraction", "normalisation", "skip_broken"):
        # Nor these.
        if data.get(field, their_data[field]) != their_data[field]:
            usual = "" if their_data[field] is None else f" instead of {_plain(their_data[field])}"
            yield f"{field.replace('_', ' ')} {_plain(data[field])}{usual}"
    if data["base_resolution"] != their_data["base_resolution"]:
        yield f"images of {data['base_resolution']} instead of {their_data['base_resolution']} pixels"
    if sorted(ours["resolutions"]) != theirs["resolutions"]:
        yield f"resolutions {_listed(ours['resolutions'])} instead of {_listed(theirs['resolutions'])}"
    if ours["width_multiplier"] not in TABLES:
        yield f"width multiplier {ours['width_multiplier']} instead of {' or '.join(map(str, TABLES))}"
    if ours["batch_size"] != theirs["batch_size"]:
        yield f"batches of {ours['batch_size']} instead of {theirs['batch_size']} images"


def _phase_differences(our_phases, their_phases, source):
    ours, theirs = ({phase["name"]: phase for phase in phases} for phases in (our_phases, their_phases))
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
            yield f"other {noun} than {source} in {len(changed)} of {len(ours)} phases"
        elif changed:
            texts = [f"{ours[name][field]:g} instead of {theirs[name][field]:g} in {name}" for name in changed]
            yield f"{noun} {_listed(texts)}"


def _recipe_differences(ours, theirs):
    our_recipe, their_recipe = _flat(ours["recipe"]), _flat(theirs["recipe"])
    for field, value in their_recipe.items():
        # A field that older runs do not have had the value that is the paper's.
        if our_recipe.get(field, value) != value:
            yield f"{field.replace('_', ' ')} {_plain(our_recipe[field])} instead of {_plain(value)}"
    for field in ("recalibration_images", "recalibration_batch_size"):
        value, wanted = ours["evaluation"][field], theirs["evaluation"][field]
        if value != wanted:
            yield f"{field.replace('_', ' ')} {value} instead of {wanted}"
    # Older runs do not have these three.
    protocol = ours["evaluation"].get("protocol", "paper")
    if protocol != theirs["evaluation"]["protocol"]:
        yield _PROTOCOLS[protocol]
    if ours["evaluation"].get("interpolate", False):
        yield "test images are interpolated at every resolution"
    if ours.get("sampling", "random") != "random":
        yield f"{ours['sampling']} instead of random sampling"
    # The paper does not name one.
    if theirs["dtype"] is not None and ours.get("dtype") != theirs["dtype"]:
        yield f"{ours.get('dtype')} instead of {theirs['dtype']}"
    if ours["engine"] != theirs["engine"]:
        yield f"engine {ours['engine']}, which does not sample the whole space"
    if ours["warmup_learning_rate"] is not None:
        yield f"warm-up from learning rate {ours['warmup_learning_rate']:g} instead of the phase's own"


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
