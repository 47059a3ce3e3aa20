"""Converts nested dictionaries, as JSON and configs hold them, to dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ofav2_jax.checks import did_you_mean, refuse

T = TypeVar("T")


def from_nested(kind: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Makes an instance of a dataclass from a mapping.

    The types of its fields decide which dataclasses and tuples the mappings and lists inside become. Fields that are
    missing have their defaults, so that files written before a field existed can be read.

    Args:
        kind: a dataclass.
        values: the values of its fields by name.
        prefix: put before the names of fields in error messages.

    Returns:
        An instance of `kind`.

    Raises:
        ValueError: naming a field that does not exist, is missing, or has a value that is not allowed.
    """
    if not isinstance(values, Mapping):
        refuse(prefix.rstrip(".") or kind.__name__, values, "a mapping")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ValueError(f"{prefix}{name} is not a field of {kind.__name__}{did_you_mean(str(name), fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _from_plain(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _from_plain(kind: Any, value: Any, field: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        return from_nested(kind, value, f"{field}.")  # type: ignore[arg-type]
    if isinstance(kind, types.UnionType):
        # Among the types that occur in unions, only a tuple has another form in JSON, a list.
        tuples = [each for each in typing.get_args(kind) if typing.get_origin(each) is tuple]
        return _from_plain(tuples[0], value, field) if tuples and isinstance(value, list | tuple) else value
    if not isinstance(value, list | tuple):
        return value
    if typing.get_origin(kind) is tuple:
        return tuple(_from_plain(typing.get_args(kind)[0], item, f"{field}[{i}]") for i, item in enumerate(value))
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        if len(value) != len(kind._fields):
            refuse(field, value, f"a list of {', '.join(kind._fields)}")
        hints = typing.get_type_hints(kind)
        items = zip(kind._fields, value)
        return kind(*(_from_plain(hints[name], item, f"{field}.{name}") for name, item in items))
    return value
