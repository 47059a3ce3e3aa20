"""Measured times: of the files of a plan, as `measure.py` wrote them on a device; and of whole networks here."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import is_number, local_file, refuse, require_text, shown
from ofav2_jax.latency import measure
from ofav2_jax.latency.write import BUDGET, PLAN_FORMAT, make_plan
from ofav2_jax.model.supernet import SuperNet

FORMAT = "ofav2_jax.times/1"
# What a table is of: the network, how it runs, and where.
NET_FIELDS = ("network", "width_multiplier", "num_classes", "exit_widths")
SETTING_FIELDS = ("dtype", "threads", "batch_size")
DEVICE_FIELDS = ("device", "runtime", "version", "provider")
# Of networks that are measured by themselves.
_BUDGET = {"min_rounds": 10, "max_rounds": 30, "seconds": 5}

Say = Callable[[str], None]


def read_times(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `measure.py` wrote on a device.

    Raises:
        ValueError: if the file is no such file, damaged, or not complete; names the file and the reason.
    """
    file = local_file("collect", path, ".json")
    content = files.read_json(file)
    try:
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {shown(content.get('format'))}, not {FORMAT!r}")
        if content["is_complete"] is not True:
            raise ValueError("the measurement is not complete; measure.py goes on with it")
        plan_and_rounds(content)
        require_device(content)
    except (KeyError, TypeError, AttributeError, ValueError) as reason:
        raise ValueError(f"{file} does not hold the times of measure.py: {files.reason(reason)}") from reason
    return content


def plan_and_rounds(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The plan of `measure.main`'s result, and for each file the times in microseconds, one a round.

    Raises:
        ValueError: if it is not what a plan of this version asks for.
    """
    plan = content["plan"]
    if plan["format"] != PLAN_FORMAT:
        raise ValueError(f"the plan's format is {shown(plan['format'])}, not {PLAN_FORMAT!r}")
    if {**plan, "budget": BUDGET} != make_plan(net_of(plan), plan["resolutions"], plan["threads"], plan["batch_size"]):
        raise ValueError("its plan is not one of this version: prepare the folder again")
    return plan, _rounds(content["us"], plan["files"])


def _rounds(us: Any, names: Sequence[str]) -> dict[str, list[float]]:
    """The measured times by file, of which there are equally many of each."""
    if not isinstance(us, Mapping) or set(us) != set(names):
        raise ValueError("us are not the times of the plan's files")
    numbers = {len(of_file) for of_file in us.values()}
    if len(numbers) > 1 or min(numbers) < 2:
        raise ValueError("us are not the times of two rounds or more")
    for name, of_file in us.items():
        for time in of_file:
            if not is_number(time) or time <= 0:
                refuse(f"us of {name}", time, "a number > 0")
    return dict(us)


def net_of(record: Mapping[str, Any]) -> SuperNet:
    """The network that a plan or a table is of."""
    return SuperNet(**{name: record[name] for name in NET_FIELDS})


def require_device(record: Mapping[str, Any]) -> None:
    """Requires the fields of `measure.device`."""
    named = {**record["device"], **{name: record[name] for name in DEVICE_FIELDS if name != "device"}}
    for name in ("processor", "machine", "runtime", "version", "provider"):
        require_text(name, named.get(name))


def require_onnxruntime() -> None:
    """Requires the package onnxruntime.

    Raises:
        ImportError: without the extra `export`, saying how to install it.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError("onnxruntime is missing: pip install 'ofav2_jax[export]'") from error


def time_networks(paths: Sequence[Path], threads: int, batch_size: int, say: Say = lambda line: None) -> list[float]:
    """Times whole networks in turns, as tables do.

    Args:
        paths: exported networks.
        threads: threads that a network runs on.
        batch_size: images that it runs on.
        say: is told the progress, a line each time.

    Returns:
        Milliseconds for a batch.

    Raises:
        ValueError: if one cannot be run.
        ImportError: without the extra `export`.
    """
    require_onnxruntime()
    visits = {}
    for path in paths:
        try:
            visits[str(path)] = measure.timer(path, threads, batch_size)
            visits[str(path)]()
        except Exception as error:  # of classes of its own, without a common base
            raise ValueError(f"{path} does not run: {' '.join(str(error).split())}") from error
    times: dict[str, list[float]] = {name: [] for name in visits}
    for _ in measure.rounds(visits, times, _BUDGET, say):
        pass
    return [1e-3 * float(np.median(times[str(path)])) for path in paths]
