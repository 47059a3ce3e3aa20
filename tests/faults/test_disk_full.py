"""A full disk, simulated by a limit on the size of files."""

import logging
import resource

import numpy as np
import pytest

from ofav2_jax.run.checkpoint import RunState, save_tree
from tests.helpers.runs import assert_same_run, finish, launch, wait_until

_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
# Larger than the JSON files, smaller than the arrays.
_LIMIT = (100_000, resource.RLIM_INFINITY)
TREE = {"a": np.random.default_rng(0).normal(size=100_000)}


@pytest.fixture
def full_disk():
    """A function that calls another one while the disk is full."""

    def call(function, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, _LIMIT)
        try:
            function(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, _UNLIMITED)

    yield call


def test_checkpoint_is_saved_once_there_is_room_again(full_disk, tmp_path, caplog):
    state = RunState(tmp_path / "state")

    def save(number):
        state.save(number, TREE, {"step": number})
        state.wait()

    save(1)
    with caplog.at_level(logging.WARNING):
        full_disk(save, 2)
    assert "could not be saved (OUT_OF_RANGE: Error writing" in caplog.text
    assert f"the last one is {state.directory}/1" in caplog.text
    assert state.restore(TREE)[1] == {"step": 1}
    # Nothing is left of the checkpoint that failed, which would fill the disk.
    assert sorted(path.name for path in state.directory.iterdir()) == ["1"]
    save(3)
    assert state.restore(TREE)[1] == {"step": 3}
    state.close()


def test_parameters_of_a_phase_that_cannot_be_saved_are_an_error(full_disk, tmp_path):
    with pytest.raises(OSError, match=r"params cannot be written: OUT_OF_RANGE"):
        full_disk(save_tree, tmp_path / "params", TREE)
    assert not (tmp_path / "params").exists()


def test_run_goes_on_as_long_as_it_can_and_is_resumed(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    process = launch(workdir, cache, "--config.checkpoint.every_s=0")
    assert wait_until((workdir / "state" / "1").exists, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, _LIMIT)
    status, out, err = finish(process)
    # Both epochs of phase full are trained; then its parameters cannot be written.
    assert "full       epoch   2" in out
    assert "the run goes on" in err and f"the last one is {workdir}/state/" in err
    assert status == 1
    assert f"\nerror: {workdir}/phases/00-full/params cannot be written" in err
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert_same_run(workdir, uninterrupted[0])
