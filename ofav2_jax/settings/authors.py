"""The authors' scripts: their settings, where they are others than the paper's, and the subnets that they visit."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ofav2_jax.model.network import network_spec
from ofav2_jax.settings.phases import Phase, unlocked_values
from ofav2_jax.settings.settings import Settings

_LEARNING_RATES = {
    # At Table III's 1e-3 the full network would be far from the accuracy of the paper's own Table IV.
    "full": 0.08,
    # Half of Table III's or less; all other phases have the rates of Table III.
    "height-1": 0.001875,
    "height-2": 0.00375,
    "height-3": 0.0075,
    "height-4": 0.015,
}


def authors_settings(network: str) -> Settings:
    """The settings of the authors' published training script; docs/authors.md says what of it they do not follow.

    Args:
        network: a name of Table II.

    Raises:
        ValueError: for another network.
    """
    paper = Settings.paper(network)
    phases = (
        dataclasses.replace(phase, learning_rate=_LEARNING_RATES.get(phase.name, phase.learning_rate))
        for phase in paper.phases
    )
    # On one GPU their optimiser skips parameters that have had no gradient since the phase began.
    recipe = dataclasses.replace(paper.recipe, decay_unreached=False)
    # Their last settings weigh later exits more; the paper says the first exit most (DESC).
    if network_spec(network).early_exits:
        recipe = dataclasses.replace(recipe, exit_weights=(0.06, 0.13, 0.2, 0.27, 0.34))
    return dataclasses.replace(
        paper,
        phases=tuple(phases),
        # The default of their script; the paper says 200.
        batch_size=64,
        # Their script draws any multiple of 4 from 48 to 64 (`continuous_size`), the paper names three resolutions. As
        # published it draws none at all, because only worker processes of the loader do and it starts none: every batch
        # has 64 pixels then. What the script means to do is taken here; `--config.resolutions=(64,)` is what it does.
        resolutions=(48, 52, 56, 60, 64),
        recipe=recipe,
        # They choose the best epoch, and test, by other subnets than those that Tables IV and V average over by their
        # text.
        evaluation=dataclasses.replace(paper.evaluation, protocol="authors"),
        # They train without mixed precision, on accelerators too.
        dtype="float32",
    )


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
