"""What a search says before and while it evaluates, and the object that receives it."""

import dataclasses
import time
from pathlib import Path
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """What a search is going to do.

    Attributes:
        directory: where it is kept.
        name: the run, and the phase whose parameters are used; "" for a supernet without a run.
        network: the supernet.
        num_genes: how many choices a design makes.
        num_exit_sets: the sets of exits to choose from.
        resolutions: the resolutions to choose from, pixels.
        cost: what is minimised beside the error.
        constraints: what is allowed to cost how much.
        budget, evaluated: trunks to evaluate in all, and those that are evaluated already.
        num_start: trunks of the start, round 0.
        round_size: trunks of every further round.
        images, validation_images, test_images: images to score a trunk with, and those of the whole splits.
        recalibration_images: images that every evaluation is recalibrated with.
        max_final: how many trunks are scored on the whole splits in the end, at most.
    """

    directory: Path
    name: str
    network: str
    num_genes: int
    num_exit_sets: int
    resolutions: tuple[int, ...]
    cost: str
    constraints: tuple[str, ...]
    budget: int
    evaluated: int
    num_start: int
    round_size: int
    images: int
    validation_images: int
    test_images: int
    recalibration_images: int
    max_final: int


@dataclasses.dataclass(frozen=True)
class SearchProgress:
    """Where a search stands after a pass of a few trunks.

    Attributes:
        stage: "start", "round 3", "validation" or "test".
        done, total: trunks of this stage.
        best_top1: the best top-1 accuracy of this stage so far, in %.
        remaining_s: estimated time until the end of the search, seconds.
    """

    stage: str
    done: int
    total: int
    best_top1: float
    remaining_s: float


class SearchReporter(Protocol):
    """Receives a search's progress."""

    def planned(self, plan: SearchPlan) -> None:
        """Is called once, before anything is evaluated or written."""

    def evaluated(self, progress: SearchProgress) -> None:
        """Is called after each pass."""


class SilentSearch:
    """Prints nothing."""

    def planned(self, plan: SearchPlan) -> None:
        """See `SearchReporter`."""

    def evaluated(self, progress: SearchProgress) -> None:
        """See `SearchReporter`."""


class Remaining:
    """Estimates the time that is left, from the time that was taken; compiling does not count.

    Args:
        work: what is left to do, in images through the network.
    """

    def __init__(self, work: float):
        self.work = work
        self._done = self._compiled = 0.0
        self._started = time.monotonic()

    def add(self, done: float, compiled_s: float) -> float:
        """Notes what was done.

        Args:
            done: images through the network since the last call.
            compiled_s: seconds that were spent compiling, since the process began.

        Returns:
            Seconds that are left.
        """
        self._done, self._compiled = self._done + done, compiled_s
        self.work = max(0.0, self.work - done)
        return self.work * max(0.0, time.monotonic() - self._started - self._compiled) / self._done
