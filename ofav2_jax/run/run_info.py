"""Records how a run was started: command, versions and machine, in `run.json`."""

import datetime
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax

from ofav2_jax import files

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def require_readable_info(workdir: Path) -> None:
    """Refuses a directory whose `run.json` cannot be read, before a run goes on in it.

    Raises:
        ValueError: naming the file and the reason.
    """
    path = workdir / files.INFO
    if path.exists() and not isinstance(files.read_json(path).get("resumed", []), list):
        raise ValueError(f"{path} cannot be read: 'resumed' is not a list")


def write_run_info(workdir: Path, command: Sequence[str]) -> None:
    """Writes `run.json` at the first start of a run, and adds an entry to it whenever the run is resumed.

    Args:
        workdir: the run directory.
        command: the program and its arguments, which are recorded quoted for a shell.

    Raises:
        ValueError: if there is a `run.json` that cannot be read.
    """
    devices = jax.devices()
    start = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        },
    }
    path = workdir / files.INFO
    if path.exists():
        first = files.read_json(path)
        info = {**first, "resumed": [*first.get("resumed", []), start]}
    else:
        info = start
    files.write_json(path, info)
