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
