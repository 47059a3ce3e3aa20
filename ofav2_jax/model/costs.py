"""`Costs`: parameters and multiply-accumulates of thousands of subnets at a time, from tables of their levels."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import shown
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.cost import Cost, exit_cost, level_cost, out_size, stem_cost
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES, STAGES
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import LevelChoice, Subnet
from ofav2_jax.model.supernet import SuperNet

_OF_LEVELS = ("kernel", "expand", "level")


class Costs:
    """Counts for many subnets of one supernet what `count` counts for one.

    The cost of a level depends on its own choices only, so that a sum over a table of all of them suffices.

    Args:
        net: the supernet.
    """

    def __init__(self, net: SuperNet):
        self._net = net

    def __call__(
        self,
        choices: Choices | Sequence[Subnet],
        resolution: int | np.ndarray,
        exits: Sequence[int] | np.ndarray | None = None,
    ) -> Cost:
        """Counts parameters and multiply-accumulates.

        Args:
            choices: N subnets.
            resolution: height and width of the images in pixels: one for all subnets, or int [N].
            exits: the exits that are used, stages of 1..5: the same ones for all subnets, or bool [N, 5]. None: each
                subnet's height.

        Returns:
            int64 [N] each.

        Raises:
            ValueError: for subnets that the network does not hold, and exits that it does not have or that lie above a
                subnet's height.
        """
        if not isinstance(choices, Choices):
            choices = Choices.stack(list(choices))
        values = {name: np.asarray(getattr(choices, name)) for name in CHOICES}
        self._check(values)
        resolutions = np.broadcast_to(np.asarray(resolution), values["height"].shape)
        if not np.issubdtype(resolutions.dtype, np.integer) or (resolutions < 1).any():
            raise ValueError(f"resolution={shown(resolution)} is not allowed: it must be positive ints")
        used = self._exits(exits, values["height"])
        stages, levels = np.divmod(np.arange(NUM_LEVELS), LEVELS_PER_STAGE)
        active = (levels < values["depth"][:, stages]) & (stages < values["height"][:, None])
        index = [np.arange(NUM_LEVELS), *(_places(name, values[name]) for name in _OF_LEVELS)]
        params, macs = (np.zeros(len(resolutions), np.int64) for _ in range(2))
        for size in np.unique(resolutions):
            (rows,) = np.nonzero(resolutions == size)
            stem, of_levels, of_exits = _table(self._net, int(size))
            at_rows = tuple(each if each.ndim == 1 else each[rows] for each in index)
            # [rows, params and macs]
            total = stem + (of_levels[at_rows] * active[rows, :, None]).sum(1) + used[rows] @ of_exits
            params[rows], macs[rows] = total.T
        return Cost(params, macs)  # type: ignore[arg-type]

    def _check(self, values: dict[str, np.ndarray]) -> None:
        space = SearchSpace(self._net)
        for name, of_subnets in values.items():
            allowed = getattr(space, name)
            outside = ~np.isin(of_subnets, allowed)
            if outside.any():
                raise ValueError(f"{name}={of_subnets[outside][0]} is outside the space: choose from {allowed}")

    def _exits(self, exits: Any, height: np.ndarray) -> np.ndarray:
        stages = np.arange(1, NUM_STAGES + 1)
        if exits is None:
            return height[:, None] == stages
        given = np.asarray(exits)
        mask = given if given.dtype == bool and given.ndim == 2 else np.isin(stages, given)[None]
        used = np.broadcast_to(mask, (len(height), NUM_STAGES))
        has_exit = np.isin(stages - 1, list(self._net.exit_stages))
        unknown = given.dtype != bool and not np.isin(given, stages).all()
        if unknown or (used & ~has_exit).any() or (used & (stages > height[:, None])).any():
            raise ValueError(
                f"exits={shown(exits)} is not allowed: {self._net.network} has exits after the stages "
                f"{[stage + 1 for stage in self._net.exit_stages]}, and a subnet has none above its height"
            )
        return used


def _places(name: str, values: np.ndarray) -> np.ndarray:
    """The places of values among those of `Choice.values`."""
    descending = np.array(CHOICES[name].values)
    order = np.argsort(descending)
    return order[np.searchsorted(descending, values, sorter=order)]


@functools.cache
def _table(net: SuperNet, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs [2] of the stem, [20, kernels, expands, levels, 2] of the levels, and [5, 2] of the exits."""
    size = out_size(resolution, 2)
    stem = stem_cost(net, size)
    choices = [CHOICES[name].values for name in _OF_LEVELS]
    levels = np.zeros((NUM_LEVELS, *map(len, choices), 2), np.int64)
    exits = np.zeros((NUM_STAGES, 2), np.int64)
    for stage in range(NUM_STAGES):
        for level in range(LEVELS_PER_STAGE):
            smaller = size if level else out_size(size, STAGES[stage].stride)
            for place in itertools.product(*(range(len(values)) for values in choices)):
                choice = LevelChoice(*(values[i] for values, i in zip(choices, place)))
                cost = level_cost(net, choice, stage, level, size, smaller)
                levels[(stage * LEVELS_PER_STAGE + level, *place)] = cost.params, cost.macs
            size = smaller
        if stage in net.exit_stages:
            cost = exit_cost(net, stage, size)
            exits[stage] = cost.params, cost.macs
    return np.array([stem.params, stem.macs]), levels, exits
