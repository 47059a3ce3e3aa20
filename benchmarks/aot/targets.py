"""Devices that programs can be compiled for although this machine does not have them, with their data sheets."""

import dataclasses
import importlib.util
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

_HOPPER = Path(__file__).with_name("hopper.txtpb")


@dataclasses.dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
        platform: "tpu" or "gpu".
        kind: the TPU's topology as libtpu calls it, or the GPU's name.
        bandwidth: bytes per second that its main memory can be read or written at.
        memory: bytes of its main memory.
        clock_hz: the clock in which the TPU's compiler estimates; 0 for a GPU.
        options: compiler options beside those of the product.
    """

    platform: str
    kind: str
    bandwidth: float
    memory: int
    clock_hz: float = 0.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def missing(self) -> str | None:
        """Says what must be installed to compile for this device; None if it is installed."""
        modules = ("libtpu",) if self.platform == "tpu" else ("jax_plugins.xla_cuda13", "nvidia.cu13")
        for module in modules:
            if not _is_installed(module):
                return f"{module} is missing: pip install -e '.[aot]'"
        return None

    def device(self) -> jax.Device:
        """A description of the device, for which JAX can compile but not run.

        The environment must say JAX_PLATFORMS=cpu before JAX is first used. Otherwise JAX looks for the device itself,
        and leaves out the compiler if the device is not there.

        Raises:
            RuntimeError: if the compiler is not installed.
        """
        if self.missing:
            raise RuntimeError(self.missing)
        return _DESCRIPTIONS[self.platform](self).devices[0]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _describe_tpu(target: Target) -> topologies.TopologyDescription:
    # libtpu would ask the metadata server of a cloud machine, and let no two processes load it at a time, as if they
    # were to use a TPU.
    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(target.kind, "tpu", chips_per_host_bounds=(2, 2, 1))


def _describe_gpu(target: Target) -> topologies.TopologyDescription:
    # JAX registers the compilers of all its plugins when it first looks for devices.
    jax.devices("cpu")
    fields = {"name": target.kind, "bandwidth": int(target.bandwidth), "memory": target.memory}
    config = string.Template(_HOPPER.read_text(encoding="utf-8")).substitute(fields)
    return topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=config)


_DESCRIPTIONS: dict[str, Callable[[Target], topologies.TopologyDescription]] = {
    "tpu": _describe_tpu,
    "gpu": _describe_gpu,
}

# Without a device nothing can be timed, so XLA gives each Triton product a default tile, which is a bad one, and for
# some programs finds none at all. As calls of a library all products compile.
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_collect_cost_model_stats": True}

# Bandwidth and memory are those of the data sheets. The clocks follow from their peaks of 197 and 918 TFLOP/s, if a
# core makes 4 x 128 x 128 (v5e) or 4 x 256 x 256 (v6e) multiply-accumulates a cycle.
TARGETS = {
    "v5e": Target("tpu", "v5e:2x2", 819e9, 16 * 2**30, clock_hz=1.5e9),
    "v6e": Target("tpu", "v6e:2x2", 1640e9, 32 * 2**30, clock_hz=1.75e9),
    "h100": Target("gpu", "NVIDIA H100 80GB HBM3", 3.35e12, 80 * 2**30, options=_GPU_OPTIONS),
    "h200": Target("gpu", "NVIDIA H200", 4.8e12, 141 * 10**9, options=_GPU_OPTIONS),
}
