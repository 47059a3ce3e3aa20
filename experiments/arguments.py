"""The command line of an experiment: flags, the config file, and the fields of it that are set by hand."""

import dataclasses
import functools
import re
import runpy
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs.common import optional_fields
from ofav2_jax.checks import did_you_mean, refuse, require_positive

from .shipped import find_config, shipped_configs, similar_configs

# What the text of a field must be; any text is a str.
_TYPES = {int: "an int", float: "a number", bool: "true or false", tuple: "a tuple, for instance (48,64)"}
_FLAG_TYPES = {"bool": bool, "int": int}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line.

    Attributes:
        config: the experiment, with the fields that the command line sets.
        workdir: the run's directory, or None.
        dry_run: whether only the plan is wanted.
        processes: what `processes.connect` takes if this is one process of several, else None.
    """

    config: ConfigDict
    workdir: str | None
    dry_run: bool
    processes: tuple[str, int, int] | tuple[()] | None = None


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Reads `--config=FILE[:name=value,...] [--workdir=DIR] [--config.field=value] [--dry_run]` and `--multihost`.

    Args:
        argv: the name of the program and its arguments.

    Raises:
        ValueError: for anything else; where a name is unknown, with the one that was probably meant.
    """
    # Not the process's own flags: those can be defined and parsed only once.
    own = flags.FlagValues()
    flags.DEFINE_string("config", None, "The experiment, a file or a name.", flag_values=own)
    flags.DEFINE_string("workdir", None, "The run's directory; runs/<name> if not given.", flag_values=own)
    flags.DEFINE_bool("dry_run", False, "Print the plan and stop.", flag_values=own)
    flags.DEFINE_bool("multihost", False, "Be one process of several.", flag_values=own)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=own)
    flags.DEFINE_integer("num_processes", None, "How many processes there are.", flag_values=own)
    flags.DEFINE_integer("process_index", None, "Which of them this one is, from 0.", flag_values=own)
    # The values in `--config.field value` do not end the flags.
    own.set_gnu_getopt(True)
    try:
        rest = own(argv, known_only=True)
        if own.config is None:
            for argument in rest[1:]:
                if argument.startswith("-") and not argument.startswith("--config."):
                    _refuse_flag(argument.lstrip("-").partition("=")[0], own)
            raise ValueError("--config is missing; for instance --config=configs/quickstart.py")
        config = load_config(own.config)
        fields = list(field_names(config))
        _set_fields(config, fields, rest)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        if name in fields:
            raise ValueError(f"--{name} is unknown; did you mean --config.{name}?") from error
        _refuse_flag(name, [*own, *(f"config.{field}" for field in fields)])
    except flags.IllegalFlagValueError as error:
        name, _, text = str(error).removeprefix("flag --").removesuffix(f": {error.__context__}").partition("=")
        field = name.removeprefix("config.")
        refuse(field, text, _TYPES[_FLAG_TYPES[own[name].flag_type()] if field == name else _type_of(config, field)])
    except flags.Error as error:
        raise ValueError(f"the command line is not understood: {error}") from error
    return Arguments(config, own.workdir, own.dry_run, _processes(own))


def _processes(own: flags.FlagValues) -> tuple[str, int, int] | tuple[()] | None:
    explicit = {name: own[name].value for name in ("coordinator", "num_processes", "process_index")}
    given = [name for name, value in explicit.items() if value is not None]
    if given and not own.multihost:
        raise ValueError(f"--{given[0]} is for runs of several processes: it goes with --multihost")
    if not own.multihost:
        return None
    if not given:
        return ()
    for name, value in explicit.items():
        if value is None:
            raise ValueError(f"--{name} is missing: --coordinator, --num_processes and --process_index go together")
    if not re.fullmatch(r".+:\d+", own.coordinator):
        refuse("coordinator", own.coordinator, "HOST:PORT")
    require_positive("num_processes", own.num_processes)
    if not 0 <= own.process_index < own.num_processes:
        refuse("process_index", own.process_index, f"from 0 to {own.num_processes - 1}")
    return own.coordinator, own.num_processes, own.process_index


def _set_fields(config: ConfigDict, fields: Sequence[str], arguments: Sequence[str]) -> None:
    """Sets the fields that are among the arguments.

    Args:
        config: is changed.
        fields: the names of all its fields.
        arguments: the name of the program, then what has to be `--config.field=value`.
    """
    for argument in arguments[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in fields:
            inside = [field for field in fields if field.startswith(f"{match[1]}.")]
            if inside:
                raise ValueError(f"--config.{match[1]} holds several fields: set one of {', '.join(inside)}")
            hint = did_you_mean(match[1], fields, "--config.{}".format)
            raise ValueError(f"--config.{match[1]} is unknown{hint}")
    arguments, by_hand = _set_by_hand(config, fields, arguments)
    overrides = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=overrides, sys_argv=list(arguments))
    overrides.set_gnu_getopt(True)
    rest = overrides(arguments)[1:]
    if rest:
        raise ValueError(f"argument {rest[0]!r} is not understood; arguments are written --name=value")
    for name, value in by_hand.items():
        *sections, field = name.split(".")
        functools.reduce(ConfigDict.__getitem__, sections, config)[field] = value


def _set_by_hand(
    config: ConfigDict, fields: Sequence[str], arguments: Sequence[str]
) -> tuple[list[str], dict[str, str | None]]:
    """Takes out what ml_collections cannot read: None, and the values of fields that have one of several types.

    Returns:
        The other arguments, and the values of fields by name. Of several arguments for a field the last one counts.
    """
    optional, left = optional_fields(), []
    values: dict[str, str | None] = {}
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, text = re.sub("^--?config[.]", "", argument).partition("=")
        is_ours = name in fields and argument.startswith("-")
        if is_ours and (name in optional or _type_of(config, name) is object):
            if not equals and waiting:
                equals, text = "=", waiting.pop(0)
            values.pop(name, None)
            if equals and (text == "None" or name not in optional):
                values[name] = None if name in optional else text
            else:
                left.append(f"{argument.partition('=')[0]}{equals}{text}")
        else:
            left.append(argument)
    return left, values


def _refuse_flag(name: str, known: Iterable[str]) -> NoReturn:
    hint = did_you_mean(name, known, "--{}".format)
    raise ValueError(
        f"--{name} is unknown{hint or '; there are --config, --config.field, --workdir, --dry_run and --multihost'}"
    )


def _type_of(config: ConfigDict, field: str) -> type:
    *sections, name = field.split(".")
    return functools.reduce(ConfigDict.__getitem__, sections, config).get_type(name)


def load_config(argument: str) -> ConfigDict:
    """Runs the `get_config` of a config file.

    Args:
        argument: `FILE` or `FILE:text`; the text is what `get_config` is called with. Instead of a file it may be the
            name of a shipped config, see `find_config`.

    Raises:
        ValueError: if there is no such file, or it does not give a config.
    """
    path, colon, text = argument.partition(":")
    file = find_config(path)
    if file is None:
        raise ValueError(f"config={path!r} is not a file{_what_is_there(path)}")
    try:
        module = runpy.run_path(str(file))
        if "get_config" not in module:
            raise ValueError(f"config={path!r} is not a config file: it has no function get_config")
        config = module["get_config"](*([text] if colon else []))
    except ValueError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(file)]
        raise ValueError(f"config={path!r} fails{''.join(lines[-1:])}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config={path!r} is not a config file: get_config returns {config!r}, not a ConfigDict")
    return config


def _what_is_there(path: str) -> str:
    """The rest of the message that a config is not a file."""
    known = similar_configs(path)
    hint = did_you_mean(Path(path).stem, known, known.__getitem__)
    return hint if Path(path).suffix else f" and not one of {', '.join(shipped_configs())}{hint}"


def field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The names of all fields: `seed`, `data.flip`, `phases.full.epochs`."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from field_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
