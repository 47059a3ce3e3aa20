"""What the commands share: a parser whose errors are one line, and the checks of what is to be written."""

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec

from ofav2_jax.checks import local_file, local_path

_Arguments = ParamSpec("_Arguments")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the usage."""

    def error(self, message: str) -> NoReturn:
        complain(message)
        self.exit(2)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a run's images are, `data_dir` and `archive` of `open_run`."""
    parser.add_argument(
        "--data_dir", metavar="DIR", type=Path, help="where the run's data set is, if the run was told so"
    )
    parser.add_argument(
        "--archive", metavar="FILE", type=Path, help="the archive of Tiny ImageNet, if the run was given one"
    )


def complain(reason: object, kind: str = "error") -> None:
    """Prints on stderr, in one line, what is wrong."""
    print(f"{kind}: {' '.join(str(reason).split())}", file=sys.stderr)


def interruptible(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """Makes the `main` of a command end with a line and the usual status where it is interrupted, as by Ctrl-C."""

    @functools.wraps(main)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            complain("interrupted")
            return 128 + signal.SIGINT

    return wrapped


def require_new_file(field: str, path: Path, suffix: str) -> Path:
    """The path of a file to be written, with ~ expanded.

    Raises:
        ValueError: if its name ends otherwise, it exists, or its directory does not or cannot be written to.
    """
    return _require_new(field, local_file(field, path, suffix))


def require_new_directory(field: str, path: Path) -> Path:
    """The path of a directory to be made, with ~ expanded.

    Raises:
        ValueError: if it exists, or the directory around it does not or cannot be written to.
    """
    return _require_new(field, local_path(field, path))


def _require_new(field: str, path: Path) -> Path:
    if path.exists():
        raise ValueError(f"{field}={str(path)!r} is not allowed: it exists already")
    if not path.parent.is_dir():
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} is not a directory")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} cannot be written to")
    return path
