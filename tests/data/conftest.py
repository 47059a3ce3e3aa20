"""What the tests of several data sources need."""

import pytest

from ofav2_jax.data import decoding
from ofav2_jax.data.dataset import Request
from ofav2_jax.data.tfds_source import load_tfds


@pytest.fixture
def decoded(monkeypatch):
    """Counts the decoded images."""
    count = []
    decode = decoding.decode_image
    monkeypatch.setattr(decoding, "decode_image", lambda *args: count.append(1) or decode(*args))
    return count


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of decoded images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ofav2_jax"


@pytest.fixture
def root(tmp_path):
    """Where a test writes a folder of images."""
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path):
    """A function that loads a TFDS set: without a name, that of `tests.helpers.noise_images`."""

    def load(name="noise_images", **arguments):
        request = {"name": name, "data_dir": tmp_path / "tfds", "base_resolution": 32, **arguments}
        return load_tfds(Request(**request), cache_dir=tmp_path / "cache")

    return load
