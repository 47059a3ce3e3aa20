"""The comparison of runs over seeds, `seeds.build_seeds`, as text, Markdown and CSV."""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ofav2_jax.report import paper
from ofav2_jax.report.forms import aligned, markdown, markdown_table, printable
from ofav2_jax.report.seeds import AUTHORS, MEASURES

_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
_WHAT = {
    "avg": "average of the tested subnets",
    "best": "best of the tested subnets",
    "authors_avg": "average of the subnets that the authors' test visits",
    "authors_best": "best of the subnets that the authors' test visits",
}
_CAPTIONS = {
    "rows": f"test top-1 in %, mean {_PLUS_MINUS} standard error over seeds",
    "differences": f"in points, {_PLUS_MINUS} standard error of the difference; * is larger than two of those",
    "orders": 'largest first; ">" by more than two standard errors of the difference, "~" by less',
}
_ONE_SEED = "one seed has no standard error: nothing is marked where a row has only one"
# What the comparison of two neighbours in an order says.
_SIGNS = {True: ">", False: "~", None: "?"}

# A title, the lines of a table with its head, and how many of its columns are texts.
Section = tuple[str, list[list[str]], int]


def _sections(found: Mapping[str, Any]) -> Iterator[Section]:
    for measure in (*MEASURES, *AUTHORS):
        yield f"{_WHAT[measure]}: {_CAPTIONS['rows']}", list(_row_lines(found, measure)), 2
    for measure in MEASURES:
        if found["differences"]:
            title = f"differences, {_WHAT[measure]}: {_CAPTIONS['differences']}"
            yield title, list(_difference_lines(found, measure)), 2
    for measure in MEASURES:
        if found["orders"]:
            unknown = ', "?" where a row has one seed' if _has_single_seed(found) else ""
            title = f"order, {_WHAT[measure]}: {_CAPTIONS['orders']}{unknown}"
            yield title, list(_order_lines(found, measure)), 3


def _row_lines(found: Mapping[str, Any], measure: str) -> Iterator[list[str]]:
    yield ["row", "seeds", *found["phases"]]
    numbers = _numbers_of_notes(found)
    for row in found["rows"]:

        def cell(phase: str, row: Mapping[str, Any] = row) -> str:
            if measure not in row["phases"].get(phase, {}):
                return ""
            values = row["phases"][phase][measure]
            number = values["num_seeds"]
            # A run under way has not finished all phases.
            fewer = "" if number == len(row["seeds"]) else f" ({number} seed{'s' if number > 1 else ''})"
            return f"{_with_error(values['mean'], values['standard_error'], '.2f')}{fewer}"

        label = printable(row["label"]) + (f" [{numbers[row['label']]}]" if row["label"] in numbers else "")
        yield [label, ", ".join(map(str, row["seeds"])), *map(cell, found["phases"])]


def _difference_lines(found: Mapping[str, Any], measure: str) -> Iterator[list[str]]:
    yield ["rows", "what", *found["phases"]]
    for pair in found["differences"]:

        def ours(phase: str, cells: Mapping[str, Any] = pair["phases"]) -> str:
            if phase not in cells:
                return ""
            values = cells[phase][measure]
            text = _with_error(values["difference"], values["standard_error"], "+.2f")
            return f"{text} {'*' if values['exceeds'] else ' '}"

        def theirs(phase: str, cells: Mapping[str, Any] = pair["phases"]) -> str:
            value = cells[phase][measure]["paper"] if phase in cells else None
            return "" if value is None else f"{value:+.2f}  "

        yield [printable(" - ".join(pair["rows"])), "ours", *map(ours, found["phases"])]
        if any(map(theirs, found["phases"])):
            yield ["", "paper", *map(theirs, found["phases"])]


def _order_lines(found: Mapping[str, Any], measure: str) -> Iterator[list[str]]:
    yield ["column", "whose", "order"]
    for column, measures in found["orders"].items():
        order = measures[measure]
        signs = [f" {_SIGNS[exceeds]} " for exceeds in order["exceeds"]]
        labels = itertools.zip_longest(map(printable, order["ours"]), signs, fillvalue="")
        yield [column, "ours", "".join(part for pair in labels for part in pair)]
        if len(order["paper"]) > 1:
            yield ["", "paper", " > ".join(order["paper"])]


def _with_error(value: float, error: float | None, form: str) -> str:
    return format(value, form) + ("" if error is None else f" {_PLUS_MINUS} {error:.2f}")


def _has_single_seed(found: Mapping[str, Any]) -> bool:
    return any(cell["avg"]["num_seeds"] == 1 for row in found["rows"] for cell in row["phases"].values())


def _reasons(found: Mapping[str, Any]) -> dict[str, str]:
    """Why rows cannot be held against the paper, by their labels."""
    return {row["label"]: "; ".join(row["differs"]) for row in found["rows"] if row["differs"]}


def _numbers_of_notes(found: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of footnotes, from 1, by the labels of rows."""
    reasons = _reasons(found)
    texts = list(dict.fromkeys(reasons.values()))
    return {label: texts.index(text) + 1 for label, text in reasons.items()}


def _notes(found: Mapping[str, Any]) -> list[str]:
    texts = dict.fromkeys(_reasons(found).values())
    notes = [f"[{i}] not comparable with the paper: {printable(text)}" for i, text in enumerate(texts, 1)]
    for row in found["rows"]:
        start, number = row["label"].rpartition(", other settings ")[1:]
        if start:
            told = "; ".join(f"{name}={value}" for name, value in row["other_settings"].items())
            notes.append(printable(f"other settings {number}: {told}"))
    notes = list(dict.fromkeys(notes))
    return [*notes, *([_ONE_SEED] if _has_single_seed(found) else [])]


def as_text(found: Mapping[str, Any]) -> str:
    """Formats the comparison for a terminal, with aligned columns."""
    parts: list[str] = []
    for title, lines, num_left in _sections(found):
        parts += [title, *aligned(lines, num_left), ""]
    return "\n".join([*parts, *_notes(found)])


def as_markdown(found: Mapping[str, Any]) -> str:
    """Formats the comparison as Markdown."""
    parts: list[str] = []
    for title, lines, num_left in _sections(found):
        heading, _, caption = title.partition(": ")
        parts += [f"## {heading[0].upper()}{heading[1:]}", "", f"{caption[0].upper()}{caption[1:]}.", ""]
        parts += [*markdown_table(lines, num_left), ""]
    # Without a blank line between them, Markdown would join the footnotes into one paragraph.
    return "\n".join([*parts, *(part for note in _notes(found) for part in (markdown(note), ""))])


def as_csv(found: Mapping[str, Any]) -> str:
    """Formats the rows as CSV: a line for each row, phase and measure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("row", "network", "width_multiplier", "teacher", "seeds", "phase", "measure"),
            *("num_seeds", "mean", "standard_error", "paper", "differs"),
        ]
    )
    for row in found["rows"]:
        cells = paper.paper_row(row["network"], row["width_multiplier"], row["teacher"])
        theirs = {phase: cells[column] for column, phase in paper.column_phases(row["network"]).items()}
        start = [row["label"], row["network"], row["width_multiplier"], row["teacher"]]
        for phase, measures in row["phases"].items():
            for measure, values in measures.items():
                cell, error = (theirs.get(phase) or {}).get(measure), values["standard_error"]
                numbers = [f"{values['mean']:.4f}", "" if error is None else f"{error:.4f}"]
                seeds = " ".join(map(str, row["seeds"]))
                writer.writerow(
                    [
                        *(*start, seeds, phase, measure, values["num_seeds"], *numbers),
                        *("" if cell is None else f"{cell:.2f}", "; ".join(row["differs"])),
                    ]
                )
    return file.getvalue()
