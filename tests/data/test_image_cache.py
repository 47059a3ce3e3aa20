"""The cache of decoded images, where two processes need it at once."""

import concurrent.futures
import threading

import numpy as np
import pytest
from PIL import Image

import ofav2_jax as ofa
from ofav2_jax.data import decoding


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of 24 images of noise, and the cache beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(24):
        file = tmp_path / "images" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    return tmp_path / "images"


def load(folder, **arguments):
    return ofa.load_dataset("folder", data_dir=folder, base_resolution=8, **arguments)


def test_of_two_at_once_one_decodes_and_the_other_waits(folder, tmp_path, monkeypatch, caplog):
    decode, begun, count = decoding.decode_image, threading.Event(), []

    def slowly(*args):
        count.append(1)
        begun.set()
        # Until the second one waits, or decodes as well.
        for _ in range(1000):
            if "waiting for" in caplog.text or len(count) > 24:
                break
            threading.Event().wait(0.01)
        return decode(*args)

    monkeypatch.setattr(decoding, "decode_image", slowly)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(load, folder)
        assert begun.wait(60)
        second = pool.submit(load, folder)
        assert np.array_equal(first.result().images, second.result().images)
    assert len(count) == 24 and ", which decodes the same images (" in caplog.text
    (cached,) = (tmp_path / "cache" / "ofav2_jax").iterdir()
    assert not {".lock", ".incomplete"} & {cached.suffix}


@pytest.mark.parametrize("left", [b"", b"0123", b"\xff" * 64])
def test_half_a_digest_is_computed_anew(folder, tmp_path, left):
    digest = load(folder, num_classes=2).pixel_digest.sha256
    (file,) = tmp_path.glob("cache/ofav2_jax/*/subset-*.txt")
    file.write_bytes(left)
    assert load(folder, num_classes=2).pixel_digest.sha256 == digest == file.read_text()
