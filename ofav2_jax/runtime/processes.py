"""Several processes of one run: they agree on where it starts and when it stops; the first one reads and writes."""

import contextlib
import functools
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

# Seconds without a heartbeat after which a process counts as lost; the others then end.
_LOST_AFTER_S = 30
# Seconds that processes wait for each other, for instance for one that downloads a data set.
_WAIT_S = 3600
_STOP = "ofav2_jax stop"
_WATCH_EVERY_S = 0.5
_barriers = itertools.count()
_leaving = threading.Lock()


class LostProcessError(Exception):
    """Another process of the run ended or cannot be reached."""


class DifferentProcessesError(ValueError):
    """The processes of a run were started with different settings or data; raised in all of them."""


def connect(coordinator: str | None = None, num_processes: int | None = None, index: int | None = None) -> None:
    """Connects to the other processes of the run. Call it before anything else is done with JAX.

    On TPUs and under Slurm no argument is needed.

    Args:
        coordinator: address and port of the first process.
        num_processes: the number of processes.
        index: the index of this process, from 0.

    Raises:
        ValueError: if the arguments are missing and JAX does not find the other processes by itself.
        LostProcessError: if the other processes cannot be reached.
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
    """Waits until all processes have called it.

    Call it before a program with collectives runs for the first time. On CPUs such a program fails if one process,
    which has more to compile or to read, is half a minute late.
    """
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=f"ofav2_jax {next(_barriers)}", timeout_ms=1000 * _WAIT_S)


def leave_together() -> None:
    """Waits until all processes have called it, and disconnects them. Call it where all of them end.

    A process that ends without this aborts the others. JAX's coordination service runs in process 0. It aborts the
    processes that are still connected when process 0 ends, or when one of them sends no heartbeat for half a minute.
    How far apart the processes end depends on the machine.
    """
    with _leaving:
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()


def announce_stop() -> bool:
    """Announces to all processes, this one included, that one of them was told to stop.

    Returns:
        False if there is only one process; nothing is announced then.
    """
    if not jax.distributed.is_initialized():
        return False
    multihost.get_jax_distributed_client().key_value_set(_STOP, "", allow_overwrite=True)
    return True


class StopWatch:
    """Waits, in a thread of its own, until any process announces a stop.

    Args:
        call: is called then, in that thread. If there is only one process, it never is.
    """

    def __init__(self, call: Callable[[], None]):
        self._call = call
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if jax.distributed.is_initialized():
            self._thread = threading.Thread(target=self._wait, daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        client = multihost.get_jax_distributed_client()
        # The client can wait by itself, but not be interrupted: a thread that still waits in it when Python ends aborts
        # the process.
        while not self._ended.wait(_WATCH_EVERY_S):
            # What it says of a key that is not there yet, or once this process has disconnected.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                client.key_value_try_get(_STOP)
                return self._call()

    def end(self) -> None:
        """Ends the watch, also if `call` was called."""
        self._ended.set()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_WATCH_EVERY_S)  # type: ignore[union-attr]


def is_first() -> bool:
    """Whether this process is the one that reads, writes and prints; true if there is only one."""
    return jax.process_index() == 0


def first_before_others(make: Callable[[], Any]) -> Any:
    """Calls a function in the first process, then in all others; returns its value in each of them."""
    if is_first():
        made = make()
        barrier()
        return made
    barrier()
    return make()


def broadcast(make: Callable[[], Any]) -> Any:
    """Makes a value in the first process and broadcasts it to all.

    Args:
        make: returns a value that JSON can hold; called in the first process only.

    Returns:
        The value; if there are several processes, as JSON gives it back (lists in place of tuples).
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
        make: returns the tree; called in the first process only.
        like: a tree of arrays (or shapes) of the same structure.
    """
    if jax.process_count() == 1:
        return make()
    # As integers: JAX broadcasts by adding zeros, which turns the float -0 into 0.
    tree = make() if is_first() else jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    barrier()
    received = multihost_utils.broadcast_one_to_all(jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint32), tree))
    return jax.tree.map(lambda values, leaf: np.asarray(values).view(leaf.dtype), received, like)


def require_same(what: str, value: Any) -> None:
    """Requires a value to be the same in all processes.

    Args:
        what: the value's name in the error message.
        value: the value of this process; JSON must be able to hold it.

    Raises:
        DifferentProcessesError: in all processes, naming those that differ from the first one.
    """
    if jax.process_count() == 1:
        return
    sha = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    barrier()
    all_sha = np.asarray(multihost_utils.process_allgather(np.frombuffer(sha, np.uint8)))
    differing = np.flatnonzero((all_sha != all_sha[0]).any(axis=1))
    if len(differing):
        raise DifferentProcessesError(f"process {', '.join(map(str, differing))} has other {what} than process 0")


class Requests:
    """Requests to save and to stop a run, on which all processes act between the same two steps.

    Any process can be asked to stop. When to save is the first one's decision: saving runs programs on all devices, and
    the clocks of several processes would have them run these at different places among the others.

    Args:
        devices: the run's devices.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        self._devices = devices
        self._asked_to_stop = False
        self._agreed = (False, False)
        self._pending: jax.Array | None = None

    def stop(self) -> None:
        """Requests a stop. Can be called from a signal handler."""
        self._asked_to_stop = True

    def poll(self, is_save_due: bool) -> None:
        """Exchanges requests between the processes. Each of them must call it after each step.

        Args:
            is_save_due: whether the run should be saved; read in the first process only. If there are several
                processes, they save one step later.
        """
        if jax.process_count() == 1:
            self._agreed = (False, is_save_due)
            return
        # The result that is read here was queued one step ago, so that this process need not wait for the devices.
        to_stop, to_save = (False, False) if self._pending is None else np.asarray(self._pending).tolist()
        self._agreed = to_stop, to_save
        # A save that is agreed on is about to happen: to ask for it once more would be to save twice.
        own = [self._asked_to_stop, is_save_due and is_first() and not to_save]
        self._pending = _any_of_each(shard(np.tile(own, (len(self._devices), 1)), self._devices))
        if jax.default_backend() == "cpu":
            # On CPUs this collective must not run at the same time as those of the next step.
            jax.block_until_ready(self._pending)

    @property
    def must_stop(self) -> bool:
        """Whether the run must stop now."""
        return self._asked_to_stop if jax.process_count() == 1 else self._agreed[0]

    @property
    def must_save(self) -> bool:
        """Whether the run must save now, to go on or to stop."""
        return self.must_stop or self._agreed[1]


_any_of_each = jax.jit(functools.partial(jnp.any, axis=0))
