"""Runs from the command line, as processes of their own."""

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


# Far beyond what any machine needs: only there so that a process that hangs does not hold up everything.
_HANGS_S = 1200


def finish(process, timeout=_HANGS_S):
    """Waits; returns the exit status, what was printed, and what was printed as errors."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def wait_until(condition, process):
    """Waits until a condition holds or the process has ended; whether it holds."""
    deadline = time.monotonic() + _HANGS_S
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


def kill(process):
    """SIGKILL."""
    process.kill()
    finish(process)


def results_of(workdir):
    """What a run came to."""
    return json.loads((workdir / "results.json").read_text())


def records_of(workdir):
    """The measurements of a run, without those of time."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_s"} for record in records]


def assert_same_run(ours, theirs):
    """Two directories hold the same run, bit for bit."""
    one, other = results_of(ours), results_of(theirs)
    assert one["params_sha256"] == other["params_sha256"]
    assert one["phases"] == other["phases"]
    assert records_of(ours) == records_of(theirs)
