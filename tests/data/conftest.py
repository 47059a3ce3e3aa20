"""What the tests of several data sources need."""

import pytest

from ofav2_jax.data import decoding


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
