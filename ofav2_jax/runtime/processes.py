"""Several processes of one run: they agree on where it starts and when it stops; the first one reads and writes."""

import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ofav2_jax.runtime.sharding import shard

# After as many seconds without a sign of life a process counts as lost; the others then end.
_LOST_AFTER_S = 30
# How long processes wait for each other, for instance for one that downloads a data set.
_WAIT_S = 3600
_STOP = "ofav2_jax stop"
_barriers = itertools.count()
_leaving = threading.Lock()


class LostProcessError(Exception):
    """Another process of the run ended or cannot be reached."""


class DifferentProcessesError(ValueError):
    """The processes of a run were started with different settings or data; raised in all of them."""


def connect(coordinator: str | None = None, num_processes: int | None = None, index: int | None = None) -> None:
    """Joins the other processes of the run, before anything else is done with JAX.

    Args:
        coordinator: address and port of the first process; on TPUs and under Slurm none of the three is needed.
        num_processes: how many there are.
        index: of this one, from 0.

    Raises:
        ValueError: if nothing tells where the others are.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, index, heartbeat_timeout_seconds=_LOST_AFTER_S)
    except ValueError as error:
        raise ValueError(
            "--multihost finds no TPU slice and no Slurm job: give --coordinator, --num_processes and --process_index "
            f"({error})"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError(f"the other processes cannot be reached: {error}") from error


def barrier() -> None:
    """Returns once all processes are here.

    To be called before a program with collectives runs for the first time: on CPUs it fails if one of the processes,
    which has more to compile or to read, is half a minute late.
    """
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=f"ofav2_jax {next(_barriers)}", timeout_ms=1000 * _WAIT_S)


def leave_together() -> None:
    """Returns once all processes are here, and disconnects them; to be called where all of them end.

    A process that ends without this takes the others with it: JAX's coordination service, which runs in process 0,
    aborts those that are still connected when it goes, and when one of them is not heard of for half a minute. How
    far apart the processes end depends on the machine.
    """
    with _leaving:
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()


def announce_stop() -> bool:
    """Lets all processes, this one included, know that one of them was told to stop; False if there is only one."""
    if not jax.distributed.is_initialized():
        return False
    multihost.get_jax_distributed_client().key_value_set(_STOP, "", allow_overwrite=True)
    return True


def when_stop_is_announced(call: Callable[[], None]) -> None:
    """Calls a function, in a thread of its own, once any process announces a stop."""
    if not jax.distributed.is_initialized():
        return
    client = multihost.get_jax_distributed_client()

    def wait() -> None:
        while jax.distributed.is_initialized():
            # The wait ends with an error after its time, and when this process leaves.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                client.blocking_key_value_get(_STOP, 1000 * _WAIT_S)
                return call()

    threading.Thread(target=wait, daemon=True).start()


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints; a single one is."""
    return jax.process_index() == 0


def first_before_others(make: Callable[[], Any]) -> Any:
    """Calls a function in the first process, and in the others once that is done."""
    if is_first():
        made = make()
        barrier()
        return made
    barrier()
    return make()


def broadcast(make: Callable[[], Any]) -> Any:
    """Makes something in the first process and broadcasts it to all.

    Args:
        make: gives what can be JSON; is only called in the first process.
    """
    if jax.process_count() == 1:
        return make()
    text = json.dumps(make()).encode() if is_first() else b""
    barrier()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.frombuffer(text.ljust(length), np.uint8))
    return json.loads(bytes(np.asarray(text)))


def broadcast_arrays(make: Callable[[], Any], like: Any) -> Any:
    """Makes a tree of arrays of 32 bits in the first process and broadcasts it to all, bit by bit.

    Args:
        make: is only called in the first process.
        like: arrays (or shapes) of the same structure.
    """
    if jax.process_count() == 1:
        return make()
    # As integers: JAX broadcasts by adding zeros, which turns the float -0 into 0.
    tree = make() if is_first() else jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    barrier()
    received = multihost_utils.broadcast_one_to_all(jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint32), tree))
    return jax.tree.map(lambda values, leaf: np.asarray(values).view(leaf.dtype), received, like)


def require_same(what: str, value: Any) -> None:
    """Refuses processes that differ in something.

    Args:
        what: for the message.
        value: JSON.

    Raises:
        DifferentProcessesError: in all of them, naming those that differ from the first one.
    """
    if jax.process_count() == 1:
        return
    sha = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    barrier()
    all_sha = np.asarray(multihost_utils.process_allgather(np.frombuffer(sha, np.uint8)))
    differing = np.flatnonzero((all_sha != all_sha[0]).any(axis=1))
    if len(differing):
        raise DifferentProcessesError(f"process {', '.join(map(str, differing))} has other {what} than process 0")


class StopRequest:
    """Whether a run shall stop: asked of any of its processes, agreed upon by all between the same two steps.

    Args:
        devices: of the run.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self._devices = devices
        self._requested = False
        self._agreed = False
        self._pending: jax.Array | None = None

    def request(self) -> None:
        """Asks for a stop. Can be called from a signal handler."""
        self._requested = True

    def poll(self) -> None:
        """Is called by every process after every step."""
        if jax.process_count() == 1:
            return
        # What was asked before the last step is read, so that the devices need not be waited for.
        self._agreed = self._pending is not None and bool(self._pending)
        self._pending = _any(shard(np.full(len(self._devices), self._requested), self._devices))
        if jax.default_backend() == "cpu":
            # Not beside the collectives of the next step.
            jax.block_until_ready(self._pending)

    def __bool__(self) -> bool:
        return self._requested if jax.process_count() == 1 else self._agreed


_any = jax.jit(jnp.any)
