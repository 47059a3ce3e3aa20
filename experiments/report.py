"""Rebuilds the page of a run.

python -m experiments.report RUN
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ofav2_jax.report.page import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Writes RUN/report.html and prints its path; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description="Rebuilds the page of a run.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, for instance runs/ee_d")
    try:
        print(write_report(parser.parse_args(argv).run))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
