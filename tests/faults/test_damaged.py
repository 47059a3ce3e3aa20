"""A damaged checkpoint is named and the one before it is used; a run never silently begins anew."""

import logging
import os
import shutil

import numpy as np
import pytest

from ofav2_jax.run.checkpoint import CorruptCheckpointError, RunState, load_tree, save_tree
from tests.helpers.runs import assert_same_run, finish, launch

TREE = {"a": np.arange(50_000, dtype=np.float32), "b": {"c": np.ones((3, 2), np.float32)}}


def _data_files(directory):
    """The files that hold the values of arrays."""
    files = [file for file in directory.rglob("*") if file.is_file() and file.parent.name == "d"]
    assert files
    return files


def _truncate(directory):
    for file in _data_files(directory):
        os.truncate(file, file.stat().st_size // 2)


def _remove_a_file(directory):
    max(_data_files(directory), key=lambda file: file.stat().st_size).unlink()


def _flip_bytes(directory):
    for file in _data_files(directory):
        content = bytearray(file.read_bytes())
        for place in range(len(content) // 2, len(content) // 2 + 8):
            content[place] ^= 0xFF
        file.write_bytes(content)


def _empty(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def _other_values(directory):
    """Replaces the arrays by those of another intact checkpoint, which no checksum of a file can find."""
    other = directory.parent / "other"
    state = RunState(other)
    state.save(0, {**TREE, "a": TREE["a"] + 1}, {})
    state.close()
    shutil.rmtree(directory / "arrays")
    shutil.copytree(other / "0" / "arrays", directory / "arrays")
    shutil.rmtree(other)


DAMAGES = [_truncate, _remove_a_file, _flip_bytes, _empty, _other_values]


@pytest.fixture
def state(tmp_path):
    state = RunState(tmp_path / "state")
    for number in (3, 4):
        state.save(number, TREE, {"step": number})
    state.wait()
    yield state
    state.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, state, caplog):
    damage(state.directory / "4")
    with caplog.at_level(logging.WARNING):
        arrays, progress = state.restore(TREE)
    assert progress == {"step": 3}
    np.testing.assert_array_equal(arrays["a"], TREE["a"])
    assert f"{state.directory}/4 is damaged" in caplog.text
    # The damaged checkpoint was moved and is not lost, and another one can be saved under its number.
    assert (state.directory.parent / "damaged" / "4").is_dir()
    state.save(4, TREE, {"step": 4})
    state.wait()
    assert state.restore(TREE)[1] == {"step": 4}


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_whole_checkpoint_is_an_error(damage, state):
    for number in ("3", "4"):
        damage(state.directory / number)
    with pytest.raises(CorruptCheckpointError, match=r"none of the checkpoints in .*state can be read"):
        state.restore(TREE)


@pytest.mark.parametrize("damage", [_truncate, _remove_a_file, _flip_bytes, _empty])
def test_damaged_parameters_of_a_phase_are_an_error(damage, tmp_path):
    save_tree(tmp_path / "params", TREE)
    damage(tmp_path / "params")
    with pytest.raises(CorruptCheckpointError, match=r"params cannot be read|params is damaged"):
        load_tree(tmp_path / "params", TREE)


def _newest(workdir):
    return max((path for path in (workdir / "state").iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(uninterrupted, killed, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    newest = _newest(workdir)
    _flip_bytes(newest)
    # The teacher is damaged too, so that it is taken from the phase before once more.
    _flip_bytes(workdir / "phases" / "01-kernel" / "teacher")
    status, _, err = finish(launch(workdir, cache))
    assert status == 0, err
    assert f"{newest.name} is damaged" in err and "taken again from phase full" in err
    assert_same_run(workdir, uninterrupted[0])


def test_run_without_a_whole_checkpoint_ends(killed, cache, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    for path in (workdir / "state").iterdir():
        _truncate(path)
    status, _, err = finish(launch(workdir, cache))
    assert status == 1
    assert "none of the checkpoints" in err and "Traceback" not in err
    assert not (workdir / "results.json").exists()
