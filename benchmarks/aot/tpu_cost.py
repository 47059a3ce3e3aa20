"""A TPU program's time: the cycles that the compiler writes beside each operation, at the chip's clock."""

from benchmarks.aot.targets import Target
from benchmarks.aot.traffic import Operation

ESTIMATES = ("estimated_ms",)


def cycles(operation: Operation) -> int:
    """The compiler's estimate for the operation, executed once.

    It is 0 for what the compiler does not estimate: scalars, and copies that run beside other operations.
    """
    found = operation.instruction.attribute(r'"estimated_cycles":"(\d+)"')
    return int(found) if found else 0


def estimate(operations: list[Operation], target: Target) -> dict[str, float]:
    """Fills in the milliseconds of each operation; returns their sum and the time that the bytes alone take."""
    for operation in operations:
        operation.ms["estimated_ms"] = 1e3 * cycles(operation) * operation.times / target.clock_hz
    return {
        "estimated_ms": sum(operation.ms["estimated_ms"] for operation in operations),
        "bytes_ms": 1e3 * sum(operation.num_bytes * operation.times for operation in operations) / target.bandwidth,
    }
