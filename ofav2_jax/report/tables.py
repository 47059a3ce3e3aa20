"""Tables IV and V of the paper with the results of runs, each result beside the paper's number."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ofav2_jax.report import paper
from ofav2_jax.report.forms import aligned, markdown, markdown_table, printable
from ofav2_jax.report.records import RunRecord

_COLUMNS = tuple(paper.COLUMNS.values())
_MEASURES = ("avg", "best")
# The same over the subnets that the authors' test visits, see `settings.authors`.
_AUTHORS = ("authors_avg", "authors_best")
_NOT_APPLICABLE = "n/a"
_OTHERS = "Other width multipliers and networks, which the paper does not have"
_CAPTION = (
    "test top-1 in %, average / best of the tested subnets; authors' subset: of those that the authors' test visits"
)


def build_tables(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Builds Table IV, Table V and, for runs with other width multipliers or networks, a third table.

    Args:
        runs: the runs to show; several runs of one row are listed in this order.

    Returns:
        One dictionary for each table, which JSON can hold, with the keys

        - title: for instance "Table IV: width multiplier 1.0".
        - notes: the texts of the footnotes, which are numbered from 1.
        - rows: one dictionary for each network and teacher, with the keys
            - network, teacher, width_multiplier.
            - paper: the paper's numbers, see `paper.paper_row`.
            - columns: names of the columns that the network has.
            - runs: one dictionary for each run, with the keys
                - directory, seed, finished_phases, num_phases.
                - differs: see `paper.comparable`.
                - note: number of the footnote, or None.
                - columns: for each column None if the run has no result for it yet, else avg, best, authors_avg and
                  authors_best (over those subnets only that the authors' test visits) and, as avg_difference and
                  best_difference, the differences of the first two from the paper's numbers. A difference is None
                  where the paper has no number, or where its number is about other images.
    """
    tables = []
    for width_multiplier, title in paper.TABLES.items():
        rows = [_row(network, width_multiplier, teacher, runs) for network in paper.ROWS for teacher in paper.TEACHERS]
        tables.append(_table(f"{title}: width multiplier {width_multiplier}", rows))
    in_paper = {(width_multiplier, network) for width_multiplier in paper.TABLES for network in paper.ROWS}
    others = {(run.settings["width_multiplier"], run.settings["network"]) for run in runs} - in_paper
    rows = [
        _row(network, width_multiplier, teacher, runs)
        for width_multiplier, network in sorted(others, key=lambda key: (key[0], _place(key[1])))
        for teacher in paper.TEACHERS
    ]
    rows = [row for row in rows if row["runs"]]
    return [*tables, _table(_OTHERS, rows)] if rows else tables


def _place(network: str) -> tuple[int, str]:
    """Where a network stands in the paper's tables; networks that are not there come last."""
    return (paper.ROWS.index(network) if network in paper.ROWS else len(paper.ROWS)), network


def _table(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    notes: list[str] = []
    for run in (run for row in rows for run in row["runs"]):
        if run["differs"]:
            text = "; ".join(run["differs"])
            if text not in notes:
                notes.append(text)
            run["note"] = notes.index(text) + 1
    return {"title": title, "notes": notes, "rows": rows}


def _row(network, width_multiplier, teacher, runs):
    theirs = paper.paper_row(network, width_multiplier, teacher)
    key = network, width_multiplier, teacher
    names = ("network", "width_multiplier", "teacher")
    return {
        **dict(zip(names, key)),
        "columns": list(paper.column_phases(network)),
        "paper": theirs,
        "runs": [_run(run, theirs) for run in runs if tuple(run.settings[name] for name in names) == key],
    }


def _run(run, theirs):
    phases = paper.column_phases(run.settings["network"])
    same_images = run.settings["data"]["dataset"] == paper.DATASET

    def cell(column):
        result = run.results.get(phases.get(column))
        if result is None:
            return None
        beside = theirs[column] if same_images else None
        ours = {measure: result.get(measure) for measure in (*_MEASURES, *_AUTHORS)}
        return ours | {
            f"{measure}_difference": None if beside is None else ours[measure] - beside[measure]
            for measure in _MEASURES
        }

    return {
        "directory": str(run.directory),
        "seed": run.settings["seed"],
        "finished_phases": len(run.results),
        "num_phases": len(run.phases),
        "differs": paper.comparable(run.settings),
        "note": None,
        "columns": {column: cell(column) for column in _COLUMNS},
    }


# --- forms ------------------------------------------------------------------------------------------------------


def _lines(table: dict[str, Any]) -> Iterator[list[str]]:
    """Lists the lines of a table: the header, then for each row the paper's numbers and each run's with differences.

    What comes from the files of a run is made printable: a terminal obeys control characters.
    """
    yield ["network", "teacher", "what", *_COLUMNS]
    for row in table["rows"]:
        label = row["network"]
        if row["width_multiplier"] not in paper.TABLES:
            label += f" x{row['width_multiplier']}"

        def cells(values, keys, form, row=row):
            for column in _COLUMNS:
                value = values[column]
                if column not in row["columns"]:
                    yield _NOT_APPLICABLE
                elif value is None or value[keys[0]] is None:
                    yield ""
                else:
                    yield " / ".join(format(value[key], form) for key in keys)

        start = [label, row["teacher"]]
        if row["width_multiplier"] in paper.TABLES:
            yield [*start, "paper", *cells(row["paper"], _MEASURES, ".2f")]
            start = ["", ""]
        for run in row["runs"]:
            yield [*start, _label(run), *cells(run["columns"], _MEASURES, ".2f")]
            start = ["", ""]
            if any(map(_has_other_pair, run["columns"].values())):
                yield ["", "", "  authors' subset", *cells(run["columns"], _AUTHORS, ".2f")]
            differences = [f"{measure}_difference" for measure in _MEASURES]
            if any(cell and cell[differences[0]] is not None for cell in run["columns"].values()):
                yield ["", "", "  difference", *cells(run["columns"], differences, "+.2f")]


def _has_other_pair(cell: dict[str, Any] | None) -> bool:
    """Whether other subnets were tested than those that the authors' test visits."""
    if cell is None or cell["authors_avg"] is None:
        return False
    return not math.isclose(cell["authors_avg"], cell["avg"], rel_tol=1e-9)


def _label(run):
    label = printable(f"{run['directory']}, seed {run['seed']}")
    if run["finished_phases"] < run["num_phases"]:
        label += f", {run['finished_phases']} of {run['num_phases']} phases"
    if not run["note"]:
        return label
    kind = "authors' settings" if run["differs"][0] == paper.AUTHORS else ""
    # What differs from the authors' settings stands behind them.
    reduced = "reduced" if run["differs"] != [paper.AUTHORS] else ""
    return f"{label}, {', '.join(filter(None, [kind, reduced]))} [{run['note']}]"


def _footnotes(table: dict[str, Any]) -> list[str]:
    notes = (printable(text) for text in table["notes"])
    return [f"[{number}] not comparable with the paper: {text}" for number, text in enumerate(notes, 1)]


def as_text(tables: Sequence[dict[str, Any]]) -> str:
    """Formats the tables for a terminal, with aligned columns."""
    parts = []
    for table in tables:
        parts += [f"{table['title']}; {_CAPTION}", *aligned(list(_lines(table)), 3), *_footnotes(table), ""]
    return "\n".join(parts)


def as_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """Formats the tables as Markdown."""
    parts = []
    for table in tables:
        parts += [f"## {table['title']}", "", f"{_CAPTION[0].upper()}{_CAPTION[1:]}.", ""]
        parts += markdown_table(list(_lines(table)), 3)
        # Without a blank line between them, Markdown would join the footnotes into one paragraph.
        parts += ["", *(part for note in _footnotes(table) for part in (markdown(note), ""))]
    return "\n".join(parts)


def as_csv(tables: Sequence[dict[str, Any]]) -> str:
    """Formats the tables as CSV: a line for each column of each run, and of each row of the paper without a run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("table", "network", "width_multiplier", "teacher", "column", "run", "seed"),
            *("avg", "best", "paper_avg", "paper_best", "avg_difference", "best_difference", "differs"),
            *_AUTHORS,
        ]
    )
    for table in tables:
        for row in table["rows"]:
            for run in row["runs"] or [None]:
                for column in row["columns"]:
                    table_name = paper.TABLES.get(row["width_multiplier"], "other")
                    key = table_name, row["network"], row["width_multiplier"], row["teacher"], column
                    writer.writerow([*key, *_csv_cells(run, row["paper"][column], column)])
    return file.getvalue()


def _csv_cells(run, theirs, column):
    def numbers(cell, keys):
        return [f"{cell[key]:.2f}" if cell and cell[key] is not None else "" for key in keys]

    ours = run["columns"][column] if run else None
    return [
        *((run["directory"], run["seed"]) if run else ("", "")),
        *numbers(ours, _MEASURES),
        *numbers(theirs, _MEASURES),
        *numbers(ours, [f"{measure}_difference" for measure in _MEASURES]),
        "; ".join(run["differs"]) if run else "",
        *numbers(ours, _AUTHORS),
    ]
