"""`Outcome`: from places in an archive to what a search returns and writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import DesignCosts
from ofav2_jax.nas.front import Chosen, Line
from ofav2_jax.nas.records import Record
from ofav2_jax.nas.result import FORMAT, Accuracy, Found, FoundLine, SearchResult
from ofav2_jax.run.search.directory import SearchDirectory
from ofav2_jax.run.search.quality import means, quality
from ofav2_jax.run.search.source import Source


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Puts together what a search found.

    Attributes:
        source: what was searched.
        costs: what designs cost.
        directory: the search's files.
        identity: the content of its `settings.json`.
        question: cost, constraints and latency table.
    """

    source: Source
    costs: DesignCosts
    directory: SearchDirectory
    identity: Mapping[str, Any]
    question: Mapping[str, Any]

    def of(
        self,
        chosen: Chosen,
        lines: Sequence[Line],
        scores: tuple[Mapping[Design, Record], Mapping[Design, Record]],
        archive: Chosen,
    ) -> tuple[SearchResult, dict[str, Any]]:
        """The result, and the content of `front.json`.

        Args:
            chosen: the designs that `lines` are about.
            lines: the lines of the table.
            scores: those of their trunks on the whole validation and test splits.
            archive: everything that was measured.
        """

        def found(place: int) -> Found:
            design, trunk = chosen.design(place), chosen.trunk(place)
            costs = {name: float(self.costs(name, chosen.at(place))[0]) for name in self.costs.names}
            assert design.exits is not None
            validation, test = (Accuracy(each[trunk].top1[design.exits], each[trunk].images) for each in scores)
            return Found(design, costs, validation, test, float(chosen.expected[place]))

        found_lines = tuple(
            FoundLine(line.constraint, found(line.place), None if line.uniform is None else found(line.uniform))
            for line in lines
        )
        records = tuple(self.directory.records)
        of_predictor = quality(self.directory.rounds, records, self.costs)
        of_predictor["mean"] = means(of_predictor)
        result = SearchResult(self.directory.path, str(self.question["cost"]), found_lines, records, of_predictor)
        return result, self._content(result, archive)

    def _content(self, result: SearchResult, archive: Chosen) -> dict[str, Any]:
        identity = self.identity
        common = {name: identity[name] for name in ("network", "width_multiplier", "exit_widths", "num_classes")}
        common |= {"run": identity["run"], "recalibration": identity["recalibration"]}

        def record(found: Found | None) -> dict[str, Any] | None:
            if found is None:
                return None
            values = {**found.as_json(), **common}
            if values["latency"] is not None:
                values["latency"]["table"] = self.question["table"]
            return values

        lines = [
            {
                "constraint": None if line.constraint is None else str(line.constraint),
                "design": record(line.found),
                "uniform": record(line.uniform),
            }
            for line in result.lines
        ]
        return {
            "format": FORMAT,
            **common,
            "exits": identity["exits"],
            "seed": identity["seed"],
            **self.question,
            "evaluated": len(result.archive),
            "images": identity["images"],
            "lines": lines,
            "quality": result.quality,
            "archive": self._points(archive),
        }

    def _points(self, archive: Chosen) -> list[list[float]]:
        """Cost, accuracy and round of every measured design of one exit."""
        singles = np.flatnonzero([len(exits) == 1 for exits in archive.exit_sets])
        number = len(archive.exit_sets)
        points = []
        for place in range(len(self.directory.records)):
            for single in singles:
                at = place * number + single
                points.append([float(archive.cost[at]), float(archive.top1[at]), self.directory.round_of(place)])
        return points
