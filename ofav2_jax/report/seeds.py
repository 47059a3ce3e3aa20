"""Runs that differ in nothing but the seed as one row: means, standard errors, differences, and the paper's order."""

import contextlib
import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ofav2_jax.report import paper
from ofav2_jax.report.records import RunRecord
from ofav2_jax.settings.nested import from_nested
from ofav2_jax.settings.phases import TABLE_III
from ofav2_jax.settings.settings import Settings

MEASURES = ("avg", "best")
# These are over the subnets that the authors' test visits, and are not compared.
AUTHORS = ("authors_avg", "authors_best")
# What a row's label begins with; the seed makes no difference, and neither does the name.
_IN_LABEL = ("network", "teacher", "width_multiplier")
_IGNORED = ("name", "seed", *_IN_LABEL)
# A difference counts if it is larger than so many of its standard errors.
_NUM_ERRORS = 2
# A label names so many other settings at most.
_MAX_SETTINGS = 3


def build_seeds(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Compares runs with each other; those that differ in nothing but the seed and the name are one row.

    Args:
        runs: the runs, finished or under way.

    Returns:
        A dictionary that JSON can hold, with the keys

        - phases: the names of the phases of all rows, in order.
        - rows: in the order of the runs, with the keys
            - label: network, teacher, and the other settings, or a number for them if they are many.
            - other_settings: in which the row differs from most rows, texts by dotted names.
            - network, teacher, width_multiplier.
            - seeds, directories: of its runs, by seed.
            - differs: why the row cannot be held against the paper, see `paper.comparable`.
            - phases: for each finished phase, by name, and each of `MEASURES` and `AUTHORS`: `num_seeds`, `mean`, and
              `standard_error` of that mean, None for a single seed.
        - differences: for each pair of rows, in their order, `rows` (two labels) and `phases`: for each phase that both
          have, and each measure, `difference` (the first minus the second), its `standard_error` and `exceeds`, whether
          it is larger than two of those (both None if either row has a single seed), and `paper`, the difference
          of the paper's numbers, or None.
        - orders: for each column of Tables IV and V that several rows have, and each measure: `ours`, the labels by
          falling mean; `exceeds`, for each of them but the last what the difference to the next one says; `paper`, the
          same networks and teachers by the paper's falling numbers, and `paper_values`.

    Raises:
        ValueError: if two runs of a row have the same seed; names them.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    ordered = [sorted(group, key=lambda run: run.settings["seed"]) for group in groups.values()]
    for group in ordered:
        for one, other in itertools.pairwise(group):
            seed = one.settings["seed"]
            if seed == other.settings["seed"]:
                raise ValueError(
                    f"{one.directory} and {other.directory} have the same settings, seed {seed} included: "
                    "name one of them"
                )
    firsts = [group[0] for group in ordered]
    others = _others(firsts)
    rows = [_row(*of_row) for of_row in zip(ordered, _labels(firsts, others), others)]
    order = [phase.name for phase in TABLE_III]
    phases = dict.fromkeys(phase.name for run in runs for phase in run.phases)
    return {
        # Phases that are not in Table III come last.
        "phases": sorted(phases, key=lambda name: order.index(name) if name in order else len(order)),
        "rows": rows,
        "differences": [_difference(*pair) for pair in itertools.combinations(rows, 2)],
        "orders": _orders(rows),
    }


# --- rows --------------------------------------------------------------------------------------------------------


def _identity(run: RunRecord) -> str:
    """Equal texts for runs that differ in nothing but the seed."""
    return json.dumps([*(run.settings[name] for name in _IN_LABEL), _leaves(run)], sort_keys=True)


def _leaves(run: RunRecord) -> dict[str, str]:
    """All settings but those of `_IGNORED`, and what the images are, by their dotted names."""
    settings = run.settings
    # Settings that an older version wrote lack the fields that were added since.
    completed = settings
    with contextlib.suppress(ValueError):
        completed = from_nested(Settings, settings).as_json()
    phases = {phase["name"].replace("-", "_"): phase for phase in completed["phases"]}
    leaves = {
        **_flat({name: value for name, value in completed.items() if name not in (*_IGNORED, "phases")}),
        **_flat({"phases": phases}),
    }
    # A folder of images can be another one under the same settings.
    pixels = (run.data or {}).get("pixels_sha256")
    return leaves if pixels is None else leaves | {"data.pixels_sha256": str(pixels)[:12]}


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {name: value if isinstance(value, str) else json.dumps(value)}
    inside = (_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
    return {key: text for part in inside for key, text in part.items()}


def _others(runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """For each run the settings in which it differs from most of the runs, and its phases if others have more."""
    all_leaves = [_leaves(run) for run in runs]
    values: dict[str, Counter] = {}
    for leaves in all_leaves:
        for name, value in leaves.items():
            values.setdefault(name, Counter())[value] += 1
    found = []
    for run, leaves in zip(runs, all_leaves):
        others = {name: value for name, value in leaves.items() if value != values[name].most_common(1)[0][0]}
        kin = [other.phases for other in runs if other.settings["network"] == run.settings["network"]]
        if len(run.phases) < max(map(len, kin)):
            others["phases"] = " ".join(phase.name for phase in run.phases)
        found.append(others)
    return found


def _labels(runs: Sequence[RunRecord], all_others: Sequence[dict[str, str]]) -> list[str]:
    """For each run its network and teacher, and its other settings; if they are many, a number for them."""
    labels: list[str] = []
    long: list[dict[str, str]] = []
    for run, others in zip(runs, all_others):
        parts = [short_label(*(run.settings[name] for name in _IN_LABEL))]
        if len(others) > _MAX_SETTINGS:
            long += [] if others in long else [others]
            parts.append(f"other settings {long.index(others) + 1}")
        else:
            parts += [f"{name}={value}" for name, value in others.items()]
        labels.append(", ".join(parts))
    return labels


def short_label(network: str, teacher: str, width_multiplier: float) -> str:
    """The name of a row of the paper's tables."""
    return f"{network} {teacher}" + ("" if width_multiplier == 1 else f" x{width_multiplier}")


def _row(group: Sequence[RunRecord], label: str, others: dict[str, str]) -> dict[str, Any]:
    first = group[0]
    return {
        "label": label,
        "other_settings": others,
        **{name: first.settings[name] for name in _IN_LABEL},
        "seeds": [run.settings["seed"] for run in group],
        "directories": [str(run.directory) for run in group],
        "differs": paper.comparable(first.settings),
        "phases": {
            phase.name: {
                measure: _statistics(results, measure)
                for measure in (*MEASURES, *AUTHORS)
                if all(measure in result for result in results)
            }
            for phase in first.phases
            if (results := [run.results[phase.name] for run in group if phase.name in run.results])
        },
    }


def _statistics(results: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any]:
    values = [float(result[measure]) for result in results]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"num_seeds": len(values), "mean": statistics.fmean(values), "standard_error": error}


# --- comparisons -------------------------------------------------------------------------------------------------


def _difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    theirs = _paper_cells(one), _paper_cells(other)

    def compared(phase: str, measure: str) -> dict[str, Any]:
        ours = _minus(one["phases"][phase][measure], other["phases"][phase][measure])
        first, second = (cells.get(phase) for cells in theirs)
        # The paper has one number for all rows of a network and a teacher.
        if _key(one) == _key(other) or first is None or second is None:
            return ours | {"paper": None}
        return ours | {"paper": first[measure] - second[measure]}

    both = [phase for phase in one["phases"] if phase in other["phases"]]
    return {
        "rows": [one["label"], other["label"]],
        "phases": {phase: {measure: compared(phase, measure) for measure in MEASURES} for phase in both},
    }


def _minus(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    difference = one["mean"] - other["mean"]
    errors = one["standard_error"], other["standard_error"]
    if None in errors:
        return {"difference": difference, "standard_error": None, "exceeds": None}
    error = math.hypot(*errors)
    return {"difference": difference, "standard_error": error, "exceeds": abs(difference) > _NUM_ERRORS * error}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _IN_LABEL)


def _paper_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's numbers of a row by phase."""
    cells = paper.paper_row(row["network"], row["width_multiplier"], row["teacher"])
    return {phase: cells[column] for column, phase in paper.column_phases(row["network"]).items()}


def _orders(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    orders = {}
    for column in paper.COLUMNS.values():
        phases = {row["label"]: paper.column_phases(row["network"]).get(column) for row in rows}
        some = [row for row in rows if phases[row["label"]] in row["phases"]]
        if len(some) > 1:
            of_column = {row["label"]: row["phases"][phases[row["label"]]] for row in some}
            orders[column] = {measure: _order(some, of_column, column, measure) for measure in MEASURES}
    return orders


def _order(rows, of_column, column, measure):
    ours = sorted(of_column, key=lambda label: -of_column[label][measure]["mean"])
    exceeds = [
        _minus(of_column[one][measure], of_column[other][measure])["exceeds"] for one, other in itertools.pairwise(ours)
    ]
    theirs = {}
    for row in rows:
        network, teacher, width_multiplier = _key(row)
        cell = paper.paper_row(network, width_multiplier, teacher)[column]
        if cell is not None:
            theirs[short_label(network, teacher, width_multiplier)] = cell[measure]
    names = sorted(theirs, key=lambda name: -theirs[name])
    return {"ours": ours, "exceeds": exceeds, "paper": names, "paper_values": [theirs[name] for name in names]}
