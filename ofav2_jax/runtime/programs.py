"""Compiles programs ahead of time, maps them over the devices, counts them and measures the time that this takes."""

import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from ofav2_jax.ops.backend import backend
from ofav2_jax.runtime import processes
from ofav2_jax.runtime.sharding import AXIS, replicate, shard
from ofav2_jax.runtime.trace_cache import TraceCache

# Options by backend. They are given per program, because a global XLA_FLAGS entry that an XLA version does not know
# aborts the process; an option that this version does not know is left out.
_FAST_TO_RUN: dict[str, dict[str, Any]] = {
    "cpu": {"xla_cpu_use_fusion_emitters": True},
    # Otherwise XLA drops the rounding to bfloat16 where float32 follows, and writes activations in float32.
    "gpu": {
        "xla_allow_excess_precision": False,
        # Otherwise XLA merges products with a common factor: it copies their operands together, and the results apart.
        "xla_gpu_dot_merger_threshold_mb": 1,
    },
}
_FAST_TO_COMPILE = {"cpu": {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}}
_quickly = False


@functools.cache
def _is_known(option: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile({option: value})
    except Exception:  # XLA has an exception type of its own for this
        return False
    return True


def _known(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {option: value for option, value in options.get(backend(), {}).items() if _is_known(option, value)}


def compiler_options() -> dict[str, Any]:
    """Compiler options for `backend()`; on CPUs, programs run in a quarter less time and compile in a third more."""
    return quick_compiler_options() if _quickly else _known(_FAST_TO_RUN)


def quick_compiler_options() -> dict[str, Any]:
    """Compiler options for programs that run once: on CPUs they compile in a quarter of the time."""
    return _known(_FAST_TO_COMPILE)


def compile_quickly() -> None:
    """Makes all further programs compile with `quick_compiler_options`: for tests, which compile many of them."""
    global _quickly
    _quickly = True


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turns garbage collection off: searching the many objects that tracing makes would be a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Programs:
    """The compiled programs of a run. Programs that differ in the resolution only are compiled in parallel.

    `lower` and `pmap` need no devices, only their descriptions, and shapes of the arguments; see `described`.

    Args:
        devices: the run's devices, those of other processes included.
        resolutions: the run's resolutions, pixels.
        traces: the cache of traced programs; None: every program is traced.

    Attributes:
        devices: the run's devices.
        resolutions: the run's resolutions, pixels.
        seconds: seconds spent on tracing and compiling so far, or waiting for what is compiled ahead.
    """

    def __init__(self, devices: Sequence[jax.Device], resolutions: Sequence[int], traces: TraceCache | None = None):
        self.devices = devices
        self.seconds = 0.0
        self._traces = traces
        self.resolutions = tuple(resolutions)
        self._compiled: dict[tuple[str, int | None], Any] = {}
        self._ahead: dict[tuple[str, int | None], Future[jax.stages.Compiled]] = {}
        # Few at a time, because a compiler takes gigabytes for each.
        self._compiling_ahead = threading.Semaphore(3)

    def __len__(self) -> int:
        return len(self._compiled)

    def compiled(self) -> list[jax.stages.Compiled]:
        """All programs, in the order of their first use."""
        return list(self._compiled.values())

    def pmap(
        self, function: Callable, in_axes: tuple[Any, ...], out_axes: Any, donate: tuple[int, ...] = ()
    ) -> Callable:
        """`jax.pmap` over the devices of the run.

        Args:
            function: computes one device's results from its shard of the arguments.
            in_axes: for each argument, or each array in it, the axis that is sharded over the devices; None: it is
                replicated.
            out_axes: the same for the results.
            donate: positions of the arguments that the program may overwrite. `run` is told too, but JAX lowers a
                pmapped function in its own way, which only knows these.
        """
        return jax.pmap(
            function, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, devices=self.devices, donate_argnums=donate
        )

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on every device of the run; see `sharding.replicate`."""
        return replicate(tree, self.devices)

    def shard(self, array: np.ndarray) -> jax.Array:
        """Shards an array [devices, ...] over the devices of the run; see `sharding.shard`."""
        return shard(array, self.devices)

    def run(
        self, name: str, resolution: int, make: Callable[[int], Any], *args: Any, donate: tuple[int, ...] = ()
    ) -> Any:
        """Runs a program for one resolution; its first use compiles it for all resolutions of the run.

        Args:
            name: identifies the program; the same name always stands for the same function and shapes.
            resolution: one of the run's resolutions.
            make: returns the function to be compiled, which may be pmapped, for a resolution.
            *args: arguments of the function, whose shapes do not depend on the resolution.
            donate: positions of the arguments that the program may overwrite.

        Returns:
            The function's results.
        """
        return self._run(name, resolution, self.resolutions, make, args, donate)

    def run_single(self, name: str, function: Any, *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Runs a function that does not depend on the resolution; its first use compiles it."""
        return self._run(name, None, (None,), lambda _: function, args, donate)

    def _run(self, name, resolution, variants, make, args, donate):
        if (name, resolution) not in self._compiled:
            start = time.perf_counter()
            if (name, resolution) in self._ahead:
                self._compiled[name, resolution] = self._ahead[name, resolution].result()
            else:
                self._compile(name, variants, make, args, donate)
            self.seconds += time.perf_counter() - start
            processes.barrier()
        return self._compiled[name, resolution](*args)

    def _compile(self, name, variants, make, args, donate):
        with _no_garbage_collection():
            lowered = {
                (name, variant): self.lower(f"{name} at {variant}", make(variant), donate, args) for variant in variants
            }
        # Threads help, because XLA compiles a program for a CPU in a single one.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            compiled = pool.map(lambda program: program.compile(compiler_options()), lowered.values())
            self._compiled.update(zip(lowered, compiled))

    def compile_ahead(self, name: str, resolution: int | None, lowered: jax.stages.Lowered) -> None:
        """Compiles a program in a thread of its own, unless that is done already; `run` will wait for it.

        Args:
            name: see `run`.
            resolution: see `run`; None for a program of `run_single`.
            lowered: the program.
        """
        key = name, resolution
        if key in self._compiled or key in self._ahead:
            return
        future: Future[jax.stages.Compiled] = Future()
        self._ahead[key] = future

        def compile_it():
            try:
                with self._compiling_ahead:
                    future.set_result(lowered.compile(compiler_options()))
            except BaseException as error:  # raised again where the program is needed
                future.set_exception(error)

        # A daemon, because a run that is stopped does not wait for programs that it will not use.
        threading.Thread(target=compile_it, daemon=True).start()

    def lower(self, name: str, function: Callable, donate: tuple[int, ...], args: Sequence[Any]) -> jax.stages.Lowered:
        """Traces and lowers a function without running it; see `TraceCache.lower`.

        Args:
            name: the program's name; the same name and shapes always stand for the same function.
            function: the function, which may be pmapped.
            donate: positions of the arguments that the program may overwrite.
            args: the function's arguments, or their shapes.
        """
        if self._traces is None:
            return jax.jit(function, donate_argnums=donate).lower(*args)
        return self._traces.lower(name, function, donate, args)
