"""`Record`: what one evaluation of a trunk measured."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ofav2_jax.checks import is_number, refuse, require_positive
from ofav2_jax.model.design import Design


@dataclasses.dataclass(frozen=True)
class Record:
    """The scores of one trunk, of all its exit sets at once.

    Attributes:
        trunk: the trunk, up to its top.
        top1: for exit sets, stages in ascending order, the accuracy on the validation images in %.
        images: the number of those images.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    trunk: Design
    top1: Mapping[tuple[int, ...], float]
    images: int

    def __post_init__(self):
        if not isinstance(self.trunk, Design):
            refuse("trunk", self.trunk, "a Design")
        require_positive("images", self.images)
        if not isinstance(self.top1, Mapping) or not self.top1:
            refuse("top1", self.top1, "a mapping from exit sets to accuracies")
        for exits, value in self.top1.items():
            if not isinstance(exits, tuple) or not exits or exits[-1] not in range(1, self.trunk.subnet.height + 1):
                refuse("top1", exits, f"keys that are tuples of stages up to {self.trunk.subnet.height}")
            if not is_number(value) or not 0 <= value <= 100:
                refuse(f"top1 of the exits {exits}", value, "a number >= 0 and <= 100")


def top1_of(records: Sequence[Record], exit_sets: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The accuracies of exit sets in %, float64 [records, exit sets].

    Raises:
        ValueError: if a record lacks one of them.
    """
    for record in records:
        for exits in exit_sets:
            if exits not in record.top1:
                raise ValueError(f"the record of {record.trunk} has no top1 of the exits {exits}")
    return np.array([[record.top1[exits] for exits in exit_sets] for record in records], np.float64)
