"""What the commands share: a parser whose errors are one line, and the check of a file to be written."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from ofav2_jax.checks import local_file


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the usage."""

    def error(self, message: str) -> NoReturn:
        complain(message)
        self.exit(2)


def complain(reason: object, kind: str = "error") -> None:
    """Prints on stderr, in one line, what is wrong."""
    print(f"{kind}: {' '.join(str(reason).split())}", file=sys.stderr)


def require_new_file(field: str, path: Path, suffix: str) -> Path:
    """The path of a file to be written, with ~ expanded.

    Raises:
        ValueError: if its name ends otherwise, it exists, or its directory does not or cannot be written to.
    """
    path = local_file(field, path, suffix)
    if path.exists():
        raise ValueError(f"{field}={str(path)!r} is not allowed: it exists already")
    if not path.parent.is_dir():
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} is not a directory")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} cannot be written to")
    return path
