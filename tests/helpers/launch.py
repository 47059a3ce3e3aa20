"""Runs `experiments.eps` with programs compiled without optimisation, for tests that start it many times.

Environment variables hurry a process, or slow it down, for the tests that need that:

    TEST_GRACE_S        how long a process that is told to stop may go on
    TEST_LEAVES_AFTER_S how long a process sleeps before it leaves the others
"""

import os
import sys
import time

from experiments import eps, stopping
from ofav2_jax.runtime import processes, programs


def _leaving_late(leave, seconds):
    def leave_late():
        time.sleep(seconds)
        leave()

    return leave_late


if __name__ == "__main__":
    programs.compile_quickly()
    stopping._GRACE_S = float(os.environ.get("TEST_GRACE_S", stopping._GRACE_S))
    late = float(os.environ.get("TEST_LEAVES_AFTER_S", 0))
    processes.leave_together = _leaving_late(processes.leave_together, late)
    eps.launch(sys.argv)
