"""Pictures of the tested subnets: accuracy against MACs, the Pareto front, the values that the best subnets have."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ofav2_jax.model.network import Block
from ofav2_jax.report.paper import COLUMNS
from ofav2_jax.report.svg import COLOURS, INK, MARKERS, Picture, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Subnets = Sequence[Mapping[str, Any]]

# The names of the choices in tables and pictures, by their keys in `result.json`.
LABELS = {choice or "resolution": label for choice, label in COLUMNS.items()}
_BLOCKS = {Block.BOTTLENECK: "IB", Block.POINTWISE: "PW", Block.LIGHT: "L"}

# The values of the choices by which subnets are coloured; each value has the colour and marker at its position.
_VALUES: dict[str, tuple[int | str, ...]] = {"height": (1, 2, 3, 4, 5, "ensemble"), "depth": (2, 3, 4)}
# Beyond this number points are drawn as an image inside the SVG; as vectors they would take megabytes.
_MAX_VECTOR_POINTS = 500


def pareto_front(subnets: Subnets) -> list[Mapping[str, Any]]:
    """Selects the subnets on the Pareto front.

    A subnet is on the front if no other one is at least as accurate with at most as many MACs and better in one of the
    two.

    Args:
        subnets: records with "macs" and "top1".

    Returns:
        The front, in ascending order of MACs and so of accuracy; of equal subnets only the first.
    """
    front: list[Mapping[str, Any]] = []
    for subnet in sorted(subnets, key=lambda s: (s["macs"], -s["top1"])):
        if not front or subnet["top1"] > front[-1]["top1"]:
            front.append(subnet)
    return front


def best_subnets(subnets: Subnets, share: float = 0.1) -> list[Mapping[str, Any]]:
    """Selects the most accurate subnets: the given share of all, rounded up, and all that tie with the last of them."""
    threshold = sorted((s["top1"] for s in subnets), reverse=True)[math.ceil(share * len(subnets)) - 1]
    return [subnet for subnet in subnets if subnet["top1"] >= threshold]


def varied_choices(subnets: Subnets) -> dict[str, list[Any]]:
    """Returns the choices in which the subnets differ, each with the values that occur, largest first."""
    values = {choice: sorted({s[choice] for s in subnets}, reverse=True) for choice in LABELS}
    return {choice: found for choice, found in values.items() if len(found) > 1}


def value_name(choice: str, value: Any) -> str:
    """Writes a value of a choice for a reader."""
    if choice != "level":
        return str(value)
    return f"{value}: {'+'.join(name for block, name in _BLOCKS.items() if value & block)}"


def accuracy_against_macs(subnets: Subnets, colour_by: str) -> Picture:
    """Draws test top-1 against MACs: every tested subnet, and the Pareto front.

    Args:
        subnets: all tested subnets of one phase, see `result.json`.
        colour_by: "height" or "depth", the choice whose values get different colours and markers.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _scatter(axes, subnets, colour_by, _macs_limits([subnets]), size=5)
        axes.set_xlabel("MACs per image in millions")
        axes.set_ylabel("test top-1 in %")
        number = len(pareto_front(subnets))
        axes.plot([], [], color=INK, marker="o", markerfacecolor="none", label=f"Pareto front ({number})")
        figure.legend(loc="outside upper left", ncols=3)

    return picture(
        "front", draw, (5.4, 4.2), f"Test top-1 against MACs of {len(subnets)} subnets, with the Pareto front"
    )


def accuracy_by_phase(results: Mapping[str, Mapping[str, Any]], colour_by: str) -> list[Picture]:
    """Draws test top-1 against MACs in one small picture for each phase, all with the same axes.

    Args:
        results: maps the name of each finished phase to its result.
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
            axes.set_title(name, loc="left", fontweight="bold", parse_math=False)
            axes.set_xlabel("million MACs")
            axes.set_ylabel("top-1 in %")

        return draw

    return [
        picture(
            f"phase-{name}",
            drawing(name, result["subnets"]),
            (2.7, 2.3),
            f"After phase {name}: test top-1 against MACs of {len(result['subnets'])} subnets",
        )
        for name, result in results.items()
    ]


def choice_shares(subnets: Subnets) -> Picture:
    """Draws how often each value of each choice occurs, among the best tenth of the subnets and among all.

    Args:
        subnets: all tested subnets of one phase, which differ in at least one choice.
    """
    choices = varied_choices(subnets)
    best = best_subnets(subnets)

    def draw(figure: "Figure") -> None:
        rows = [len(values) for values in choices.values()]
        # A panel is as high as its rows and a margin of 0.6 row, so that bars are equally thick in all panels.
        panels = figure.subplots(
            len(choices), sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 0.6 for n in rows]}
        )[:, 0]
        for axes, (choice, values) in zip(panels, choices.items()):
            y = range(len(values))
            shares = [[100 * _share(group, choice, value) for value in values] for group in (best, subnets)]
            axes.barh(y, shares[0], height=0.62, color=COLOURS[0], label=f"best tenth ({len(best)})")
            axes.plot(
                shares[1],
                y,
                ls="none",
                color=COLOURS[1],
                marker="|",
                markersize=12,
                markeredgewidth=2.5,
                label=f"all tested ({len(subnets)})",
            )
            axes.set_yticks(y, [value_name(choice, value) for value in values], parse_math=False)
            axes.set_ylim(len(values) - 0.2, -0.8)
            axes.set_ylabel(LABELS[choice], rotation=0, ha="right", va="center", labelpad=10, fontweight="bold")
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        panels[-1].set_xlabel("share of the subnets in %")
        panels[0].set_xlim(0, 105)
        figure.align_ylabels(panels)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)

    height = 1.1 + 0.23 * sum(len(values) + 0.6 for values in choices.values())
    return picture(
        "choices", draw, (5.4, height), "Share of each value among the best tenth of the subnets and among all"
    )


def _share(subnets, choice, value):
    return sum(subnet[choice] == value for subnet in subnets) / len(subnets)


def _scatter(axes, subnets, colour_by, limits, size):
    """Draws subnets as points and their Pareto front as a line with rings."""
    for value, colour, marker in zip(_VALUES[colour_by], COLOURS, MARKERS):
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
    axes.plot(x, y, color=INK, linewidth=1, drawstyle="steps-post")
    axes.plot(x, y, ls="none", marker="o", markersize=size + 2.5, markerfacecolor="none", markeredgecolor=INK)
    macs_axis(axes, limits)


def _macs_limits(groups):
    macs = [subnet["macs"] / 1e6 for subnets in groups for subnet in subnets]
    return min(macs), max(macs)


def macs_axis(axes, limits):
    """Scales the horizontal axis: logarithmic, with plain numbers, if the limits differ by more than a factor of 4."""
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
