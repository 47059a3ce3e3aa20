"""Runs `experiments.eps` with programs compiled without optimisation, for tests that start it many times.

Environment variables hurry a process, or slow it down, for the tests that need that:

    TEST_GRACE_S        how long a process that is told to stop may go on
    TEST_LEAVES_AFTER_S how long a process sleeps before it leaves the others
    TEST_SAVES_AFTER_S  how long it sleeps between the parts of what it saves of a phase, so that it can be caught there
    TEST_CLOCK_S        how much later it is, by the run's clock, at each look at it than at the one before
    TEST_LAUNCHES       the file for the names of all programs that are launched on several devices
"""

import itertools
import os
import sys
import time
import types
from pathlib import Path

from experiments import eps, stopping
from ofav2_jax import files
from ofav2_jax.run import run, store
from ofav2_jax.runtime import processes, programs
from tests.helpers import launches


def _delayed(function, seconds):
    def call(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    programs.compile_quickly()
    stopping._GRACE_S = float(os.environ.get("TEST_GRACE_S", stopping._GRACE_S))
    processes.leave_together = _delayed(processes.leave_together, float(os.environ.get("TEST_LEAVES_AFTER_S", 0)))
    between = float(os.environ.get("TEST_SAVES_AFTER_S", 0))
    # A phase saves its parameters, then its scores; the next phase begins with its teacher.
    for name in ("save_phase", "teacher"):
        setattr(store.Store, name, _delayed(getattr(store.Store, name), between))
    files.write_json = _delayed(files.write_json, between)
    if "TEST_CLOCK_S" in os.environ:
        ticks = itertools.count(step=float(os.environ["TEST_CLOCK_S"]))
        run.time = types.SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)
    if "TEST_LAUNCHES" in os.environ:
        launches.record(Path(os.environ["TEST_LAUNCHES"]))
    eps.launch(sys.argv)
