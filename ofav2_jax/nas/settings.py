"""`SearchSettings`: what a search is to find, and with how much effort."""

import dataclasses
from collections.abc import Sequence

from ofav2_jax.checks import refuse, require_among, require_positive
from ofav2_jax.nas.costs import COSTS, Constraint
from ofav2_jax.nas.genes import EXITS


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search is to find, and with how much effort.

    Attributes:
        cost: what is minimised beside the error: "macs", "params" or "latency".
        constraints: what is allowed to cost how much, each a question by itself, for instance "macs<=3M".
        exits: "single": one exit each; "any": every set of exits, whose logits are averaged.
        budget: trunks to evaluate, those of earlier calls included.
        images: validation images to score a trunk with; all of them if there are fewer.
        seed: the trunks of the start and the proposals follow from it.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    cost: str = "macs"
    constraints: tuple[Constraint, ...] = ()
    exits: str = "single"
    budget: int = 200
    images: int = 5000
    seed: int = 0

    def __post_init__(self):
        require_among("cost", self.cost, COSTS)
        if isinstance(self.constraints, str) or not isinstance(self.constraints, Sequence):
            refuse("constraints", self.constraints, "a list, for instance ['macs<=3M', 'params<=500k']")
        parsed = [each if isinstance(each, Constraint) else Constraint.parse(each) for each in self.constraints]
        object.__setattr__(self, "constraints", tuple(dict.fromkeys(parsed)))
        require_among("exits", self.exits, EXITS)
        require_positive("budget", self.budget)
        require_positive("images", self.images)
        if type(self.seed) is not int or self.seed < 0:
            refuse("seed", self.seed, "an int >= 0")

    def require_costs(self, names: Sequence[str]) -> None:
        """Refuses costs that are not known.

        Raises:
            ValueError: naming the field.
        """
        for field, name in (("cost", self.cost), *(("constraint", str(each)) for each in self.constraints)):
            if name.partition("<=")[0] not in names:
                raise ValueError(f"{field}={name!r} is not allowed without a table of latencies, which `table` names")
