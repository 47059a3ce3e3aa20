"""Prints a search: its plan, its progress, and what it found."""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import Constraint, amount
from ofav2_jax.nas.progress import SearchPlan, SearchProgress
from ofav2_jax.nas.result import Accuracy, FoundLine, SearchResult

from .console import REWRITE, duration

_WANTED = {"macs": "few multiply-accumulates", "params": "few parameters", "latency": "few milliseconds"}


def plan_lines(plan: SearchPlan) -> list[str]:
    """What is going to be evaluated, before it is."""
    sets = f"{plan.num_exit_sets} sets of exits" if plan.num_exit_sets > 1 else "1 exit"
    limits = "".join(f", {constraint}" for constraint in plan.constraints)
    rounds = max(0, plan.budget - plan.num_start)
    further = f", then {rounds} in rounds of {plan.round_size}" if rounds else ""
    known = f"; {plan.evaluated} of them are evaluated already" if plan.evaluated else ""
    again = plan.validation_images if plan.images < plan.validation_images else 0
    splits = f"{again:,} validation and " if again else ""
    return [
        f"search       {plan.directory}",
        f"supernet     {plan.network}{f' of {plan.name}' if plan.name else ''}",
        f"space        {plan.num_genes} choices, {sets}, {', '.join(map(str, plan.resolutions))} pixels",
        f"wanted       high accuracy, {_WANTED[plan.cost]}{limits}",
        f"scores       top-1 of {plan.images:,} of {plan.validation_images:,} validation images, statistics of batch "
        f"norm from {plan.recalibration_images:,} training images",
        f"budget       {plan.budget:,} trunks: {plan.num_start} to start with{further}{known}",
        f"in the end   at most {plan.max_final} trunks on all {splits}{plan.test_images:,} test images",
    ]


class SearchConsole:
    """Prints progress: a line that is rewritten on a terminal, else one at the end of each round and now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._said_at = 0.0

    def planned(self, plan: SearchPlan) -> None:
        """See `SearchReporter`."""
        self._print("\n".join([*plan_lines(plan), ""]))

    def evaluated(self, progress: SearchProgress) -> None:
        """See `SearchReporter`."""
        now, ended = time.monotonic(), progress.done == progress.total
        # The first pass says how long all of it takes.
        if not ended and now - self._said_at < (0.2 if self._terminal else 30):
            return
        self._said_at = now
        self._print(
            f"{progress.stage:<10} {progress.done:>3} of {progress.total} trunks  best {progress.best_top1:.2f}  "
            f"{duration(progress.remaining_s)} left",
            end="" if self._terminal and not ended else "\n",
        )

    def _print(self, text: str, end: str = "\n") -> None:
        # A terminal that is closed, or a pipe that nobody reads any more, must not end the search.
        with contextlib.suppress(OSError):
            print(f"{REWRITE if self._terminal else ''}{text}", end=end, flush=True)


def result_lines(result: SearchResult, constraints: Sequence[str]) -> list[str]:
    """The table of what was found."""
    met = {str(line.constraint) for line in result.lines}
    lines = [
        f"{each} is met by none of the {len(result.archive)} trunks that were evaluated: a larger --budget finds more"
        for each in constraints
        if each not in met
    ]
    if result.lines:
        lines += _table(result.lines)
    return [*lines, "", *quality_lines(result.quality)]


def _table(lines: Sequence[FoundLine]) -> list[str]:
    first = lines[0].found
    with_latency = "latency" in first.costs
    costs = ["MACs", "params", *(["ms"] if with_latency else [])]
    widths = [10, 9, *([10] if with_latency else [])]
    head = "".join(f"{name:>{width}}" for name, width in zip(costs, widths))
    of_images = f"top-1 in %, validation (n={first.validation.images:,}) and test (n={first.test.images:,})"
    width = max([len("front"), *(len(str(line.constraint)) for line in lines if line.constraint)])
    text = [
        f"{of_images}, ± standard error. Chosen by the expected top-1, from all validation scores; so is",
        "the best uniform subnet that costs no more, beside it.",
        f"{'for':<{width}}{head}{'expected':>10}{'validation':>15}{'test':>15}   uniform: {'MACs':>7}  validation  test"
        "    exits  subnet@pixels  (uniform)",
    ]
    for line in lines:
        found, uniform = line.found, line.uniform
        assert found.design.exits is not None
        name = "front" if line.constraint is None else str(line.constraint)
        beside = " " * 18 + "none" + " " * 15
        if uniform is not None:
            beside = (
                f"{_cost('macs', uniform.costs['macs']):>16}  {uniform.validation.top1:>10.2f}{uniform.test.top1:>7.2f}"
            )
        exits = "+".join(map(str, found.design.exits))
        text.append(
            f"{name:<{width}}"
            + "".join(f"{_cost(each, found.costs[each]):>{w}}" for each, w in zip(found.costs, widths))
            + f"{found.expected:>10.2f}{_accuracy(found.validation):>15}{_accuracy(found.test):>15}   {beside}"
            + f"  {exits:>7}  {found.design}"
            + ("" if uniform is None else f"  ({uniform.design})")
        )
    return text


def _cost(name: str, value: float) -> str:
    if name == "latency":
        return f"{value:.4g}"
    unit, size = ("M", 1e6) if value >= 1e5 else ("k", 1e3)
    return f"{value / size:.3g} {unit}"


def _accuracy(accuracy: Accuracy) -> str:
    return f"{accuracy.top1:.2f} ± {accuracy.error:.2f}"


def quality_lines(quality: Mapping[str, Any]) -> list[str]:
    """How well the predictor ranked each round's trunks before they were evaluated."""

    def both(taus: Mapping[str, float | None]) -> str:
        return ", ".join(
            f"{'unknown' if taus[key] is None else format(taus[key], '.2f')} {told}"
            for key, told in (("within_height", "within one height"), ("across", "across all"))
        )

    reliability = f"halves       of the images agree by tau {both(quality['reliability'])}"
    if not quality["rounds"]:
        return ["predictor    no round to measure it by", reliability]
    mean = quality["mean"]
    rounds = " ".join(
        "-" if each["predicted"]["within_height"] is None else f"{each['predicted']['within_height']:.2f}"
        for each in quality["rounds"]
    )
    return [
        f"predictor    Kendall's tau of each round's new trunks, mean: {both(mean['predicted'])}",
        f"             by round, within one height: {rounds}",
        f"MACs alone   tau {both(mean['macs'])}",
        reliability,
    ]


def latency_lines(result: SearchResult, measure: Callable[[Design], float] | None) -> Iterator[str]:
    """How long the winners take on this machine, each measured as a whole network, beside what was predicted.

    Args:
        result: what was found.
        measure: milliseconds of a design; None: there is no table, so that nobody asks.
    """
    for line in (each for each in result.lines if measure is not None and each.constraint is not None):
        assert measure is not None
        try:
            measured = measure(line.found.design)
        except (ValueError, ImportError) as error:
            yield f"latency      not measured: {error}"
            return
        predicted = line.found.costs["latency"]
        yield f"latency      {line.constraint}: {measured:.4g} ms measured, {predicted:.4g} ms predicted"


def extract_lines(result: SearchResult, run: str, name: str, program: str, data: Sequence[str]) -> list[str]:
    """The command that takes each winner out: for each constraint, or, without any, for each point of the front.

    Args:
        result: what was found.
        run: the run directory, as it was given.
        name: the search's name.
        program: the command extract.
        data: the flags that say where the run's images are.
    """
    winners = [line for line in result.lines if line.constraint is not None] or list(result.lines)
    commands = []
    for line in winners:
        constraint = line.constraint or Constraint(result.cost, line.found.costs[result.cost])
        file = f"{constraint.cost}-{amount(constraint.cost, constraint.limit)}.safetensors"
        arguments = [f"--run={run}", *data, f"--search={name}", f"--constraint={constraint}", f"--out={file}"]
        commands.append(f"{program} {shlex.join(arguments)}")
    return commands
