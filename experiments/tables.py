"""Prints Tables IV and V of the paper with the results of runs, each result beside the paper's number.

python -m experiments.tables runs/* [--out=DIR]    # in a clone
ofav2 tables runs/* [--out=DIR]                    # anywhere, where the package is installed

Files and directories among the arguments that are no runs are named on stderr and skipped.
"""

import argparse
import sys
from collections.abc import Sequence

from ofav2_jax import files
from ofav2_jax.checks import local_path
from ofav2_jax.report.records import read_run
from ofav2_jax.report.tables import as_csv, as_markdown, as_text, build_tables

from .output import print_anything
from .parser import complain


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.tables") -> int:
    """Prints the tables and writes them as Markdown, CSV and JSON.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if no run could be read or the files could not be written.
    """
    print_anything()
    parser = argparse.ArgumentParser(prog=program, description="Tables IV and V from runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory")
    parser.add_argument("--out", metavar="DIR", default="tables", help="where to write; ./tables")
    arguments = parser.parse_args(argv)
    runs = []
    for directory in arguments.runs:
        try:
            runs.append(read_run(local_path("RUN", directory)))
        except (ValueError, OSError) as error:
            complain(error, "skipped")
    if not runs:
        complain("none of the arguments is a run directory that can be read")
        return 2
    tables = build_tables(runs)
    try:
        out = local_path("out", arguments.out)
        written = {kind: out / f"tables.{kind}" for kind in ("md", "csv", "json")}
        files.write_text(written["md"], as_markdown(tables))
        files.write_text(written["csv"], as_csv(tables))
        files.write_json(written["json"], {"tables": tables})
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    print(as_text(tables))
    print(f"written to {', '.join(map(str, written.values()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
