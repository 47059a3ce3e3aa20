"""How well a search's predictor ranked what it had not seen, beside what was to be expected of it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofav2_jax.nas.costs import DesignCosts
from ofav2_jax.nas.records import Record, designs_of, top1_of
from ofav2_jax.run.search.directory import Round

# Of fewer trunks Kendall's tau says little.
_MIN_TRUNKS = 5


def quality(rounds: Sequence[Round], records: Sequence[Record], costs: DesignCosts) -> dict[str, Any]:
    """Kendall's tau of predictions, of MACs alone, and between two halves of the validation images.

    Predictions are those with which a round's trunks were proposed, before they were evaluated. The last says how much
    of a ranking is noise, at half as many images. All are of single exits.

    Args:
        rounds: the rounds, round 0 first.
        records: what was measured, in their order.
        costs: counts the MACs.

    Returns:
        "rounds": for each round after the start its number, its trunks, and for "predicted" and "macs" the tau
        "within_height" (the mean over the heights) and "across"; "reliability" with the same two. A tau is None where
        there are fewer than five trunks, or all of them are equal.
    """
    exit_sets = [exits for exits in records[0].top1 if len(exits) == 1]
    first, of_rounds = len(rounds[0].trunks), []
    for number, each in enumerate(rounds[1:], 1):
        found = records[first : first + len(each.trunks)]
        first += len(each.trunks)
        if len(found) < _MIN_TRUNKS:
            continue
        known = [exits for exits in exit_sets if exits in each.exit_sets]
        measured = top1_of(found, known)
        places = [each.exit_sets.index(exits) for exits in known]
        predicted = np.array(each.predicted)[: len(found), places]
        macs = costs("macs", designs_of([record.trunk for record in found], known)).reshape(measured.shape)
        of_round = {"predicted": _taus(predicted, measured), "macs": _taus(macs, measured)}
        of_rounds.append({"round": number, "trunks": len(found), **of_round})
    return {"rounds": of_rounds, "reliability": _reliability(records, exit_sets)}


def _reliability(records: Sequence[Record], exit_sets: Sequence[tuple[int, ...]]) -> dict[str, float | None]:
    halves: list[list[list[float]]] = [[], []]
    for record in records:
        if record.half_top1 is None:
            continue
        in_first = -(-record.images // 2)
        halves[0].append([record.half_top1[exits] for exits in exit_sets])
        rest = max(1, record.images - in_first)
        halves[1].append(
            [(record.top1[exits] * record.images - record.half_top1[exits] * in_first) / rest for exits in exit_sets]
        )
    # Counts of correct predictions, so that equal ones are equal after the division, too.
    one, other = (np.round(np.array(half), 6) for half in halves)
    return _taus(one, other) if len(one) >= _MIN_TRUNKS else {"within_height": None, "across": None}


def _taus(one: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Kendall's tau of two arrays [trunks, exits]: in each column, and of all values."""
    by_height = [value for a, b in zip(one.T, other.T) if (value := _tau(a, b)) is not None]
    return {"within_height": float(np.mean(by_height)) if by_height else None, "across": _tau(one, other)}


def _tau(one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.stats import kendalltau

    with warnings.catch_warnings():
        # Values that are all equal have none, which is no news here.
        warnings.simplefilter("ignore")
        value = float(kendalltau(one.ravel(), other.ravel()).statistic)
    return value if np.isfinite(value) else None


def means(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The means over the rounds of what `quality` returns, by "predicted" and "macs"."""

    def mean(kind: str, which: str) -> float | None:
        values = [each[kind][which] for each in found["rounds"] if each[kind][which] is not None]
        return float(np.mean(values)) if values else None

    return {kind: {which: mean(kind, which) for which in ("within_height", "across")} for kind in ("predicted", "macs")}
