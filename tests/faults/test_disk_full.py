"""A disk that is full, made from a limit on the size of files: no file may grow beyond it."""

import resource

from tests.runs import assert_same_run, finish, launch, wait_until

_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
# Above the JSON files, below the arrays.
_LIMIT = (100_000, resource.RLIM_INFINITY)


def test_run_goes_on_and_saves_later(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    process = launch(workdir, cache, "--config.checkpoint.every_s=0")
    assert wait_until((workdir / "state" / "1").exists, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, _LIMIT)
    (line,) = iter_until(process.stderr, "could not be saved")
    assert "the run goes on" in line and f"the last one is {workdir}/state/" in line
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, _UNLIMITED)
    status, _, err = finish(process)
    assert status == 0, err
    assert_same_run(workdir, uninterrupted[0])
    assert not list((workdir / "state").glob("*tmp"))


def test_run_that_cannot_write_a_result_ends_and_can_be_resumed(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    process = launch(workdir, cache, "--config.checkpoint.every_s=1000")
    # The end of the first epoch of phase full; the result of the phase is too large for the disk.
    assert wait_until((workdir / "state" / "3").exists, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, _LIMIT)
    status, _, err = finish(process)
    assert status == 1
    assert f"error: {workdir}/phases/00-full/params cannot be written" in err.splitlines()[-1]
    assert "Traceback" not in err
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert_same_run(workdir, uninterrupted[0])


def iter_until(lines, text):
    for line in lines:
        if text in line:
            return [line]
    return []
