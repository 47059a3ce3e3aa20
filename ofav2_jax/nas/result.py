"""What a search found: designs with costs and accuracies, as objects and as `front.json`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import is_number, refuse, require_among, require_text
from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import COSTS, Constraint
from ofav2_jax.nas.records import Record

FORMAT = "ofav2_jax.front/1"
FRONT = "front.json"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A top-1 accuracy.

    Attributes:
        top1: in %.
        images: the number of images.
    """

    top1: float
    images: int

    @property
    def error(self) -> float:
        """The standard error in points: how far the images at hand leave it open."""
        share = self.top1 / 100
        return 100 * math.sqrt(share * (1 - share) / self.images)


@dataclasses.dataclass(frozen=True)
class Found:
    """A design that was evaluated on the whole validation and test splits.

    Attributes:
        design: the design.
        costs: "macs" for one image, "params", and the predicted "latency" in ms if there is a table.
        validation, test: its accuracies.
        expected: the expected top-1 accuracy in %, by which it was chosen: see `front`.
    """

    design: Design
    costs: Mapping[str, float]
    validation: Accuracy
    test: Accuracy
    expected: float

    def as_json(self) -> dict[str, Any]:
        """The design's record, without what is the same for all designs of a search."""
        return {
            **self.design.as_json(),
            "text": str(self.design),
            "exit_weights": [1 / len(self.design.exits or ())] * len(self.design.exits or ()),
            "thresholds": None,
            "macs": int(self.costs["macs"]),
            "params": int(self.costs["params"]),
            "latency": {"predicted_ms": self.costs["latency"]} if "latency" in self.costs else None,
            "expected_top1": self.expected,
            "validation": dataclasses.asdict(self.validation),
            "test": dataclasses.asdict(self.test),
        }

    @classmethod
    def from_json(cls, record: Any) -> "Found":
        """Reads what `as_json` returns; further keys are passed over.

        Raises:
            ValueError: naming what is missing or not allowed.
        """
        design = Design.from_json(record)
        costs = {name: record.get(name) for name in ("macs", "params")}
        latency = record.get("latency")
        if latency is not None:
            costs["latency"] = latency.get("predicted_ms") if isinstance(latency, Mapping) else latency
        for name, value in costs.items():
            if not is_number(value):
                refuse(f"{name} of {design}", value, "a number")
        accuracies = {}
        for split in ("validation", "test"):
            of_split = record.get(split)
            if not isinstance(of_split, Mapping) or not all(is_number(of_split.get(n)) for n in ("top1", "images")):
                refuse(f"{split} of {design}", of_split, "an object with top1 and images")
            accuracies[split] = Accuracy(of_split["top1"], of_split["images"])
        # Older searches chose by what was measured.
        expected = record.get("expected_top1", accuracies["validation"].top1)
        if not is_number(expected):
            refuse(f"expected_top1 of {design}", expected, "a number")
        return cls(design, costs, **accuracies, expected=expected)


@dataclasses.dataclass(frozen=True)
class FoundLine:
    """One line of a search's table.

    Attributes:
        constraint: what `found` is the best design for; None: it is a point of the front.
        found: the design.
        uniform: the best uniform subnet that costs no more, chosen on validation images, too; None: there is none
            among the evaluated ones.
    """

    constraint: Constraint | None
    found: Found
    uniform: Found | None


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        directory: the search's directory.
        cost: what was minimised beside the error.
        lines: the best design for each constraint, then the front in ascending order of cost.
        archive: all evaluated trunks.
        quality: how well the predictor ranked them, see `quality.quality`.
    """

    directory: Path
    cost: str
    lines: tuple[FoundLine, ...]
    archive: tuple[Record, ...]
    quality: Mapping[str, Any]

    @property
    def front(self) -> list[Found]:
        """The designs of which more is expected than of every other one that costs less, in ascending order of cost."""
        return [line.found for line in self.lines if line.constraint is None]

    def best(self, constraint: Constraint | str) -> Found:
        """The design of which the most is expected among those that meet a constraint; see `best_of`."""
        return best_of([line.found for line in self.lines], self.cost, constraint)


def best_of(found: Sequence[Found], cost: str, constraint: Constraint | str) -> Found:
    """The design of which the most is expected among those that meet a constraint.

    Args:
        found: the designs of a search's table, in its order.
        cost: what the search minimised: of equally good designs the table has the one that has the least of it.
        constraint: what is to be met.

    Raises:
        ValueError: if none does, naming the least cost of them, or if that cost is not known.
    """
    limit = constraint if isinstance(constraint, Constraint) else Constraint.parse(constraint)
    if any(limit.cost not in each.costs for each in found):
        raise ValueError(f"constraint={str(limit)!r} is not allowed: the search knew no {limit.cost}")
    if not found:
        raise ValueError(f"constraint={str(limit)!r} is met by no design: the search found none")
    fitting = [each for each in found if each.costs[limit.cost] <= limit.limit]
    if not fitting:
        lowest = min(each.costs[limit.cost] for each in found)
        raise ValueError(
            f"constraint={str(limit)!r} is met by none of the {len(found)} designs that the search found, whose least "
            f"is {lowest:,.6g}; search with this constraint"
        )
    return max(fitting, key=lambda each: (each.expected, -each.costs[cost]))


def read_front(directory: Path) -> tuple[list[Found], dict[str, Any]]:
    """Reads the `front.json` of a search: its designs, and the whole content.

    Raises:
        ValueError: if the search is not finished, or the file cannot be read.
    """
    path = directory / FRONT
    if not directory.is_dir():
        others = sorted(each.name for each in directory.parent.glob("*") if each.is_dir())
        have = f"there are {', '.join(others)}" if others else "the run has none"
        raise ValueError(f"search={directory.name!r} is not allowed: there is no {directory}; {have}")
    if not path.is_file():
        raise ValueError(f"search={directory.name!r} is not finished: there is no {path}; start it again to go on")
    content = files.read_json(path, ("lines", "run", "cost"))
    try:
        require_among("cost", content["cost"], COSTS)
        require_text("run.phase", content["run"]["phase"])
        require_text("run.params_sha256", content["run"]["params_sha256"])
        found = [Found.from_json(line["design"]) for line in content["lines"]]
        for each in found:
            if content["cost"] not in each.costs:
                raise ValueError(f"{content['cost']} of {each.design} is missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {files.reason(error)}") from error
    return found, content
