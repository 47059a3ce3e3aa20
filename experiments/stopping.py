"""What a run does when it is told to stop, by a scheduler, before a preemption, or from the keyboard."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol

from ofav2_jax.runtime import processes

# A step is over long before that; compiling or testing may not be, and has nothing to save.
_GRACE_S = 15.0
# Slurm sends SIGUSR1 or SIGUSR2 where it is asked to (`--signal`); a terminal that is closed sends SIGHUP.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stoppable(Protocol):
    """What can be stopped: a run, or a search."""

    def request_stop(self) -> None:
        """Makes it stop after the step at hand."""

    @property
    def latest_checkpoint(self) -> object:
        """What it goes on from when it is started again; None: from the start."""


class StopSignals:
    """Stops a run between two steps, after a checkpoint; at once, without one, if that takes long or it is told twice.

    A context manager: afterwards the signals do what they did before. Outside of the main thread, where Python allows
    no handlers, it leaves them as they are.

    Args:
        run: what to stop.
        command: how it was started, and is resumed.

    Attributes:
        are_leaving: whether the processes of the run end although they could not stop between two steps.
    """

    def __init__(self, run: Stoppable, command: Sequence[str]):
        self._run = run
        self._command = shlex.join(command)
        self._received = 0
        self.are_leaving = False
        self._reporting = threading.Lock()
        self._handlers: dict[int, Any] = {}
        self._ended = threading.Event()
        self._watch: processes.StopWatch | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # Under `nohup` a closed terminal is to be ignored.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._receive)
        self._watch = processes.StopWatch(self._leave_after_grace)
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._watch is not None:
            self._watch.end()
        for number, handler in self._handlers.items():
            # None: it was not installed from Python, which therefore cannot install it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            self._end()
        self._received = number
        self._run.request_stop()
        # In a thread, because a signal handler must not wait, and the other processes may have to be reached.
        threading.Thread(target=self._announce, daemon=True).start()

    def _announce(self) -> None:
        if not processes.announce_stop():
            self._leave_after_grace()

    def _leave_after_grace(self) -> None:
        if self._ended.wait(_GRACE_S):
            return
        # From here on the other processes may be gone at any moment.
        self.are_leaving = True
        self.leave()
        self._end()

    def leave(self) -> int:
        """Reports, and waits for the other processes to do so; returns the exit status."""
        status = self.report()
        processes.leave_together()
        return status

    def _end(self) -> NoReturn:
        status = self.report()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Threads of the compiler or of a step would keep the process from ending.
        os._exit(status)

    def report(self) -> int:
        """Says once where the run stands and how it goes on; returns the exit status, 128 + the signal."""
        # Of several processes any one may have been told.
        number = self._received or signal.SIGTERM
        if processes.is_first() and self._reporting.acquire(blocking=False):
            name = signal.Signals(number).name if self._received else "a signal to another process"
            where = self._run.latest_checkpoint or "none yet"
            # After SIGHUP there may be no terminal left.
            with contextlib.suppress(OSError):
                print(f"stopped by {name}; last checkpoint: {where}; to go on: {self._command}", file=sys.stderr)
        return 128 + number
