"""The kind of device that a program is traced for: it decides between formulations of the same operation."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

BACKENDS = ("cpu", "gpu", "tpu")

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


def backend() -> str:
    """The backend whose formulations are used while a program is traced: "cpu", "gpu" or "tpu"."""
    chosen = _chosen.get()
    return jax.default_backend() if chosen is None else chosen


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Traces programs for another backend than JAX's: to compile for a device that is not there, and for tests.

    Args:
        name: "cpu", "gpu" or "tpu".
    """
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
