"""A GPU program's time: a bound by bytes and launches, and XLA's own model of its kernels. Neither was measured."""

import re

from benchmarks.aot.targets import Target
from benchmarks.aot.traffic import Operation

# From the end of one small kernel to the end of the next.
LAUNCH_S = 3e-6
ESTIMATES = ("bound_ms", "model_ms")

_COST = re.compile(r'"exec_time_us":([\d.eE+-]+),[^{}]*?"name":"([^"]*)"')


def model_us(operation: Operation) -> float | None:
    """XLA's model of a fusion, executed once; None for what it has no model of, as for library products."""
    costs = {name: float(us) for us, name in _COST.findall(operation.instruction.attributes)}
    # Of Triton's kernels the general model is orders of magnitude off; the model of their tiles is not.
    return costs.get("indexing-cost-model", None if "__triton" in operation.instruction.attributes else costs.get(""))


def estimate(operations: list[Operation], target: Target) -> dict[str, float]:
    """Fills in the milliseconds of each kernel; returns their sums, and the times of bytes and launches alone."""
    for operation in operations:
        by_bytes = operation.num_bytes / target.bandwidth
        modelled = model_us(operation)
        operation.ms["bound_ms"] = 1e3 * operation.times * max(by_bytes, LAUNCH_S)
        operation.ms["model_ms"] = 1e3 * operation.times * (by_bytes if modelled is None else modelled / 1e6)
    launches = sum(operation.times for operation in operations)
    return {
        **{name: sum(operation.ms[name] for operation in operations) for name in ESTIMATES},
        "bytes_ms": 1e3 * sum(operation.num_bytes * operation.times for operation in operations) / target.bandwidth,
        "launches_ms": 1e3 * launches * LAUNCH_S,
    }
