"""Pictures of a run, as SVG that takes its text colour from the page it stands in."""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ofav2_jax.settings.phases import Phase, learning_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Subnets = Sequence[Mapping[str, Any]]

# The names of the choices in the field, by the names they have in `result.json`.
CHOICES = {
    "resolution": "resolution",
    "kernel": "kernel",
    "level": "level",
    "height": "height",
    "depth": "depth",
    "expand": "width",
}
# Bits of a level code: inverted bottleneck 4, pointwise block 2, light block 1.
_LEVELS = {7: "IB+PW+L", 6: "IB+PW", 5: "IB+L", 3: "PW+L", 4: "IB", 2: "PW", 1: "L"}

# What colour and marker can tell apart, in the palette's order.
_VALUES: dict[str, tuple[int | str, ...]] = {"height": (1, 2, 3, 4, 5, "ensemble"), "depth": (2, 3, 4)}
# Okabe and Ito's colours, which stay apart for the colour-blind; each goes with a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
# Drawn in these, and replaced in the SVG by what the page's colour scheme provides.
_INK, _FAINT = "#010203", "#010204"
_RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": _INK,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    # The same data give the same file.
    "svg.hashsalt": "ofav2_jax",
}
# More points than this are drawn as an image inside the SVG, which would grow to megabytes otherwise.
_MAX_VECTOR_POINTS = 500


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture for a page.

    Attributes:
        name: among the pictures of the page; begins the identifiers inside the SVG.
        svg: an <svg> element.
        alt: what it shows, in words.
    """

    name: str
    svg: str
    alt: str


def pareto_front(subnets: Subnets) -> list[Mapping[str, Any]]:
    """The subnets that no other one beats: none is at least as accurate at as few MACs, and better in one of both.

    Args:
        subnets: records with "macs" and "top1".

    Returns:
        In ascending order of MACs and of accuracy; of equals the first one.
    """
    front: list[Mapping[str, Any]] = []
    for subnet in sorted(subnets, key=lambda s: (s["macs"], -s["top1"])):
        if not front or subnet["top1"] > front[-1]["top1"]:
            front.append(subnet)
    return front


def best_subnets(subnets: Subnets, share: float = 0.1) -> list[Mapping[str, Any]]:
    """The most accurate subnets: this share of all (rounded up), and those as accurate as the last of them."""
    threshold = sorted((s["top1"] for s in subnets), reverse=True)[math.ceil(share * len(subnets)) - 1]
    return [subnet for subnet in subnets if subnet["top1"] >= threshold]


def varied_choices(subnets: Subnets) -> dict[str, list[Any]]:
    """For each choice in which the subnets differ its values, largest first."""
    values = {choice: sorted({s[choice] for s in subnets}, reverse=True) for choice in CHOICES}
    return {choice: found for choice, found in values.items() if len(found) > 1}


def value_name(choice: str, value: Any) -> str:
    """How a value of a choice is written in reports."""
    return f"{value}: {_LEVELS[value]}" if choice == "level" else str(value)


def accuracy_against_macs(subnets: Subnets, colour_by: str) -> Picture:
    """Every tested subnet, and the Pareto front.

    Args:
        subnets: of a phase's result.
        colour_by: the choice that colour and marker tell apart, "height" or "depth".
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _scatter(axes, subnets, colour_by, _macs_limits([subnets]), size=5)
        axes.set_xlabel("MACs per image in millions")
        axes.set_ylabel("test top-1 in %")
        number = len(pareto_front(subnets))
        axes.plot([], [], color=_INK, marker="o", markerfacecolor="none", label=f"Pareto front ({number})")
        figure.legend(loc="outside upper left", ncols=3)

    return _picture(
        "front", draw, (5.4, 4.2), f"Test top-1 against MACs of {len(subnets)} subnets, with the Pareto front"
    )


def accuracy_by_phase(results: Mapping[str, Mapping[str, Any]], colour_by: str) -> list[Picture]:
    """One small picture for each phase, all with the same axes: test top-1 against MACs.

    Args:
        results: for each finished phase its result.
        colour_by: see `accuracy_against_macs`.
    """
    everything = [result["subnets"] for result in results.values()]
    limits = _macs_limits(everything)
    top1 = [subnet["top1"] for subnets in everything for subnet in subnets]
    margin = 0.05 * (max(top1) - min(top1)) or 1

    def drawing(name: str, subnets: Subnets) -> Callable[["Figure"], None]:
        def draw(figure: "Figure") -> None:
            axes = figure.add_subplot()
            _scatter(axes, subnets, colour_by, limits, size=3.5)
            axes.set_ylim(min(top1) - margin, max(top1) + margin)
            axes.set_title(name, loc="left", fontweight="bold")
            axes.set_xlabel("million MACs")
            axes.set_ylabel("top-1 in %")

        return draw

    return [
        _picture(
            f"phase-{name}",
            drawing(name, result["subnets"]),
            (2.7, 2.3),
            f"After phase {name}: test top-1 against MACs of {len(result['subnets'])} subnets",
        )
        for name, result in results.items()
    ]


def curves(phases: Sequence[Phase], metrics: Sequence[Mapping[str, Any]], warmup_rate: float | None) -> list[Picture]:
    """Loss, accuracy and learning rate over the epochs of all phases.

    Args:
        phases: of the run, in order.
        metrics: the records of the epochs so far.
        warmup_rate: see `phases.learning_rate`.
    """
    from matplotlib.ticker import MaxNLocator

    starts, epochs = {}, 0
    for phase in phases:
        starts[phase.name] = epochs
        epochs += phase.total_epochs
    # For each phase the epochs that are trained, and what was measured at their ends.
    trained = [[m for m in metrics if m["phase"] == phase.name] for phase in phases]
    positions = [[starts[m["phase"]] + m["epoch"] for m in records] for records in trained]
    marker = "." if len(metrics) <= 60 else ""

    def plot(axes: "Axes", value: Callable[[Mapping[str, Any]], float], style: dict[str, Any], label: str) -> None:
        for x, records in zip(positions, trained):
            axes.plot(x, [value(m) for m in records], **style, label=label if records is trained[0] else None)

    def frame(figure: "Figure", ylabel: str) -> "Axes":
        axes = figure.add_subplot()
        axes.set_xlim(-0.01 * epochs, 1.01 * epochs)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("epochs over all phases")
        axes.set_ylabel(ylabel)
        axes.grid(axis="x", visible=False)
        for phase in phases:
            start = starts[phase.name]
            axes.axvline(start, color=_FAINT, linewidth=0.8)
            middle = (start + phase.total_epochs / 2, 1.02)
            axes.annotate(
                phase.name, middle, xycoords=axes.get_xaxis_transform(), rotation=90, ha="center", va="bottom", size=8.5
            )
        return axes

    def draw_loss(figure: "Figure") -> None:
        plot(frame(figure, "training loss"), lambda m: m["loss"], {"color": _COLOURS[0], "marker": marker}, "loss")

    def draw_accuracy(figure: "Figure") -> None:
        axes = frame(figure, "top-1 in %")
        plot(axes, lambda m: 100 * m["top1"], {"color": _COLOURS[4], "marker": marker, "ls": "--"}, "training batches")
        plot(axes, lambda m: m["validation_top1"], {"color": _COLOURS[0], "marker": marker}, "validation")
        best = [max(records, key=lambda m: m["validation_top1"]) for records in trained if records]
        axes.plot(
            [starts[m["phase"]] + m["epoch"] for m in best],
            [m["validation_top1"] for m in best],
            ls="none",
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=_INK,
            label="kept",
        )
        figure.legend(loc="outside lower center", ncols=3)

    def draw_rate(figure: "Figure") -> None:
        axes = frame(figure, "learning rate")
        for phase in phases:
            count = 40 * phase.total_epochs
            schedule = [learning_rate(phase, step, 40, warmup_rate) for step in range(count)]
            done = sum(m["phase"] == phase.name for m in metrics) * 40
            x = [starts[phase.name] + step / 40 for step in range(count)]
            axes.plot(x, schedule, color=_COLOURS[0], linewidth=0.8, linestyle=":")
            axes.plot(x[:done], schedule[:done], color=_COLOURS[0])
        axes.set_yscale("log")
        rates = [phase.learning_rate for phase in phases]
        axes.set_ylim(min(rates) / 100, max(rates) * 2)

    size = (5.4, 3.6)
    return [
        _picture("loss", draw_loss, size, "Training loss over the epochs of all phases"),
        _picture(
            "accuracy", draw_accuracy, size, "Top-1 on training batches and on the validation split over all phases"
        ),
        _picture("rate", draw_rate, size, "Learning rate over the epochs of all phases"),
    ]


def choice_shares(subnets: Subnets) -> Picture:
    """Which values the best tenth of the subnets have, beside all tested ones.

    Args:
        subnets: of a phase's result; they differ in one choice at least.
    """
    choices = varied_choices(subnets)
    best = best_subnets(subnets)

    def draw(figure: "Figure") -> None:
        rows = [len(values) for values in choices.values()]
        # Half a row of room beside the bars of each panel keeps them equally thick.
        panels = figure.subplots(
            len(choices), sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 0.6 for n in rows]}
        )[:, 0]
        for axes, (choice, values) in zip(panels, choices.items()):
            y = range(len(values))
            shares = [[100 * _share(group, choice, value) for value in values] for group in (best, subnets)]
            axes.barh(y, shares[0], height=0.62, color=_COLOURS[0], label=f"best tenth ({len(best)})")
            axes.plot(
                shares[1],
                y,
                ls="none",
                color=_COLOURS[1],
                marker="|",
                markersize=12,
                markeredgewidth=2.5,
                label=f"all tested ({len(subnets)})",
            )
            axes.set_yticks(y, [value_name(choice, value) for value in values])
            axes.set_ylim(len(values) - 0.2, -0.8)
            axes.set_ylabel(CHOICES[choice], rotation=0, ha="right", va="center", labelpad=10, fontweight="bold")
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        panels[-1].set_xlabel("share of the subnets in %")
        panels[0].set_xlim(0, 105)
        figure.align_ylabels(panels)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)

    height = 1.1 + 0.23 * sum(len(values) + 0.6 for values in choices.values())
    return _picture(
        "choices", draw, (5.4, height), "Share of each value among the best tenth of the subnets and among all"
    )


def _share(subnets, choice, value):
    return sum(subnet[choice] == value for subnet in subnets) / len(subnets)


def _scatter(axes, subnets, colour_by, limits, size):
    """Draws subnets and their Pareto front."""
    for value, colour, marker in zip(_VALUES[colour_by], _COLOURS, _MARKERS):
        group = [subnet for subnet in subnets if subnet[colour_by] == value]
        if not group:
            continue
        axes.plot(
            [subnet["macs"] / 1e6 for subnet in group],
            [subnet["top1"] for subnet in group],
            ls="none",
            color=colour,
            marker=marker,
            markersize=size,
            markeredgewidth=0,
            alpha=0.75,
            label=f"{colour_by} {value}" if isinstance(value, int) else f"{value} of the exits",
            rasterized=len(subnets) > _MAX_VECTOR_POINTS,
        )
    front = pareto_front(subnets)
    x, y = [subnet["macs"] / 1e6 for subnet in front], [subnet["top1"] for subnet in front]
    axes.plot(x, y, color=_INK, linewidth=1, drawstyle="steps-post")
    axes.plot(x, y, ls="none", marker="o", markersize=size + 2.5, markerfacecolor="none", markeredgecolor=_INK)
    _macs_axis(axes, limits)


def _macs_limits(groups):
    macs = [subnet["macs"] / 1e6 for subnets in groups for subnet in subnets]
    return min(macs), max(macs)


def _macs_axis(axes, limits):
    """Logarithmic, with plain numbers, where the range is wide enough to deserve it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = limits
    if high / low > 4:
        axes.set_xscale("log")
        decades = math.log10(high / low)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        margin = (high / low) ** 0.05
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.06 * (high - low) or 0.1 * high
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _picture(name: str, draw: Callable[["Figure"], None], size: tuple[float, float], alt: str) -> Picture:
    """Draws on a figure of this size (inches) and returns its SVG."""
    # Takes a second to import, which a run that is not at the end of a phase can do without.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure = Figure(size, dpi=200, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Picture(name, _embeddable(buffer.getvalue(), name), alt)


def _embeddable(svg: str, prefix: str) -> str:
    """An SVG document as an element of a page: no prologue, identifiers of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\1{prefix}-", svg)
    # The page decides how wide it is.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace(_INK, "currentColor").replace(_FAINT, "var(--faint)").strip()
