"""Untrusted files run no code. Archives and PyTorch's files are tested together with the modules that read them."""

import os
import pickle

import numpy as np
import pytest

from ofav2_jax.data.image_cache import ImageSource, cached_images
from ofav2_jax.run.checkpoint import CorruptCheckpointError, RunState, load_tree, save_tree

TREE = {"a": np.arange(1000, dtype=np.float32)}


class _Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bomb(tmp_path):
    exploded = tmp_path / "exploded"
    content = pickle.dumps(_Bomb(exploded))
    pickle.loads(content)
    assert exploded.exists()
    exploded.rmdir()
    yield content
    assert not exploded.exists()


def test_checkpoint_of_pickles(bomb, tmp_path):
    save_tree(tmp_path / "params", TREE)
    state = RunState(tmp_path / "state")
    state.save(0, TREE, {"step": 0})
    state.wait()
    for directory in (tmp_path / "params", tmp_path / "state" / "0"):
        for file in filter(os.path.isfile, directory.rglob("*")):
            file.write_bytes(bomb)
    with pytest.raises(CorruptCheckpointError):
        load_tree(tmp_path / "params", TREE)
    with pytest.raises(CorruptCheckpointError):
        state.restore(TREE)
    state.close()


def test_cached_images_of_pickles(bomb, tmp_path):
    def decode(split, indices):
        return np.zeros((len(indices), 4, 4, 3), np.uint8), np.zeros(len(indices), np.int32)

    def load():
        return cached_images(tmp_path / "cache", "set", "1.0.0", 4, lambda: ImageSource((3, 2), 2, decode))

    load()
    boxed = np.empty(1, object)
    boxed[0] = _Bomb(tmp_path / "exploded")
    for file in ("images.npy", "labels.npy"):
        np.save(tmp_path / "cache" / file, boxed, allow_pickle=True)
    assert load().images.shape == (5, 4, 4, 3)
    (tmp_path / "cache" / "labels.npy").write_bytes(bomb)
    assert load().labels.shape == (5,)
