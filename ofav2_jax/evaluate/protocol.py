"""Which subnets are validated after an epoch and tested after a phase, see `Evaluation.protocol`."""

import dataclasses
import itertools

import numpy as np

from ofav2_jax.evaluate.evaluator import Evaluator, Score, uniform_scores
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.settings.authors import authors_choices, ends, thirds
from ofav2_jax.settings.phases import unlocked_values
from ofav2_jax.settings.settings import Settings

# Keeps the random numbers drawn here apart from those of all other uses of a run's seed.
_TAG = 0x7A11
# The authors' script validates at most so many subnets.
_MAX_VALIDATED = 32

# A subnet at a resolution in pixels.
Setting = tuple[int, Subnet]


def validated_subnets(settings: Settings, index: int, epoch: int, space: SearchSpace) -> list[Setting]:
    """The subnets whose mean top-1 on the validation split decides which epoch is the best one.

    Args:
        settings: the run's settings.
        index: the phase's index, from 0; in phase full there is the maximal network only.
        epoch: the epoch in the phase, from 0.
        space: the unlocked subnets.
    """
    phase, resolutions = settings.phases[index], settings.resolutions
    is_authors = settings.evaluation.protocol == "authors"
    if phase.is_full:
        return [(r, space.maximal()) for r in (thirds(resolutions) if is_authors else [max(resolutions)])]
    if not is_authors:
        corners = {space.maximal(), space.minimal()}
        subnets = [dataclasses.replace(s, height=h) for s in sorted(corners, key=str) for h in space.height]
        return [(max(resolutions), subnet) for subnet in dict.fromkeys(subnets)]
    # Both ends of every choice, but all kernels in phase kernel; of more than 32 others in each epoch.
    current = "kernel" if phase.unlocks == "kernel" else ""
    some = space.restrict(**authors_choices(unlocked_values(settings.phases, index), current))
    found = list(itertools.product(ends(resolutions), some.uniform_subnets()))
    if len(found) > _MAX_VALIDATED:
        rng = np.random.default_rng([settings.seed, index, epoch, _TAG])
        found = [found[i] for i in np.sort(rng.choice(len(found), _MAX_VALIDATED, replace=False))]
    return found


def validation_top1(
    evaluator: Evaluator, params: Params, settings: Settings, index: int, epoch: int, space: SearchSpace
) -> float:
    """Mean top-1 in % of `validated_subnets` on the validation split; in phase full that of the ensemble."""
    chosen = validated_subnets(settings, index, epoch, space)
    scores: list[Score] = []
    for resolution, group in itertools.groupby(chosen, lambda setting: setting[0]):
        subnets, is_full = [subnet for _, subnet in group], settings.phases[index].is_full
        scores += evaluator.score(params, subnets, resolution, "validation", ensemble=is_full)
    return float(np.mean([score.top1 for score in scores]))


def visited(settings: Settings, index: int, space: SearchSpace) -> tuple[SearchSpace, tuple[int, ...]]:
    """The space whose uniform subnets are tested after a phase, and the resolutions; see `phase_scores`."""
    if settings.evaluation.protocol != "authors":
        return space, settings.resolutions
    some = authors_choices(unlocked_values(settings.phases, index), settings.phases[index].unlocks)
    return space.restrict(**some), ends(settings.resolutions)


def phase_scores(
    evaluator: Evaluator, params: Params, settings: Settings, index: int, space: SearchSpace
) -> list[Score]:
    """The scores on the test split after a phase: of every uniform subnet, or of those that the authors visit.

    Args:
        evaluator: evaluates the subnets.
        params: the supernet's parameters, as a tree.
        settings: the run's settings.
        index: the phase's index, from 0; in phase full the ensemble of the exits is evaluated.
        space: the unlocked subnets.
    """
    some, resolutions = visited(settings, index, space)
    return uniform_scores(evaluator, params, some, resolutions, ensemble=settings.phases[index].is_full)
