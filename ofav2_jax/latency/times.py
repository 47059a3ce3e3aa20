"""Measured times of the files of a plan, as `measure.py` wrote them on a device."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import is_number, local_file, refuse, require_text, shown
from ofav2_jax.latency.write import BUDGET, PLAN_FORMAT, make_plan
from ofav2_jax.model.supernet import SuperNet

FORMAT = "ofav2_jax.times/1"
# What a table is of: the network, how it runs, and where.
NET_FIELDS = ("network", "width_multiplier", "num_classes", "exit_widths")
SETTING_FIELDS = ("dtype", "threads", "batch_size")
DEVICE_FIELDS = ("device", "runtime", "version", "provider")
# Other processes only ever add to a time.
_QUANTILE = 0.25


def of_rounds(times: Any) -> np.ndarray:
    """The time of each file from those of its rounds, [..., rounds]: the lower quartile."""
    return np.quantile(times, _QUANTILE, axis=-1)


def read_times(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what `measure.py` wrote on a device.

    Raises:
        ValueError: if the file is no such file, damaged, or not complete; names the file and the reason.
    """
    file = local_file("path", path, ".json")
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
