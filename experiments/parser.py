"""What the commands share: a parser whose errors are one line, and the checks of what is to be written."""

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, ParamSpec

from ofav2_jax.checks import local_file, local_path
from ofav2_jax.locking import LockedError, locked

if TYPE_CHECKING:
    from ofav2_jax.deploy.standalone import Standalone
    from ofav2_jax.run.opened import OpenedRun

_Arguments = ParamSpec("_Arguments")


# The flags that say where a run's images are.
_DATA = "data_dir", "archive"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; `--help` has the usage."""

    def error(self, message: str) -> NoReturn:
        complain(message)
        self.exit(2)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a run's images are, `data_dir` and `archive` of `open_run`."""
    parser.add_argument("--data_dir", metavar="DIR", help="where the run's data set is, if the run was told so")
    parser.add_argument("--archive", metavar="FILE", help="the archive of Tiny ImageNet, if the run was given one")


def data_flags(arguments: argparse.Namespace) -> list[str]:
    """The flags of `add_data_arguments` that were given, for another command on the same run."""
    return [f"--{name}={value}" for name in _DATA if (value := getattr(arguments, name)) is not None]


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


def open_run(arguments: argparse.Namespace) -> "OpenedRun":
    """The run that `--run` names, with the flags of `add_data_arguments` if the command has them.

    Raises:
        ValueError: naming the flag, the value and what is wrong.
    """
    # JAX is imported only where it is needed.
    from ofav2_jax.run.opened import open_named

    given = {name: getattr(arguments, name) for name in _DATA if hasattr(arguments, name)}
    return open_named("run", arguments.run, **given)


def load_network(field: str, path: str) -> "Standalone":
    """The network in a file that extract wrote.

    Raises:
        ValueError: naming the flag if it names no such file, or the file and what is wrong with it.
    """
    from ofav2_jax.deploy.standalone import Standalone

    return Standalone.load(local_file(field, path, ".safetensors"))


@contextlib.contextmanager
def named_flag(flag: str, value: str) -> Iterator[None]:
    """Puts a flag before what is said of a part of its value."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--{flag}={value}: {error}") from error


@contextlib.contextmanager
def new_file(field: str, path: str, suffix: str) -> Iterator[Path]:
    """The path of a file that the body of a `with` writes, with ~ expanded; no other command writes it meanwhile.

    Raises:
        ValueError: if its name ends otherwise, it exists, its directory does not or cannot be written to, or another
            process is writing it.
    """
    with _new(field, local_file(field, path, suffix)) as file:
        yield file


@contextlib.contextmanager
def new_directory(field: str, path: str, may_be_empty: bool = False) -> Iterator[Path]:
    """The path of a directory that the body of a `with` makes; see `new_file`. An empty one may or may not be there."""
    with _new(field, local_path(field, path), may_be_empty) as directory:
        yield directory


@contextlib.contextmanager
def _new(field: str, path: Path, may_be_empty: bool = False) -> Iterator[Path]:
    _require_new(field, path, may_be_empty)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(f"{path.name}.lock"), None))
        except LockedError as owner:
            raise ValueError(f"{field}={str(path)!r} is not allowed: {owner} is writing it") from None
        # Another process may have just done so.
        _require_new(field, path, may_be_empty)
        yield path


def _require_new(field: str, path: Path, may_be_empty: bool) -> None:
    if path.exists() and not (may_be_empty and path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{field}={str(path)!r} is not allowed: it exists already")
    if not path.parent.is_dir():
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} is not a directory")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{field}={str(path)!r} is not allowed: {path.parent} cannot be written to")
