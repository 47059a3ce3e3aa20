"""The subnets that the authors' scripts visit when they validate and test."""

from collections.abc import Mapping, Sequence
from typing import Any

from ofav2_jax.settings.phases import Phase, unlocked_values


def authors_choices(unlocked: Mapping[str, Sequence[int]], current: str) -> dict[str, tuple[int, ...]]:
    """The values of each choice that their test of a phase visits.

    Args:
        unlocked: for each choice the values that are unlocked in the phase, see `phases.unlocked_values`.
        current: the choice that the phase unlocks, of which all values are visited; of the others the largest and the
            smallest are. Of level codes, those with the most blocks and those with the fewest. "": no choice.

    Returns:
        For each choice the visited values, in the order of `unlocked`.
    """

    def size(name: str, value: int) -> int:
        return value.bit_count() if name == "level" else value

    visited = {}
    for name, values in unlocked.items():
        sizes = [size(name, value) for value in values]
        ends = {min(sizes), max(sizes)}
        visited[name] = tuple(value for value in values if name == current or size(name, value) in ends)
    return visited


def ends(resolutions: Sequence[int]) -> tuple[int, ...]:
    """The resolutions that their test visits: the smallest and the largest."""
    return tuple(sorted({min(resolutions), max(resolutions)}))


def thirds(resolutions: Sequence[int]) -> tuple[int, ...]:
    """The resolutions at which they validate phase full: the smallest, the middle one and the largest."""
    ordered = sorted(resolutions)
    return tuple(sorted({ordered[0], ordered[len(ordered) // 2], ordered[-1]}))


def authors_summary(rows: Sequence[Mapping[str, Any]], phases: Sequence[Phase], index: int) -> dict[str, float]:
    """Mean and maximum of top-1 in %, as `avg` and `best` of a phase, over the subnets that their test visits.

    Args:
        rows: the evaluated subnets, as `result.json` has them.
        phases: the phases of the run, in order.
        index: the phase's index, from 0.

    Returns:
        "authors_avg" and "authors_best"; nothing if none of those subnets was evaluated.
    """
    choices = authors_choices(unlocked_values(phases, index), phases[index].unlocks)
    resolutions = ends([row["resolution"] for row in rows])

    def is_visited(row: Mapping[str, Any]) -> bool:
        # The height of the ensemble of phase full is a text.
        return row["resolution"] in resolutions and all(
            isinstance(row[name], str) or row[name] in values for name, values in choices.items()
        )

    top1 = [row["top1"] for row in rows if is_visited(row)]
    return {"authors_avg": sum(top1) / len(top1), "authors_best": max(top1)} if top1 else {}
