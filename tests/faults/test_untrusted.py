"""Untrusted files run no code. Archives and PyTorch's files are tested together with the modules that read them."""

import os
import pickle

import numpy as np
import pytest

from ofav2_jax.data.decoding import ImageSource
from ofav2_jax.data.image_cache import cached_images, load_cached
from ofav2_jax.run.checkpoint import CorruptCheckpointError, RunState, load_tree, save_tree
from tests.helpers.pictures import encoded

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
    def read(split, part):
        return [(encoded(np.zeros((4, 4, 3), np.uint8)), 0) for _ in part]

    def load():
        directory, identity = tmp_path / "cache", {"name": "set", "resolution": 4}
        source = ImageSource({"train": 3, "test": 2}, ("a", "b"), 4, read, lambda split, place: f"{split} {place}")
        return load_cached(directory, identity) or cached_images(directory, identity, lambda: source)

    load()
    boxed = np.empty(1, object)
    boxed[0] = _Bomb(tmp_path / "exploded")
    for file in ("images.npy", "labels.npy"):
        np.save(tmp_path / "cache" / file, boxed, allow_pickle=True)
    assert load().images.shape == (5, 4, 4, 3)
    (tmp_path / "cache" / "labels.npy").write_bytes(bomb)
    assert load().labels.shape == (5,)
