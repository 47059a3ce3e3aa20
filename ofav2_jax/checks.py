"""Validation whose errors name the field, the value, what is allowed, and the name that was probably meant."""

import contextlib
import dataclasses
import difflib
import importlib
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

# Longer values are cut in error messages.
_MAX_SHOWN = 200


def did_you_mean(name: str, choices: Iterable[str], spelling: Callable[[str], str] = repr) -> str:
    """The end of an error message about an unknown name.

    Args:
        name: the unknown name.
        choices: the known names.
        spelling: how the message writes a known name.

    Returns:
        "; did you mean 'x'?" with the choice that is closest to `name`, or "" if none is close.
    """
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {spelling(close[0])}?" if close else ""


def shown(value: Any) -> str:
    """A value in an error message: on one line, and cut if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def refuse(field: str, value: Any, allowed: str) -> NoReturn:
    """Raises the ValueError of a field whose value is not allowed."""
    raise ValueError(f"{field}={shown(value)} is not allowed: it must be {allowed}")


def plain(value: Any) -> Any:
    """Python's own int or float for a number of NumPy or JAX, in tuples too; everything else as it is.

    The numbers in settings and subnets have to be hashed, written as JSON, and look the same wherever they are shown.
    """
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(plain, value))
    if hasattr(value, "ndim") and value.ndim == 0:
        # A traced number has no value yet.
        with contextlib.suppress(TypeError):
            return value.item()
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def make_plain(instance: Any) -> None:
    """Makes the fields of a frozen dataclass that is being constructed `plain`."""
    for field in dataclasses.fields(instance):
        object.__setattr__(instance, field.name, plain(getattr(instance, field.name)))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number: not NaN, not True or False, not an int that no float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def require_positive(field: str, value: Any) -> None:
    """Raises a ValueError unless `value` is an int of at least 1."""
    if type(value) is not int or value < 1:
        refuse(field, value, "a positive int")


def require_package(module: str, extra: str, package: str | None = None) -> Any:
    """Imports what only an extra of this package installs.

    Args:
        module: the module's name.
        extra: the extra, for instance "export".
        package: what pip calls it; None: as the module.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed, saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{package or module} is missing: pip install 'ofav2_jax[{extra}]'") from error


def require_text(field: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a printable str that is not empty."""
    if not isinstance(value, str) or not value or not value.isprintable():
        refuse(field, value, "a printable str that is not empty")


def require_among(field: str, value: Any, allowed: Sequence[str]) -> None:
    """Raises a ValueError unless `value` is one of the texts in `allowed`."""
    if value not in allowed:
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        refuse(field, value, f"one of {', '.join(allowed)}{hint}")


def require_range(field: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises a ValueError unless `value` is a finite number of at least `low` and below `high`."""
    if not is_number(value) or not low <= value < high:
        refuse(field, value, f"a number >= {low}" + (f" and < {high}" if high < math.inf else ""))


def require_normalisation(field: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a mean and a deviation of each of three channels, of pixels in [0, 1]."""
    allowed = "three means in [0, 1] and three standard deviations in (0, 1], ((r, g, b), (r, g, b))"
    if not isinstance(value, tuple) or len(value) != 2:
        refuse(field, value, allowed)
    for values in value:
        if not isinstance(values, tuple) or len(values) != 3 or not all(map(is_number, values)):
            refuse(field, value, allowed)
    mean, std = value
    # Beyond 1 lie the numbers for pixels in [0, 255].
    if not all(0 <= x <= 1 for x in mean) or not all(0 < x <= 1 for x in std):
        refuse(field, value, allowed)


def require_fraction(field: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a number above 0 and below 1."""
    if not is_number(value) or not 0 < value < 1:
        refuse(field, value, "a number > 0 and < 1")


def local_path(field: str, value: Any) -> Path:
    """A path as a user writes it, with `~` expanded.

    Args:
        field: what the path is, for the error message.
        value: a str or a path.

    Raises:
        ValueError: if it is no path of a local file system, for instance `gs://bucket/run`, or if there is no home
            directory to put in the place of `~`.
    """
    if not isinstance(value, str | os.PathLike):
        refuse(field, value, "a path")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        refuse(field, value, "a path that is not empty")
    # A `Path` has made one slash of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        refuse(field, text, "a path of a local file system, on which a bucket can be mounted")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        refuse(field, text, "a path without '~', because no home directory is known here")


def local_file(field: str, value: Any, *suffixes: str) -> Path:
    """The path of a file whose name ends in one of some suffixes; see `local_path`.

    Raises:
        ValueError: as in `local_path`, and if the name ends otherwise.
    """
    path = local_path(field, value)
    if path.suffix not in suffixes:
        raise ValueError(f"{field}={str(path)!r} is not allowed: its name must end in {' or '.join(suffixes)}")
    return path
