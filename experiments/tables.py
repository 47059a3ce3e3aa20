"""Prints Tables IV and V of the paper with the results of runs, each result beside the paper's number.

python -m experiments.tables runs/* [--out=DIR]    # in a clone
ofav2 tables runs/* [--out=DIR]                    # anywhere, where the package is installed
python -m experiments.tables --seeds runs/*        # means over seeds, standard errors, what differs by more than two

Files and directories among the arguments that are no runs of supernets are named on stderr and skipped.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import local_path
from ofav2_jax.report import seed_forms, tables
from ofav2_jax.report.records import RunRecord, read_run
from ofav2_jax.report.seeds import build_seeds

from .output import print_anything
from .parser import Parser, complain, interruptible


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.tables") -> int:
    """Prints the tables, or the comparison over seeds, and writes them as Markdown, CSV and JSON.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if no run could be read, runs are there twice, or the files could not be written.
    """
    print_anything()
    parser = Parser(prog=program, description="Tables IV and V from runs.")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory")
    parser.add_argument("--seeds", action="store_true", help="one row for runs that differ in nothing but the seed")
    parser.add_argument("--out", metavar="DIR", default="tables", help="where to write; ./tables")
    arguments = parser.parse_args(argv)
    runs = []
    for directory in arguments.runs:
        try:
            runs.append(_read_supernet(local_path("RUN", directory)))
        except (ValueError, OSError) as error:
            complain(error, "skipped")
    if not runs:
        complain("none of the arguments is a run directory that can be read")
        return 2
    try:
        out = local_path("out", arguments.out)
        name, forms, content = _seeds(runs) if arguments.seeds else _tables(runs)
        written = [out / f"{name}.{kind}" for kind in ("md", "csv", "json")]
        files.write_text(written[0], forms["md"])
        files.write_text(written[1], forms["csv"])
        files.write_json(written[2], content)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    print(forms["text"])
    print(f"written to {', '.join(map(str, written))}")
    return 0


def _read_supernet(directory: Path) -> RunRecord:
    run = read_run(directory)
    if run.design is not None:
        raise ValueError(f"{directory} fine-tunes one network, {run.design}; the tables are of supernets")
    return run


def _tables(runs: Sequence[RunRecord]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The name of the files, the tables in each form, and what JSON holds."""
    found = tables.build_tables(runs)
    forms = {"text": tables.as_text(found), "md": tables.as_markdown(found), "csv": tables.as_csv(found)}
    return "tables", forms, {"tables": found}


def _seeds(runs: Sequence[RunRecord]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The same of the comparison over seeds."""
    found = build_seeds(runs)
    forms = {"text": seed_forms.as_text(found), "md": seed_forms.as_markdown(found), "csv": seed_forms.as_csv(found)}
    return "seeds", forms, found


if __name__ == "__main__":
    sys.exit(main())
