"""What the operations of a program cost, by the kind of device."""

from typing import Any

from benchmarks.aot import gpu_cost, tpu_cost

# For each platform a module with `ESTIMATES`, the names of its estimates of all milliseconds, and `estimate`.
COSTS: dict[str, Any] = {"tpu": tpu_cost, "gpu": gpu_cost}
