"""Pictures of the training: loss, accuracy and learning rate over the epochs of all phases."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ofav2_jax.report.records import EpochRecord
from ofav2_jax.report.svg import COLOURS, FAINT, INK, Picture, picture
from ofav2_jax.settings.phases import Phase, learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points per epoch on the curve of the learning rate. The curve follows the schedule, which changes within an epoch.
_RATE_POINTS = 40


def training_curves(
    phases: Sequence[Phase], metrics: Sequence[EpochRecord], warmup_rate: float | None
) -> list[Picture]:
    """Draws loss, accuracy and learning rate over the epochs of all phases.

    Args:
        phases: all phases of the run, in order.
        metrics: the records of the epochs trained so far.
        warmup_rate: learning rate at which the warm-up starts, see `phases.learning_rate`.

    Returns:
        The pictures "loss", "accuracy" and "rate".
    """
    timeline = _timeline(phases, metrics)
    size = (5.4, 3.6)
    draw_rate = functools.partial(_draw_rate, timeline=timeline, warmup_rate=warmup_rate)
    return [
        picture(
            "loss",
            functools.partial(_draw_loss, timeline=timeline),
            size,
            "Training loss over the epochs of all phases",
        ),
        picture(
            "accuracy",
            functools.partial(_draw_accuracy, timeline=timeline),
            size,
            "Top-1 on training batches and on the validation split over all phases",
        ),
        picture("rate", draw_rate, size, "Learning rate over the epochs of all phases"),
    ]


@dataclasses.dataclass(frozen=True)
class _Timeline:
    """The horizontal axis of the curves: the epochs of all phases, one phase after the other.

    Attributes:
        phases: all phases of the run, in order.
        starts: for each phase, by name, the number of epochs before it.
        total: number of epochs of all phases.
        records: for each phase the records of its epochs trained so far.
    """

    phases: Sequence[Phase]
    starts: Mapping[str, int]
    total: int
    records: Sequence[Sequence[EpochRecord]]

    def position(self, record: EpochRecord) -> int:
        return self.starts[record.phase] + record.epoch

    def candidates(self, records: Sequence[EpochRecord]) -> list[tuple[int, float]]:
        """Position and validation top-1 of a phase's epochs, and of its start, at 0, where that is a candidate."""
        starts = [] if records[0].start_top1 is None else [(0, records[0].start_top1)]
        return [*starts, *((self.position(record), record.validation_top1) for record in records)]

    def frame(self, figure: "Figure", ylabel: str) -> "Axes":
        """Adds axes with the name of each phase above the epochs of that phase."""
        from matplotlib.ticker import MaxNLocator

        axes = figure.add_subplot()
        axes.set_xlim(-0.01 * self.total, 1.01 * self.total)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epochs over all phases")
        axes.set_ylabel(ylabel)
        axes.grid(axis="x", visible=False)
        for phase in self.phases:
            start = self.starts[phase.name]
            axes.axvline(start, color=FAINT, linewidth=0.8)
            middle = (start + phase.total_epochs / 2, 1.02)
            style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "size": 8.5}
            # A name may come from a foreign file; "$" in it must not start a formula.
            axes.annotate(phase.name, middle, xycoords=axes.get_xaxis_transform(), parse_math=False, **style)
        return axes

    def plot(self, axes: "Axes", value: Callable[[EpochRecord], float], label: str, **style: Any) -> None:
        """Draws one line for each phase; only the first has the label, so that the legend shows it once."""
        # Markers on many epochs would run together into a thick line.
        style["marker"] = "." if sum(map(len, self.records)) <= 60 else ""
        for index, records in enumerate(self.records):
            x = [self.position(record) for record in records]
            axes.plot(x, [value(record) for record in records], **style, label=None if index else label)


def _timeline(phases: Sequence[Phase], metrics: Sequence[EpochRecord]) -> _Timeline:
    starts, total = {}, 0
    for phase in phases:
        starts[phase.name] = total
        total += phase.total_epochs
    records = [[record for record in metrics if record.phase == phase.name] for phase in phases]
    return _Timeline(phases, starts, total, records)


def _draw_loss(figure: "Figure", timeline: _Timeline) -> None:
    axes = timeline.frame(figure, "training loss")
    timeline.plot(axes, lambda record: record.loss, "loss", color=COLOURS[0])


def _draw_accuracy(figure: "Figure", timeline: _Timeline) -> None:
    axes = timeline.frame(figure, "top-1 in %")
    timeline.plot(axes, lambda record: record.train_top1, "training batches", color=COLOURS[4], ls="--")
    timeline.plot(axes, lambda record: record.validation_top1, "validation", color=COLOURS[0])
    candidates = [timeline.candidates(records) for records in timeline.records if records]
    for first, second, *_ in (each for each in candidates if each[0][0] == 0):
        axes.plot(*zip(first, second), color=COLOURS[0], marker=".")
    best = [max(each, key=lambda candidate: candidate[1]) for each in candidates]
    axes.plot(
        [position for position, _ in best],
        [top1 for _, top1 in best],
        ls="none",
        marker="o",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=INK,
        label="kept",
    )
    figure.legend(loc="outside lower center", ncols=3)


def _draw_rate(figure: "Figure", timeline: _Timeline, warmup_rate: float | None) -> None:
    axes = timeline.frame(figure, "learning rate")
    for phase, records in zip(timeline.phases, timeline.records):
        steps = range(_RATE_POINTS * phase.total_epochs)
        schedule = [learning_rate(phase, step, _RATE_POINTS, warmup_rate) for step in steps]
        done = len(records) * _RATE_POINTS
        x = [timeline.starts[phase.name] + step / _RATE_POINTS for step in steps]
        axes.plot(x, schedule, color=COLOURS[0], linewidth=0.8, linestyle=":")
        axes.plot(x[:done], schedule[:done], color=COLOURS[0])
    axes.set_yscale("log")
    rates = [phase.learning_rate for phase in timeline.phases]
    axes.set_ylim(min(rates) / 100, max(rates) * 2)
