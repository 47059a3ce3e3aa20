"""Names of the files in a run's directory, and writing a file so that no reader ever finds half of it."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"
DATA = "data.json"
INFO = "run.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
REPORT = "report.html"
LOCK = "lock"
STATE = "state"
DAMAGED = "damaged"
SEARCHES = "search"

# Names inside the directory of a phase.
PHASE_RESULT = "result.json"
PHASE_PARAMS = "params"
PHASE_TEACHER = "teacher"


def phase_directory(workdir: Path, index: int, name: str) -> Path:
    """The directory of a phase's result, for instance `phases/03-height-2` in the run's directory.

    Args:
        workdir: the run's directory.
        index: the phase's index, from 0.
        name: the phase's name.
    """
    return workdir / "phases" / f"{index:02d}-{name}"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file; at every moment `path` holds either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, because another process may be writing the same file.
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file, with the guarantee of `write_bytes`."""
    write_bytes(path, text.encode())


def reason(error: BaseException) -> str:
    """What an error says, in one line, with its kind where the text alone would mean nothing."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError | TypeError | AttributeError) else text


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, with the guarantee of `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.
        fields: keys that the object must have.

    Raises:
        ValueError: if the file cannot be read, holds something else or lacks a field; names the file and the reason.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} cannot be read: it does not hold a JSON object")
    for field in fields:
        if field not in value:
            raise ValueError(f"{path} cannot be read: {field!r} is missing")
    return value
