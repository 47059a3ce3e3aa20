"""`Search`: evaluates trunks round by round until its budget is spent, then the front on the whole splits."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import require_package
from ofav2_jax.evaluate.exits import ExitScores
from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import DesignCosts, LatencyTable, require_possible, table_digest
from ofav2_jax.nas.front import MAX_FRONT, Chosen, Line
from ofav2_jax.nas.genes import Genes
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.progress import Remaining, SearchPlan, SearchProgress, SearchReporter, SilentSearch
from ofav2_jax.nas.propose import ROUND, Proposer
from ofav2_jax.nas.records import Record, designs_of
from ofav2_jax.nas.result import FRONT, SearchResult
from ofav2_jax.nas.settings import SearchSettings
from ofav2_jax.run.run import StoppedError
from ofav2_jax.run.search.directory import FORMAT, Round, SearchDirectory
from ofav2_jax.run.search.outcome import Outcome
from ofav2_jax.run.search.source import Source


class Search:
    """A search in a directory. What was evaluated there before, by a search with the same settings, is not repeated.

    Args:
        source: what is searched.
        settings: what is to be found.
        directory: where the search is kept; made by `run`.
        table: predicts latencies.
        reporter: receives the progress.

    Attributes:
        plan: what will be done.

    Raises:
        ValueError: for settings that the supernet or the directory do not allow; nothing is written then.
        ImportError: without the extra `search`.
    """

    def __init__(
        self,
        source: Source,
        settings: SearchSettings,
        directory: Path,
        table: LatencyTable | None = None,
        reporter: SearchReporter | None = None,
    ):
        require_package("sklearn", "search", "scikit-learn")
        self._source, self._settings = source, settings
        self._reporter: SearchReporter = SilentSearch() if reporter is None else reporter
        self._genes = Genes(source.net, source.settings.resolutions, settings.exits, source.space)
        if not any(len(values) > 1 for values in self._genes.values[:-2]):
            raise ValueError(f"phase={source.about['phase']!r} leaves nothing to search: no choice is elastic by then")
        self._costs = DesignCosts(source.net, table)
        settings.require_costs(self._costs.names)
        for constraint in settings.constraints:
            require_possible(constraint, self._costs, self._genes)
        self._proposer = Proposer(self._genes, settings.cost, settings.constraints, self._costs)
        self._images = source.images(settings.images)
        self._question = {
            "cost": settings.cost,
            "constraints": list(map(str, settings.constraints)),
            "table": None if table is None else table_digest(table, self._genes),
        }
        self._identity = {
            "format": FORMAT,
            **source.identity(),
            "exits": settings.exits,
            "images": len(self._images),
            "seed": settings.seed,
        }
        self._directory = SearchDirectory(directory)
        self._directory.check(self._identity)
        self._told_to_stop = False
        self.plan = self._make_plan()

    def _make_plan(self) -> SearchPlan:
        source, settings, directory = self._source, self._settings, self._directory
        begun = bool(directory.rounds)
        about = source.about
        return SearchPlan(
            directory=directory.path,
            name=f"{about['name']}, phase {about['phase']}" if about["name"] else "",
            network=source.net.network,
            num_genes=self._genes.num_elastic,
            num_exit_sets=len(self._genes.exit_sets),
            resolutions=self._genes.resolutions,
            cost=settings.cost,
            constraints=tuple(map(str, settings.constraints)),
            budget=settings.budget,
            evaluated=len(directory.records),
            num_start=len(
                directory.rounds[0].trunks if begun else self._proposer.start(settings.budget, settings.seed)
            ),
            round_size=ROUND,
            images=len(self._images),
            validation_images=len(source.dataset.splits["validation"]),
            test_images=len(source.dataset.splits["test"]),
            recalibration_images=source.recalibration["images"],
            max_final=2 * (MAX_FRONT + len(settings.constraints)),
        )

    # --- stopping ----------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Makes `run` stop after the pass at hand."""
        self._told_to_stop = True

    @property
    def latest_checkpoint(self) -> str | None:
        """What a search that is started again goes on from."""
        number = len(self._directory.records)
        return f"{self._directory.path}, {number} trunks evaluated" if self._directory.rounds else None

    # --- the search --------------------------------------------------------------------------------------------------

    def run(self) -> SearchResult:
        """Searches, or goes on; at the end `front.json` is written.

        Raises:
            StoppedError: after `request_stop`.
            ValueError: if the directory is in use, or became another search's.
        """
        self._reporter.planned(self.plan)
        self._directory.claim(self._identity)
        try:
            self._remaining = Remaining(self._work_left())
            self._evaluate_pending()
            while len(self._directory.records) < self._settings.budget and self._propose():
                self._evaluate_pending()
            return self._finish()
        finally:
            self._directory.release()

    def _work_left(self) -> float:
        """In images through the network; about half of the trunks that may be scored in the end are."""
        plan = self.plan
        per_trunk, recalibration = plan.images + plan.recalibration_images, plan.recalibration_images
        final = recalibration + plan.test_images
        if plan.images < plan.validation_images:
            final += recalibration + plan.validation_images
        left = max(0, plan.budget - len(self._directory.records))
        return left * per_trunk + plan.max_final / 2 * final

    def _propose(self) -> bool:
        """Writes the next round; returns whether there is one: a small space may be exhausted."""
        directory, settings = self._directory, self._settings
        number = len(directory.rounds)
        if number == 0:
            predictor, trunks = None, self._proposer.start(settings.budget, settings.seed)
        else:
            wanted = min(ROUND, settings.budget - len(directory.records))
            predictor = self._proposer.fit(directory.records)
            trunks = self._proposer.propose(directory.records, number, settings.seed, wanted, predictor)
        if not trunks:
            return False
        trunks = sorted(trunks, key=lambda trunk: trunk.resolution)
        if predictor is None:
            directory.add_round(Round(tuple(trunks), self._question))
        else:
            sets = tuple(self._genes.exit_sets)
            mean = predictor.predict(designs_of(trunks, sets))[0].reshape(len(trunks), -1)
            # More digits would say nothing.
            predicted = tuple(tuple(round(float(value), 4) for value in row) for row in mean)
            directory.add_round(Round(tuple(trunks), self._question, sets, predicted))
        return True

    def _evaluate_pending(self) -> None:
        """Evaluates what was proposed, up to the budget, in the passes of an uninterrupted search."""
        records, place = self._directory.records, 0
        for number, each in enumerate(self._directory.rounds):
            first = place
            for group in self._passes(each.trunks):
                place += len(group)
                if len(records) < min(place, self._settings.budget):
                    found = self._score(group, self._images)
                    # Of a pass that was interrupted, some trunks are in the archive.
                    for record in found[len(records) - place :]:
                        if len(records) < self._settings.budget:
                            self._directory.add_record(record)
                    self._report(
                        f"round {number}" if number else "start", place - first, len(each.trunks), records[first:]
                    )

    def _finish(self) -> SearchResult:
        """The front of the archive, once more on all validation images, what is left of it then on the test images."""
        records = self._directory.records
        predictor = self._fit(records)
        archive = again = self._chosen(records, predictor)
        # The same images in another order need not be looked at again.
        is_whole = len(self._images) == self.plan.validation_images
        validated = {record.trunk: record for record in records}
        lines = archive.lines()
        if lines:
            places, sets = _places(lines), len(archive.exit_sets)
            trunks = list(dict.fromkeys(archive.trunk(place) for place in places))
            if not is_whole:
                validated = self._final("validation", trunks)
                predictor = self._fit([validated.get(record.trunk, record) for record in records])
            again = self._chosen([validated[trunk] for trunk in trunks], predictor)
            among = [trunks.index(archive.trunk(place)) * sets + place % sets for place in places]
            lines = again.lines(among)
        tested = self._final("test", list(dict.fromkeys(again.trunk(place) for place in _places(lines))))
        outcome = Outcome(self._source, self._costs, self._directory, self._identity, self._question)
        result, content = outcome.of(again, lines, (validated, tested), archive)
        files.write_json(self._directory.path / FRONT, content)
        return result

    def _fit(self, records: Sequence[Record]) -> Predictor | None:
        """What is expected of designs follows from it; a single record says nothing of others."""
        return self._proposer.fit(records) if len(records) > 1 else None

    def _chosen(self, records: Sequence[Record], predictor: Predictor | None) -> Chosen:
        settings = self._settings
        return Chosen(self._genes, self._costs, settings.cost, settings.constraints, records, predictor)

    def _final(self, split: str, trunks: Sequence[Design]) -> dict[Design, Record]:
        """The scores of trunks on a whole split, each evaluated once in the life of a search."""
        final, done = self._directory.final, 0
        left = sum((split, trunk) not in final for trunk in trunks)
        self._remaining.work = left * (self.plan.recalibration_images + len(self._source.dataset.splits[split]))
        for group in self._passes(sorted(trunks, key=lambda trunk: trunk.resolution)):
            done += len(group)
            if any((split, trunk) not in final for trunk in group):
                for record in self._score(group, split):
                    if (split, record.trunk) not in final:
                        self._directory.add_final(split, record)
                self._report(split, done, len(trunks), [final[split, trunk] for trunk in group])
        return {trunk: final[split, trunk] for trunk in trunks}

    def _passes(self, trunks: Sequence[Design]) -> Iterator[list[Design]]:
        """Groups of trunks of one resolution, of which as many as one pass takes."""
        size = self._source.settings.evaluation.subnets_per_pass
        for _, same in itertools.groupby(trunks, key=lambda trunk: trunk.resolution):
            trunks_there = list(same)
            yield from (trunks_there[i : i + size] for i in range(0, len(trunks_there), size))

    def _score(self, group: Sequence[Design], images: str | np.ndarray) -> list[Record]:
        if self._told_to_stop:
            raise StoppedError
        subnets, resolution = [trunk.subnet for trunk in group], group[0].resolution
        scores = self._source.evaluator.score_exits(self._source.params, subnets, resolution, images)
        work = len(group) * (scores.images + self.plan.recalibration_images)
        self._remaining_s = self._remaining.add(work, self._source.evaluator.seconds_compiling)
        return [_record(trunk, scores, place) for place, trunk in enumerate(group)]

    def _report(self, stage: str, done: int, total: int, records: Sequence[Record]) -> None:
        best = max(max(record.top1[exits] for exits in self._genes.exit_sets) for record in records)
        self._reporter.evaluated(SearchProgress(stage, done, total, best, self._remaining_s))


def _places(lines: Sequence[Line]) -> list[int]:
    """The places of all designs that a table shows."""
    return sorted({place for line in lines for place in (line.place, line.uniform) if place is not None})


def _record(trunk: Design, scores: ExitScores, place: int) -> Record:
    """What was measured of one of several trunks, with all sets of exits up to its top."""
    kept = [i for i, exits in enumerate(scores.exit_sets) if exits[-1] <= trunk.subnet.height]

    def percent(correct: np.ndarray, images: int) -> dict[tuple[int, ...], float]:
        return {scores.exit_sets[i]: 100 * int(correct[i, place]) / images for i in kept}

    loss = tuple(float(value) if math.isfinite(value) else None for value in scores.loss[:, place])
    half = percent(scores.halves[0], -(-scores.images // 2))
    return Record(trunk, percent(scores.correct, scores.images), scores.images, half, loss)
