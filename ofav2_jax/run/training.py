"""What a run trains, and how it judges that: a supernet, phase by phase, or a design that is fine-tuned."""

import functools
from typing import Any, Protocol

import jax
import numpy as np

from ofav2_jax.evaluate.evaluator import summary
from ofav2_jax.evaluate.protocol import phase_scores, validation_top1
from ofav2_jax.model.packing import Params
from ofav2_jax.model.reached import keep_unreached
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.run import checkpoint
from ofav2_jax.run.assembly import Assembly, initial_params
from ofav2_jax.run.store import Store
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.authors import authors_summary
from ofav2_jax.settings.phases import unlocked_values


class Training(Protocol):
    """What a run trains; phases are named by their index, from 0."""

    @property
    def start_top1(self) -> float | None:
        """Validation top-1 in % before the first epoch, where that is a candidate for the best one; else None."""

    @property
    def single(self) -> Subnet:
        """What a phase that samples no subnets trains."""

    def initial_params(self) -> Params:
        """The parameters with which the run starts."""

    def space(self, index: int) -> SearchSpace:
        """The subnets among which a phase samples."""

    def teacher(self, index: int, store: Store) -> Params | None:
        """The parameters of a phase's teacher, on all devices; None: it has none."""

    def validate(self, index: int, epoch: int, params: Params) -> float:
        """Top-1 in % on the validation split after an epoch, by which a phase chooses its best one."""

    def ended(self, index: int, params: Params, store: Store) -> Params:
        """The parameters that a phase hands on, from those after its best epoch."""

    def test(self, index: int, params: Params, best_epoch: int) -> dict[str, Any]:
        """Evaluates on the test split what a phase ended with; the content of the phase's `result.json`."""


class SupernetTraining:
    """Extended Progressive Shrinking."""

    start_top1 = None

    def __init__(self, parts: Assembly):
        self._parts = parts
        self.single = parts.space.maximal()

    def initial_params(self) -> Params:
        """Random ones."""
        return initial_params(self._parts.net, self._parts.settings.seed)

    def space(self, index: int) -> SearchSpace:
        """See `Training`."""
        return self._parts.space.restrict(**unlocked_values(self._parts.settings.phases, index))

    def teacher(self, index: int, store: Store) -> Params | None:
        """The maximal network of the phase before, or of phase full; none in phase full itself."""
        if index == 0:
            return None
        source = index - 1 if self._parts.settings.teacher == "progressive" else 0
        shapes = variable_shapes(self._parts.net)["params"]
        return replicate(store.teacher(index, source, shapes), self._parts.devices)

    def validate(self, index: int, epoch: int, params: Params) -> float:
        """See `validation_top1`."""
        settings, space = self._parts.settings, self.space(index)
        return validation_top1(self._parts.evaluator, params, settings, index, epoch, space)

    def ended(self, index: int, params: Params, store: Store) -> Params:
        """Without weight decay of what the phase did not reach, if the recipe says so."""
        if self._parts.settings.recipe.decay_unreached:
            return params
        # Their gradients are zero, so that weight decay alone has changed them.
        start = store.params(index - 1, variable_shapes(self._parts.net)["params"]) if index else self.initial_params()
        is_full = self._parts.settings.phases[index].is_full
        return keep_unreached(params, replicate(start, self._parts.devices), self.space(index), all_exits=is_full)

    def test(self, index: int, params: Params, best_epoch: int) -> dict[str, Any]:
        """The scores of `phase_scores`."""
        settings = self._parts.settings
        scores = phase_scores(self._parts.evaluator, params, settings, index, self.space(index))
        rows = [score.as_json() for score in scores]
        pairs = summary(scores) | authors_summary(rows, settings.phases, index)
        return {"name": settings.phases[index].name, **pairs, "subnets": rows}


class DesignTraining:
    """The fine-tuning of a design.

    Args:
        parts: the objects of the run.
        start: the supernet's parameters, with which the design starts, and whose maximal network is its teacher.

    Raises:
        ValueError: if these are not the parameters that the run's settings name.
    """

    def __init__(self, parts: Assembly, start: Params):
        assert parts.design is not None
        self._parts = parts
        self._design = parts.design
        self.single = parts.design.subnet
        self._phase = parts.settings.phases[0]
        self._start = jax.tree.map(np.asarray, start)
        found = checkpoint.digest(self._start)
        if found != self._phase.start:
            raise ValueError(f"start has the SHA-256 {found}, but the settings are about {self._phase.start}")

    @functools.cached_property
    def start_top1(self) -> float:
        """See `Training`."""
        return self.validate(0, 0, self._start)

    def initial_params(self) -> Params:
        """The supernet's."""
        return self._start

    def space(self, index: int) -> SearchSpace:
        """The subnets of the whole supernet, of which the design alone is trained."""
        return self._parts.space

    def teacher(self, index: int, store: Store) -> Params | None:
        """The supernet as it was."""
        return replicate(self._start, self._parts.devices)

    def validate(self, index: int, epoch: int, params: Params) -> float:
        """That of the design."""
        return self._parts.design_evaluator.score(params, "validation").top1

    def ended(self, index: int, params: Params, store: Store) -> Params:
        """Those after the best epoch: AdamW has left what the design does not use as it was."""
        return params

    def test(self, index: int, params: Params, best_epoch: int) -> dict[str, Any]:
        """The design before and after; with the number of the best epoch, 0 if none was better than the start."""
        top1 = {}
        for split in ("validation", "test"):
            before, after = (self._parts.design_evaluator.score(each, split) for each in (self._start, params))
            images = len(self._parts.dataset.splits[split])
            top1[split] = {"before": before.top1, "after": after.top1, "images": images}
        row = {**after.as_json(), "exits": list(self._design.exits or ())}
        return {
            "name": self._phase.name,
            **summary([after]),
            "subnets": [row],
            "design": str(self._design),
            "best_epoch": best_epoch,
            "top1": top1,
        }


def training_of(parts: Assembly, start: Params | None) -> Training:
    """What the settings of a run are about.

    Args:
        parts: the objects of the run.
        start: the supernet's parameters; they must be there if a design is fine-tuned, and only then.
    """
    if parts.design is None:
        if start is not None:
            raise ValueError("start is given, which is not allowed where no design is fine-tuned")
        return SupernetTraining(parts)
    if start is None:
        raise ValueError(f"start is missing: the parameters with which the fine-tuning of {parts.design} starts")
    return DesignTraining(parts, start)
