"""Tables IV and V of the paper from run directories, each number beside the paper's.

python -m experiments.tables runs/* [--out=DIR]
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ofav2_jax.report.page import paper
from ofav2_jax.report.records import RunRecord, read_run

_COLUMNS = tuple(paper.COLUMNS.values())
_MEASURES = ("avg", "best")
_NOT_APPLICABLE = "n/a"
_CAPTION = "test top-1 in %, average / best of the tested subnets"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables and writes them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables", description="Tables IV and V from runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run directory")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("tables"), help="where to write; ./tables")
    arguments = parser.parse_args(argv)
    runs, errors = [], []
    for directory in arguments.runs:
        try:
            runs.append(read_run(directory))
        except (ValueError, OSError) as error:
            errors.append(" ".join(str(error).split()))
    tables = build_tables(runs)
    try:
        if not errors:
            _write(arguments.out, tables)
    except OSError as error:
        errors.append(" ".join(str(error).split()))
    for message in errors:
        print(f"error: {message}", file=sys.stderr)
    if errors:
        return 2
    print(as_text(tables))
    print(f"written to {', '.join(str(arguments.out / f'tables.{kind}') for kind in ('md', 'csv', 'json'))}")
    return 0


def _write(out: Path, tables: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(as_markdown(tables))
    (out / "tables.csv").write_text(as_csv(tables))
    (out / "tables.json").write_text(json.dumps({"tables": tables}, indent=1) + "\n")


def build_tables(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Table IV, Table V, and a third one for runs with other width multipliers, if there are any.

    Args:
        runs: in the order in which runs of one cell are listed.

    Returns:
        For each table "title", "notes" (what footnote n, from 1, says) and "rows". A row has "network", "teacher",
        "width_multiplier", "paper" (as `paper.paper_row`), "columns" (those that the network has) and "runs": each
        with "directory", "seed", "finished_phases", "num_phases", "differs" (see `paper.comparable`), "note" (the
        number of the footnote, or None) and "columns": for each column None, or avg, best and their differences
        from the paper's (None where that has no number, or one about other images).
    """
    tables = []
    for width_multiplier, title in paper.TABLES.items():
        rows = [_row(network, width_multiplier, teacher, runs) for network in paper.ROWS for teacher in paper.TEACHERS]
        tables.append(_table(f"{title}: width multiplier {width_multiplier}", rows))
    others = sorted({r.settings["width_multiplier"] for r in runs} - set(paper.TABLES))
    rows = [
        _row(network, width_multiplier, teacher, runs)
        for width_multiplier in others
        for network in paper.ROWS
        for teacher in paper.TEACHERS
    ]
    rows = [row for row in rows if row["runs"]]
    return [*tables, _table("Other width multipliers, which the paper does not have", rows)] if rows else tables


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
        ours = {measure: result[measure] for measure in _MEASURES}
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
    """The rows of a table as they are read: the paper's, below it each run's and its differences."""
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
            differences = [f"{measure}_difference" for measure in _MEASURES]
            if any(cell and cell[differences[0]] is not None for cell in run["columns"].values()):
                yield ["", "", "  difference", *cells(run["columns"], differences, "+.2f")]


def _label(run):
    label = f"{run['directory']}, seed {run['seed']}"
    if run["finished_phases"] < run["num_phases"]:
        label += f", {run['finished_phases']} of {run['num_phases']} phases"
    return label + (f", reduced [{run['note']}]" if run["note"] else "")


def _footnotes(table: dict[str, Any]) -> list[str]:
    return [f"[{number}] not comparable with the paper: {text}" for number, text in enumerate(table["notes"], 1)]


def as_text(tables: Sequence[dict[str, Any]]) -> str:
    """The tables for a terminal."""
    parts = []
    for table in tables:
        lines = list(_lines(table))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        parts.append(f"{table['title']}; {_CAPTION}")
        for line in lines:
            left = [cell.ljust(width) for cell, width in zip(line[:3], widths)]
            right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:])]
            parts.append("  ".join([*left, *right]).rstrip())
        parts += [*_footnotes(table), ""]
    return "\n".join(parts)


def as_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """The tables for a document."""
    parts = []
    for table in tables:
        head, *lines = _lines(table)
        parts += [f"## {table['title']}", "", f"{_CAPTION[0].upper()}{_CAPTION[1:]}.", ""]
        parts += [f"| {' | '.join(head)} |", f"|{'---|' * 3}{'---:|' * len(_COLUMNS)}"]
        parts += [f"| {' | '.join(cell.strip().replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
        # A blank line between footnotes makes each a paragraph of its own.
        parts += ["", *(part for note in _footnotes(table) for part in (note, ""))]
    return "\n".join(parts)


def as_csv(tables: Sequence[dict[str, Any]]) -> str:
    """One line for each column of each run, and of each row of the paper that no run stands in."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *("table", "network", "width_multiplier", "teacher", "column", "run", "seed"),
            *("avg", "best", "paper_avg", "paper_best", "avg_difference", "best_difference", "differs"),
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
    ]


if __name__ == "__main__":
    sys.exit(main())
