"""Rebuilds the page of a run, `report.html`, from the files in the run directory.

python -m experiments.report RUN    # in a clone
ofav2 report RUN                    # anywhere, where the package is installed
"""

import sys
from collections.abc import Sequence

from ofav2_jax.checks import local_path
from ofav2_jax.report.page import write_report

from .output import print_anything
from .parser import Parser, complain, interruptible


def command(arguments: Sequence[str], program: str) -> int:
    """See `commands.Command`."""
    return main(arguments, program)


@interruptible
def main(argv: Sequence[str] | None = None, program: str = "python -m experiments.report") -> int:
    """Writes RUN/report.html and prints its path.

    Args:
        argv: the command line after the name of the program; None means that of this process.
        program: how the user starts this program.

    Returns:
        The exit status: 0, or 2 if the directory cannot be read or the page not be written.
    """
    print_anything()
    parser = Parser(prog=program, description="Rebuilds the page of a run.")
    parser.add_argument("run", metavar="RUN", help="a run directory, for instance runs/ee_d")
    try:
        print(write_report(local_path("RUN", parser.parse_args(argv).run)))
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
