"""A run gives the same result on any number of devices and processes."""

import os
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.helpers import steps
from tests.helpers.runs import ROOT, finish, launch, wait_until


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # In a network that has hardly been trained, one or two of 359 images may have tied logits.
        tolerance = 0.6 if name == "top1" else 1e-9
        np.testing.assert_allclose(value, theirs[name], rtol=1e-9, atol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["masked", "static"])
def test_one_two_four_and_eight_devices_train_the_same_parameters(engine):
    with jax.enable_x64(True):
        one, *others = (steps.train("ee_d", engine, jax.devices()[:number], steps.TEN) for number in (1, 2, 4, 8))
    for other in others:
        assert_same(one, other)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_of_two_devices_train_the_same_parameters_as_one_device(tmp_path):
    coordinator = f"127.0.0.1:{free_port()}"
    arguments = [[coordinator, "2", str(index), "2", str(tmp_path / "process")] for index in range(2)]
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.steps", *each], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for each in arguments
    ]
    for process in pair:
        status, _, err = finish(process)
        assert status == 0, err
    with jax.enable_x64(True):
        one = steps.train("ofa_mbv3", "masked", jax.devices()[:1], steps.TWO)
    for index in range(2):
        assert_same(one, dict(np.load(tmp_path / f"process-{index}.npz")))


@pytest.fixture
def start_pair(cache, tmp_path):
    """Starts a run of two processes with two devices each."""
    started = []

    def start(workdir, of_second=None, arguments=("--config.checkpoint.every_s=0",), **variables):
        several = ["--multihost", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
        pair = [
            launch(
                workdir,
                cache,
                *(*several, f"--process_index={index}", *arguments),
                num_devices=2,
                **(variables | (of_second or {} if index else {})),
            )
            for index in range(2)
        ]
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()


def printed(out):
    """The lines of an output, without those of Gloo, the library of the collectives, whose threads write at once."""
    return [line for line in out.splitlines() if not re.search(r"Gloo|peer ranks|^[\d\s:.]*$", line)]


def newest(workdir):
    """The number of the newest checkpoint; 0 where there is none yet."""
    return max((int(path.name) for path in (workdir / "state").glob("*") if path.name.isdigit()), default=0)


def test_run_of_two_processes(start_pair, cache, tmp_path):
    workdir, launches = tmp_path / "run", [tmp_path / f"launches-{index}" for index in range(2)]

    # By these clocks the first process is to save after every step, and the second one never inside an epoch.
    clocks = [{"TEST_CLOCK_S": seconds, "TEST_LAUNCHES": str(path)} for seconds, path in zip(("2.5", "0.1"), launches)]
    # The process that is told to stop is not the one that saves. It is slow to leave, and the other waits for it.
    of_second = {"TEST_LEAVES_AFTER_S": "5", **clocks[1]}
    first, second = start_pair(workdir, of_second, arguments=("--config.checkpoint.every_s=2",), **clocks[0])
    assert wait_until(lambda: newest(workdir) >= 4, first)
    second.send_signal(signal.SIGTERM)
    (status, out, err), (other_status, other_out, other_err) = finish(first), finish(second)
    assert (status, other_status) == (143, 143), err + other_err
    assert re.search(rf"stopped by a signal to another process; last checkpoint: {workdir}/state/\d+; to go on: ", err)
    assert "network" in "".join(printed(out)) and not printed(other_out) and not other_err
    # The first one's clock counted, and both launched the same programs in the same order.
    ours, theirs = (path.read_text(encoding="utf-8").split() for path in launches)
    assert ours == theirs and ours.count("jit(all_finite)") > 2

    # If a process that is told to stop may not go on at all, both leave amid a program, with the same status.
    first, second = start_pair(workdir, TEST_GRACE_S="0")
    saved = newest(workdir)
    assert wait_until(lambda: newest(workdir) > saved, first)
    first.send_signal(signal.SIGTERM)
    (status, out, err), (other_status, other_out, other_err) = finish(first), finish(second)
    assert (status, other_status) == (143, 143), err + other_err
    assert err.startswith("stopped by SIGTERM; last checkpoint: ") and not other_err

    # If one process is killed, the other ends and says why.
    first, second = start_pair(workdir)
    saved = newest(workdir)
    assert wait_until(lambda: newest(workdir) > saved + 1, first)
    second.kill()
    status, _, err = finish(first)
    assert status != 0
    assert "another process of this run ended" in err or "another task died" in err, err

    # The run goes on in a single process, on another number of devices; test_killed.py lets one end.
    saved = newest(workdir)
    process = launch(workdir, cache, "--config.checkpoint.every_s=0")
    goes_on = wait_until(lambda: newest(workdir) > saved, process)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert goes_on and status == 143, err


def test_processes_with_other_settings_are_refused(cache, tmp_path):
    several = ["--multihost", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    pair = [
        launch(tmp_path / "run", cache, *several, f"--process_index={index}", f"--config.seed={index}", num_devices=2)
        for index in range(2)
    ]
    ends = [finish(process) for process in pair]
    assert any("error: process 1 has other settings than process 0" in err for _, _, err in ends), ends
    assert all(status != 0 for status, _, _ in ends)
    assert not os.path.exists(tmp_path / "run" / "state")
