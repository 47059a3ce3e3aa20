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


def one_at_a_time() -> bool:
    """Whether a program runs its traced subnets one after another, and skips what a subnet does not contain.

    On a GPU all of them run at once, as one axis of every array: a kernel that is four times as large costs no further
    launch, and for a conditional the host would have to wait. A CPU gains nothing from larger arrays, and on a TPU the
    activations of a single subnet fit into the core's own memory.
    """
    return backend() != "gpu"


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
