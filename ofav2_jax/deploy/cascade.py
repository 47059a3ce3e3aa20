"""Cascades: an image leaves a network of several exits at the first of them that is sure enough of it.

An exit is sure of an image if the probability of its most probable class reaches the exit's threshold; the answer is
then that exit's own. What later exits would have cost is saved.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import is_number, plain, refuse, shown
from ofav2_jax.data.array_checks import require_label_range, require_labels

# Between them lie the thresholds that are tried: those at which all images leave, and none.
ALWAYS, NEVER = 0.0, 2.0
# Thresholds that are tried at each exit, besides these two.
_QUANTILES = 50
# The searches start where the numbers of images that leave at successive exits have these ratios.
_RATIOS = 2.0 ** np.linspace(-5, 5, 41)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a cascade does with some images.

    Attributes:
        top1: in %.
        images: how many they are.
        shares: the share of them that leaves at each exit, in [0, 1].
        mean_cost: of an image.
    """

    top1: float
    images: int
    shares: tuple[float, ...]
    mean_cost: float


@dataclasses.dataclass(frozen=True)
class Cascade:
    """The thresholds of a network of several exits.

    Attributes:
        thresholds: of each exit, in the order in which they run: the probability that its most probable class must
            reach; above 1 it never does. That of the last one is 0.
        costs: of an image that leaves there, what ran before included.
    """

    thresholds: tuple[float, ...]
    costs: tuple[float, ...]

    @property
    def worst_cost(self) -> float:
        """The cost of an image that no exit is sure of."""
        return next(cost for cost, threshold in zip(self.costs, self.thresholds) if threshold <= ALWAYS)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> Outcome:
        """What it does with images of known classes.

        Args:
            logits: float [exits, N, classes].
            labels: int [N].
        """
        exits = simulate(logits, self.thresholds)
        right = _are_right(logits, labels)[exits, np.arange(len(exits))]
        counts = np.bincount(exits, minlength=len(self.costs))
        return Outcome(
            top1=float(100 * right.sum() / len(exits)),
            images=len(exits),
            shares=tuple((counts / len(exits)).tolist()),
            mean_cost=float(_mean_cost(counts, np.asarray(self.costs, float))),
        )


def confidences(logits: np.ndarray) -> np.ndarray:
    """The probabilities of the most probable classes, float64 [...], of logits [..., classes]."""
    below = np.asarray(logits, np.float64)
    below = below - below.max(-1, keepdims=True)
    return 1 / np.exp(below, out=below).sum(-1)


def simulate(logits: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Where images leave.

    Args:
        logits: float [exits, N, classes].
        thresholds: of each exit, see `Cascade`; the last exit is the last one whatever its threshold.

    Returns:
        int [N], from 0.

    Raises:
        ValueError: if there is not one threshold for each exit.
    """
    if np.ndim(logits) != 3 or len(thresholds) != len(logits):
        raise ValueError(
            f"thresholds={shown(tuple(thresholds))} is not allowed: one for each exit of logits {np.shape(logits)}"
        )
    sure = np.stack([confidences(each) >= threshold for each, threshold in zip(logits, thresholds)])
    sure[-1] = True
    return sure.argmax(0)


def thresholds(logits: np.ndarray, labels: np.ndarray, costs: Sequence[float], limit: float) -> Cascade:
    """Chooses the thresholds with the best top-1 whose mean cost does not exceed a limit.

    Coordinate descent over 50 quantiles of each exit's probabilities, from each of a family of starts: numbers of
    leaving images that rise or fall by one ratio from exit to exit (Huang et al., "Multi-Scale Dense Networks", section
    5), and all images leaving at one exit; from the best result again, over pairs of exits. The same arguments give the
    same thresholds.

    Where as many answers are right, the least cross entropy decides: a few hundred images do not tell thresholds apart
    by the number of right answers alone, and the cheapest of them is the one that fits these images by chance.

    Each threshold lies in the middle of the widest gap near its quantile, so that rounding, which differs from runtime
    to runtime, moves no image.

    Args:
        logits: of validation images, float [exits, N, classes].
        labels: their classes, int [N].
        costs: of an image that leaves at each exit, what ran before included; rising. Of any kind: multiply-accumulates
            or milliseconds.
        limit: for the mean of the costs.

    Raises:
        ValueError: for arrays that do not fit together, logits that are not finite, and a limit below the cost of the
            first exit.
    """
    costs = _checked(logits, labels, costs, limit)
    grid = _Grid(logits, labels, np.asarray(costs, float), limit)
    _, best = max((grid.descend(start, together=1) for start in grid.starts()), key=lambda found: found[0])
    # At the limit one threshold can hardly be changed without another.
    _, best = grid.descend(best, together=min(2, len(best)))
    chosen = [float(candidates[place]) for candidates, place in zip(grid.candidates, best)]
    return Cascade((*chosen, ALWAYS), costs)


def _checked(logits: Any, labels: Any, costs: Any, limit: Any) -> tuple[float, ...]:
    if np.ndim(logits) != 3 or len(logits) < 2 or not np.size(logits):
        raise ValueError(f"logits have shape {np.shape(logits)}, which is not allowed: [exits >= 2, images, classes]")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not allowed: some are not finite")
    num_exits, num_images, num_classes = np.shape(logits)
    require_labels("labels", labels, num_images)
    require_label_range("validation", labels, num_classes)
    costs = plain(tuple(costs))
    if len(costs) != num_exits or not all(map(is_number, costs)) or costs[0] < 0 or not (np.diff(costs) > 0).all():
        raise ValueError(f"costs={shown(costs)} is not allowed: one for each of {num_exits} exits, rising")
    if not is_number(plain(limit)) or limit < costs[0]:
        refuse("limit", limit, f"at least {costs[0]:,}, the cost of an image that leaves at the first exit")
    return costs


def _cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of the logits [N, classes] of one exit, [N], in whole millionths: sums of those are exact in any order."""
    below = np.asarray(logits, np.float64) - logits.max(-1, keepdims=True)
    return np.round(1e6 * (np.log(np.exp(below).sum(-1)) - below[np.arange(len(labels)), labels]))


def _are_right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each exit finds the class of each image, bool [exits, N]; of equal logits the first class counts."""
    return np.asarray(logits).argmax(-1) == labels


def _mean_cost(counts: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The mean cost, [...], where so many images leave at each exit, [..., exits]."""
    return (counts * costs).sum(-1) / counts.sum(-1)


class _Grid:
    """The thresholds that are tried, and the search among them. A *state* is a candidate's place for each exit."""

    def __init__(self, logits: np.ndarray, labels: np.ndarray, costs: np.ndarray, limit: float):
        num_exits, num_images = logits.shape[:2]
        self._costs, self._limit = costs, limit
        self._confidences = [confidences(each) for each in logits[:-1]]
        self.candidates = [_candidates(each) for each in self._confidences]
        # In which order an exit lets images go as its threshold falls, and how many each candidate lets go.
        self._order = [np.argsort(-each, kind="stable") for each in self._confidences]
        self._numbers = [(each >= c[:, None]).sum(1) for each, c in zip(self._confidences, self.candidates)]
        # What is added up, of each image at each exit, [sums, exits, N]: right answers, losses, and where it leaves.
        losses = np.stack([_cross_entropies(each, labels) for each in logits])
        places = np.broadcast_to(np.eye(num_exits)[:, :, None], (num_exits, num_exits, num_images))
        self._values = np.concatenate([_are_right(logits, labels)[None], losses[None], places])

    def starts(self) -> Iterator[tuple[int, ...]]:
        """States that meet the limit."""
        _, num_exits, num_images = self._values.shape
        # All at one exit; the first of them meets every limit that was let through.
        yield from self._within(np.eye(num_exits) * num_images)
        shares = _RATIOS[:, None] ** np.arange(num_exits)
        yield from self._within(num_images * shares / shares.sum(1, keepdims=True))

    def _within(self, wanted: np.ndarray) -> Iterator[tuple[int, ...]]:
        """For each row of wanted numbers of leaving images the state that comes closest, if it meets the limit."""
        _, num_exits, num_images = self._values.shape
        for numbers in wanted:
            remaining, state, counts = np.ones(num_images), list[int](), np.zeros(num_exits)
            for exit in range(num_exits - 1):
                found = self._up_to(exit, remaining[None])[0]
                state.append(int(np.abs(found - numbers[exit]).argmin()))
                counts[exit] = found[state[-1]]
                remaining = remaining * ~self._lets_go(exit, state)
            counts[-1] = remaining.sum()
            if _mean_cost(counts, self._costs) <= self._limit:
                yield tuple(state)

    def _lets_go(self, exit: int, state: Sequence[int]) -> np.ndarray:
        """The images that leave at an exit if they reach it, bool [N]."""
        return self._confidences[exit] >= self.candidates[exit][state[exit]]

    def _up_to(self, exit: int, values: np.ndarray) -> np.ndarray:
        """Sums of values [sums, N] over the images that each candidate of an exit lets go, [sums, candidates]."""
        sums = np.cumsum(values[:, self._order[exit]], axis=1)
        return np.concatenate([np.zeros((len(values), 1)), sums], axis=1)[:, self._numbers[exit]]

    def descend(self, state: tuple[int, ...], together: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Changes the thresholds of one exit, or of so many together, as long as that is better.

        Returns:
            How good the result is, larger being better, and the result.
        """
        best: tuple[float, ...] = ()
        while True:
            before = best
            for *others, exit in itertools.combinations(range(len(state)), together):
                for places in itertools.product(*(range(len(self.candidates[other])) for other in others)):
                    changed = list(state)
                    for other, place in zip(others, places):
                        changed[other] = place
                    found, changed[exit] = self._best_of_candidates(changed, exit)
                    if found > best:
                        best, state = found, tuple(changed)
            if best == before:
                return best, state

    def _best_of_candidates(self, state: Sequence[int], exit: int) -> tuple[tuple[float, ...], int]:
        """How good the best candidate of one exit is, and its place, the other exits being as they are."""
        right, loss, cost = self._of_candidates(state, exit)
        allowed = cost <= self._limit
        # Of those within the limit the most right answers, then the least loss, the least cost, the first.
        place = int(np.lexsort((cost, loss, -right, ~allowed))[0])
        # Nothing is worse than what is not allowed.
        return (float(allowed[place]), float(right[place]), -float(loss[place]), -float(cost[place])), place

    def _of_candidates(self, state: Sequence[int], exit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Right answers, losses and mean costs with each candidate of one exit, the other exits as they are."""
        _, num_exits, num_images = self._values.shape
        # Where images leave if this exit keeps all of them.
        last = np.full(num_images, num_exits - 1)
        for other in reversed(range(num_exits - 1)):
            if other != exit:
                last = np.where(self._lets_go(other, state), other, last)
        there = self._values[:, last, np.arange(num_images)]
        # What changes where an image leaves here instead.
        change = (self._values[:, exit] - there) * (last > exit)
        right, loss, *counts = there.sum(1)[:, None] + self._up_to(exit, change)
        return right, loss, _mean_cost(np.stack(counts, -1), self._costs)


def _candidates(probabilities: np.ndarray) -> np.ndarray:
    """Thresholds to try for an exit with these probabilities, rising."""
    ordered = np.sort(probabilities)
    odds = np.log(ordered) - np.log(np.maximum(1 - ordered, np.finfo(float).eps / 2))
    gaps = np.diff(odds)
    found = [ALWAYS]
    # As log odds, because the logits' rounding is about the same everywhere there.
    for near in np.array_split(np.arange(len(gaps)), _QUANTILES):
        if len(near) and gaps[place := near[gaps[near].argmax()]] > 0:
            middle = 1 / (1 + np.exp(-(odds[place] + odds[place + 1]) / 2))
            # Close to 1 numbers are too coarse for a middle.
            found.append(middle if middle > ordered[place] else ordered[place + 1])
    return np.array([*found, NEVER])
