"""Starts runs from the command line as separate processes, and reads their results."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = "tests/configs/tiny.py"


def launch(workdir, cache, *arguments, config=TINY, num_devices=1, **variables):
    """Starts a run; compiled programs are kept in `cache`. Further environment variables are those of `launch.py`."""
    command = [sys.executable, "-m", "tests.helpers.launch", f"--config={config}", f"--workdir={workdir}", *arguments]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_NUM_CPU_DEVICES": str(num_devices)}
    environment |= variables
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# Far more seconds than any machine needs. A process that takes longer hangs, and must not hold up the other tests.
_HANGS_S = 1200


def finish(process, timeout=_HANGS_S):
    """Waits for the end of a process; returns its exit status, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def wait_until(condition, process):
    """Waits until a condition holds or the process has ended; returns whether the condition holds."""
    deadline = time.monotonic() + _HANGS_S
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


def kill(process):
    """Sends SIGKILL and waits for the end of the process."""
    process.kill()
    finish(process)


def results_of(workdir):
    """The content of a run's `results.json`."""
    return json.loads((workdir / "results.json").read_text())


def records_of(workdir):
    """The records of a run's `metrics.jsonl`, without what was measured with a clock."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured = ("images_per_s", "images_waited")
    return [{name: value for name, value in record.items() if name not in measured} for record in records]


def assert_same_run(ours, theirs):
    """Asserts that two directories hold the same run, bit for bit."""
    one, other = results_of(ours), results_of(theirs)
    assert one["params_sha256"] == other["params_sha256"]
    assert one["phases"] == other["phases"]
    assert records_of(ours) == records_of(theirs)
