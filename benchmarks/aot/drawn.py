"""How often a program does what it may skip: this follows from the subnets that are drawn."""

import dataclasses
import re
from collections.abc import Mapping

from benchmarks.aot.lowering import Setting
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax.model.network import LEVELS_PER_STAGE, NUM_STAGES
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.settings.phases import Phase, paper_phases, unlocked_values

_CONDITION = re.compile(r"(?:^|/)(if_\w+)/cond$")
_LOOP = re.compile(r"(?:^|/)each_subnet/while$")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The subnets that one run of a program computes.

    Attributes:
        num_subnets: how many; TPUs and CPUs compute them in a loop, one after another. None: not known.
        probabilities: for the name of each condition that may be in the program the share of subnets for which it
            holds; of the condition on a level it is the mean over the levels of the loop.
    """

    num_subnets: int | None = None
    probabilities: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def largest(self) -> "Drawn":
        """An upper bound: as many subnets, for each of which everything holds that may hold, even of several exits."""
        return Drawn(self.num_subnets, {name: float(share > 0) for name, share in self.probabilities.items()})

    def probability(self, op_name: str) -> float | None:
        """How often the condition of a conditional with this name holds; None if that is not known."""
        condition = _CONDITION.search(op_name)
        return self.probabilities.get(condition.group(1)) if condition else None

    def trip_count(self, op_name: str) -> int | None:
        """How often the body of a loop with this name runs if the loop is the one over subnets; else None."""
        return self.num_subnets if _LOOP.search(op_name) else None


def from_space(space: SearchSpace, num_subnets: int) -> Drawn:
    """Subnets of which every choice is drawn uniformly and by itself."""

    def share(holds):
        return sum(map(holds, space.height)) / len(space.height)

    # The loop is over the levels that a subnet can lack, all but the first one; with depth d it contains d - 1 of them.
    of_levels = [(depth - 1) / (LEVELS_PER_STAGE - 1) for depth in space.depth]
    stages = range(1, NUM_STAGES + 1)
    probabilities = {
        "if_level_is_active": sum(of_levels) / len(of_levels),
        **{f"if_stage_{stage}_is_reached": share(lambda height, s=stage: height >= s) for stage in stages},
        **{f"if_exit_{stage}_is_own": share(lambda height, s=stage: height == s) for stage in stages},
    }
    return Drawn(num_subnets, probabilities)


def in_phase(network: str, phases: tuple[Phase, ...], index: int) -> Drawn:
    """The subnets of a step in one of the phases of a run."""
    # Phase full trains the maximal network by itself, which is all that is unlocked then.
    space = SearchSpace(SuperNet(network)).restrict(**unlocked_values(phases, index))
    return from_space(space, max(phases[index].num_subnets, 1))


def in_program(setting: Setting, phase: str) -> Drawn:
    """The subnets that one of `lowering.PHASES` computes.

    Those of a test are the uniform subnets, a few at a time: over all of them, each depth is equally frequent.
    """
    if phase not in NUM_SUBNETS:
        return from_space(SearchSpace(SuperNet(setting.network)), setting.evaluation.subnets_per_pass)
    phases = paper_phases(setting.network)
    (index,) = (i for i, each in enumerate(phases) if each.name.replace("-", "") == phase)
    return in_phase(setting.network, phases, index)
