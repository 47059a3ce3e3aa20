"""`Record`: what one evaluation of a trunk measured."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import is_number, refuse, require_positive
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.design import Design
from ofav2_jax.model.network import NUM_STAGES
from ofav2_jax.nas.genes import Designs


@dataclasses.dataclass(frozen=True)
class Record:
    """The scores of one trunk, of all its exit sets at once.

    Attributes:
        trunk: the trunk, up to its top.
        top1: for exit sets, stages in ascending order, the accuracy on some images in %.
        images: the number of those images.
        half_top1: the same on every other image, the first included; None: not measured.
        loss: mean cross-entropy of each single exit; None where it is not finite.

    Raises:
        ValueError: naming the field, the value and what is allowed.
    """

    trunk: Design
    top1: Mapping[tuple[int, ...], float]
    images: int
    half_top1: Mapping[tuple[int, ...], float] | None = None
    loss: tuple[float | None, ...] = ()

    def __post_init__(self):
        if not isinstance(self.trunk, Design):
            refuse("trunk", self.trunk, "a Design")
        require_positive("images", self.images)
        self._require_accuracies("top1", self.top1)
        if self.half_top1 is not None:
            self._require_accuracies("half_top1", self.half_top1)

    def _require_accuracies(self, field: str, accuracies: Any) -> None:
        if not isinstance(accuracies, Mapping) or not accuracies:
            refuse(field, accuracies, "a mapping from exit sets to accuracies")
        for exits, value in accuracies.items():
            if not isinstance(exits, tuple) or not exits or exits[-1] not in range(1, self.trunk.subnet.height + 1):
                refuse(field, exits, f"keys that are tuples of stages up to {self.trunk.subnet.height}")
            if not is_number(value) or not 0 <= value <= 100:
                refuse(f"{field} of the exits {exits}", value, "a number >= 0 and <= 100")

    def as_json(self) -> dict[str, Any]:
        """A record as a line of an archive; `from_json` is the inverse."""
        return {
            "trunk": trunk_text(self.trunk),
            "resolution": self.trunk.resolution,
            "images": self.images,
            "top1": _with_text_keys(self.top1),
            "half_top1": None if self.half_top1 is None else _with_text_keys(self.half_top1),
            "loss": list(self.loss),
        }

    @classmethod
    def from_json(cls, record: Any) -> "Record":
        """Reads what `as_json` returns; further keys are passed over.

        Raises:
            ValueError: naming what is missing or not allowed.
        """
        if not isinstance(record, Mapping):
            refuse("record", record, "a mapping")
        for name in ("trunk", "resolution", "images", "top1"):
            if name not in record:
                raise ValueError(f"{name!r} is missing")
        trunk = Design.parse(f"{record['trunk']}@{record['resolution']}")
        half = record.get("half_top1")
        return cls(
            trunk,
            _with_tuple_keys("top1", record["top1"]),
            record["images"],
            None if half is None else _with_tuple_keys("half_top1", half),
            tuple(record.get("loss", ())),
        )


def trunk_text(trunk: Design) -> str:
    """A design without its resolution."""
    return str(trunk).partition("@")[0]


def exits_text(exits: Sequence[int]) -> str:
    """A set of exits as a key of JSON: "1+4"."""
    return "+".join(map(str, exits))


def _with_text_keys(accuracies: Mapping[tuple[int, ...], float]) -> dict[str, float]:
    return {exits_text(exits): value for exits, value in accuracies.items()}


def _with_tuple_keys(field: str, accuracies: Any) -> dict[tuple[int, ...], float]:
    if not isinstance(accuracies, Mapping):
        refuse(field, accuracies, "a mapping from exit sets to accuracies")
    try:
        return {tuple(map(int, str(key).split("+"))): value for key, value in accuracies.items()}
    except ValueError:
        refuse(field, accuracies, "a mapping whose keys are exits, for instance '1+4'")


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


def designs_of(trunks: Sequence[Design], exit_sets: Sequence[tuple[int, ...]]) -> Designs:
    """Every trunk with every exit set, trunk by trunk: [trunks x exit sets]."""
    subnets = [trunk.subnet for trunk in trunks for _ in exit_sets]
    heights = np.tile([exits[-1] for exits in exit_sets], len(trunks)).astype(np.int32)
    masks = np.array([np.isin(np.arange(1, NUM_STAGES + 1), exits) for exits in exit_sets])
    choices = dataclasses.replace(Choices.stack(subnets), height=heights)
    resolution = np.repeat([trunk.resolution for trunk in trunks], len(exit_sets))
    return Designs(choices, resolution, np.tile(masks, (len(trunks), 1)))
