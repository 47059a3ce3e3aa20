"""Compiles programs ahead of time, counts them and measures how long that takes."""

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

# Options for CPUs. They are given per program, because a global XLA_FLAGS entry that an XLA version does not know
# aborts the process; an option that this version does not know is left out.
_FAST_TO_COMPILE = {"xla_cpu_use_fusion_emitters": False}
_FASTER_TO_COMPILE = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}


@functools.cache
def _is_known(option: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x + 1).lower(0.0).compile({option: value})
    except Exception:  # XLA has an exception type of its own for this
        return False
    return True


def _known(options: dict[str, Any]) -> dict[str, Any]:
    if jax.default_backend() != "cpu":
        return {}
    return {option: value for option, value in options.items() if _is_known(option, value)}


def compiler_options() -> dict[str, Any]:
    """Compiler options for this backend: on CPUs, a third less time to compile for the same speed."""
    return _known(_FAST_TO_COMPILE)


def quick_compiler_options() -> dict[str, Any]:
    """Compiler options for what runs once: on CPUs, a quarter of the time to compile."""
    return _known(_FASTER_TO_COMPILE)


class Programs:
    """The programs of a run, by name.

    Attributes:
        seconds: spent on tracing and compiling so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._compiled: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    def run(self, name: str, function: Callable[[], Any], *args: Any) -> Any:
        """Runs a program, compiling it at its first use.

        Args:
            name: identifies the program; the same name always stands for the same function and shapes.
            function: makes what is compiled (a jitted or pmapped function); only called at the first use.
            *args: its arguments.
        """
        if name not in self._compiled:
            self.compile({name: (function, args)})
        return self._compiled[name](*args)

    def compile(self, wanted: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]]) -> None:
        """Compiles those of `wanted` (name -> function, arguments) that are missing, side by side."""
        missing = {name: value for name, value in wanted.items() if name not in self._compiled}
        start = time.perf_counter()
        lowered = {name: function().lower(*args) for name, (function, args) in missing.items()}
        with ThreadPoolExecutor(max_workers=2) as pool:
            compiled = pool.map(lambda program: program.compile(compiler_options()), lowered.values())
            self._compiled.update(zip(lowered, compiled))
        self.seconds += time.perf_counter() - start
