"""The searches of a run on its page: what was evaluated, the front, and how good the predictor was."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofav2_jax import files
from ofav2_jax.checks import is_number, require_among, require_text
from ofav2_jax.report import html, pictures
from ofav2_jax.report.records import RunRecord
from ofav2_jax.report.svg import COLOURS, INK, MARKERS, Picture, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How costs are shown: their unit, its size, and the label of an axis; and what a search for them wants.
_COSTS = {
    "macs": ("million MACs", 1e6, "MACs per image in millions"),
    "params": ("million params", 1e6, "parameters in millions"),
    "latency": ("ms", 1.0, "predicted latency in ms"),
}
_WANTED = {"macs": "few MACs", "params": "few parameters", "latency": "low latency"}
_FIELDS = ("run", "exits", "cost", "constraints", "evaluated", "images", "lines", "quality", "archive")


@dataclasses.dataclass(frozen=True)
class SearchRecord:
    """A search of a run.

    Attributes:
        name: its name.
        content: that of its `front.json`; None: the search is not finished.
        evaluated: how many trunks were evaluated.
    """

    name: str
    content: Mapping[str, Any] | None
    evaluated: int


def read_searches(directory: Path) -> list[SearchRecord]:
    """The searches of a run, by name.

    Raises:
        ValueError: for one that cannot be read; names the file and the reason.
    """
    found = []
    for path in sorted(each for each in (directory / files.SEARCHES).glob("*") if each.is_dir()):
        archive, front = path / "archive.jsonl", path / "front.json"
        evaluated = archive.read_bytes().count(b"\n") if archive.is_file() else 0
        content = None
        if front.is_file():
            content = files.read_json(front, _FIELDS)
            try:
                _require_front(content)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{front} cannot be read: {files.reason(error)}") from error
        found.append(SearchRecord(path.name, content, evaluated))
    return found


def _require_front(content: Mapping[str, Any]) -> None:
    """Refuses what is no outcome of a search, as far as the page shows it."""
    require_among("cost", content["cost"], tuple(_COSTS))
    numbers = [value for point in content["archive"] for value in point]
    for line in content["lines"]:
        for design in (line["design"], line["uniform"]):
            if design is not None:
                _cost(design, content["cost"])
                require_text("text", design["text"])
                numbers += [design["macs"], design["params"], design["resolution"]]
                numbers += [design[split][name] for split in ("validation", "test") for name in ("top1", "images")]
                numbers.append(_expected(design))
    quality = content["quality"]
    for each in (*quality["rounds"], {"round": 0, "trunks": 0, "predicted": quality["reliability"], "macs": {}}):
        numbers += [each["round"], each["trunks"]]
        numbers += [tau for kind in ("predicted", "macs") for tau in each[kind].values() if tau is not None]
    if not all(map(is_number, numbers)) or any(len(point) != 3 for point in content["archive"]):
        raise ValueError("it holds something else where there should be numbers")


def section(run: RunRecord) -> Iterator[str]:
    """The part of a run's page about its searches; nothing if there is none."""
    for search in read_searches(run.directory):
        yield f"<h2>Search {html.escaped(search.name)}</h2>"
        if search.content is None:
            yield f"<p>Not finished: {search.evaluated:,} trunks are evaluated.</p>"
        else:
            yield from _finished(search.name, search.content)


def _finished(name: str, content: Mapping[str, Any]) -> Iterator[str]:
    yield html.facts(
        {
            "phase": content["run"].get("phase"),
            "trunks evaluated": f"{content['evaluated']:,}",
            "validation images each": f"{content['images']:,}",
            "exits": content["exits"],
            "wanted": ", ".join([_WANTED[content["cost"]], *map(str, content["constraints"])]),
        }
    )
    front = [line["design"] for line in content["lines"] if line["constraint"] is None]
    if not front:
        yield "<p>No design that was evaluated meets a constraint.</p>"
        return
    validation, test = (front[0][split]["images"] for split in ("validation", "test"))
    yield '<div class="pictures">'
    yield html.figure(
        _picture(name, content, front),
        "Every evaluated trunk at each of its exits, by its accuracy on the validation images. The line is the front, "
        "by the accuracy that is expected of a design given all of these scores; rings: the same designs on all "
        f"{validation:,} validation images; crosses: on the {test:,} test images, which nothing was chosen by.",
    )
    yield f'<div class="tall"><h3>What was found</h3>{_table(content)}</div>'
    yield "</div>"
    yield "<h3>How good the predictor was</h3>"
    yield from _quality(content["quality"])


def _cost(design: Mapping[str, Any], cost: str) -> float:
    value = design["latency"]["predicted_ms"] if cost == "latency" else design[cost]
    if not is_number(value) or value <= 0:
        raise ValueError(f"{cost}={value!r} is not a number > 0")
    return value / _COSTS[cost][1]


def _expected(design: Mapping[str, Any]) -> float:
    """What is expected of a design in %; older searches chose by what was measured."""
    return design.get("expected_top1", design["validation"]["top1"])


def _picture(name: str, content: Mapping[str, Any], front: Sequence[Mapping[str, Any]]) -> Picture:
    cost = content["cost"]
    _, size, label = _COSTS[cost]
    points = [(value / size, top1, number) for value, top1, number in content["archive"]]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        groups = {"start": lambda number: number == 0, "rounds": lambda number: number > 0}
        for (told, belongs), colour, marker in zip(groups.items(), COLOURS, MARKERS):
            x, y = zip(*[(x, y) for x, y, number in points if belongs(number)] or [((), ())])
            axes.plot(
                x, y, ls="none", color=colour, marker=marker, markersize=4, markeredgewidth=0, alpha=0.5, label=told
            )
        uniform = [line["uniform"] for line in content["lines"] if line["uniform"] is not None]
        axes.plot(
            [_cost(design, cost) for design in uniform],
            [design["validation"]["top1"] for design in uniform],
            ls="none",
            color=COLOURS[2],
            marker=MARKERS[2],
            label="best uniform",
        )
        costs = [_cost(design, cost) for design in front]
        axes.plot(costs, list(map(_expected, front)), color=INK, linewidth=1, drawstyle="steps-post", label="expected")
        rings: dict[str, Any] = {"ls": "none", "color": INK, "markersize": 6.5}
        axes.plot(
            costs, [d["validation"]["top1"] for d in front], marker="o", markerfacecolor="none", label="front", **rings
        )
        axes.plot(costs, [d["test"]["top1"] for d in front], marker="x", label="front, test", **rings)
        pictures.macs_axis(axes, (min(p[0] for p in points), max(p[0] for p in points)))
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 in %")
        figure.legend(loc="outside upper left", ncols=3)

    alt = f"Top-1 against {label} of {len(points)} evaluated designs, with the front of {len(front)}"
    return picture(f"search-{name}", draw, (5.4, 4.2), alt)


def _table(content: Mapping[str, Any]) -> str:
    cost = content["cost"]
    columns = ["for", "expected", "validation", "test", _COSTS[cost][0]]
    others = [name for name in ("macs", "params") if name != cost]
    columns += [_COSTS[name][0] for name in others]
    columns += ["uniform: validation", "test", _COSTS[cost][0], "subnet", "uniform subnet"]
    rows = []
    for line in content["lines"]:
        expected = f"{_expected(line['design']):.2f}"
        row = [line["constraint"] or "front", expected, *_of_design(line["design"], [cost, *others])]
        row += ["", "", ""] if line["uniform"] is None else _of_design(line["uniform"], [cost])
        rows.append([*row, *("" if each is None else each["text"] for each in (line["design"], line["uniform"]))])
    return html.table(columns, rows)


def _of_design(design: Mapping[str, Any], costs: Sequence[str]) -> list[str]:
    accuracies = [f"{design[split]['top1']:.2f}" for split in ("validation", "test")]
    return [*accuracies, *(f"{_cost(design, cost):.3g}" for cost in costs)]


def _quality(quality: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "<p class=\"muted\">Kendall's tau between what was predicted of a round's new trunks before they were "
        "evaluated and what was then measured; beside it that of MACs alone. The last row is the tau between two "
        "halves of the validation images: it says how much of a ranking is noise, at half as many images.</p>"
    )

    def cells(taus: Mapping[str, Any]) -> list[str]:
        return ["" if taus.get(key) is None else f"{taus[key]:.2f}" for key in ("within_height", "across")]

    rows = [
        [str(each["round"]), str(each["trunks"]), *cells(each["predicted"]), *cells(each["macs"])]
        for each in quality["rounds"]
    ]
    rows.append(["two halves", "", *cells(quality["reliability"]), "", ""])
    yield html.table(
        ["round", "trunks", "within one height", "across all", "MACs, within one height", "MACs, across all"], rows
    )
