"""The cache of a TFDS set's decoded images: for which set it is used, and what replaces it."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest

from ofav2_jax.data import image_cache
from ofav2_jax.data.dataset import fingerprint
from tests.helpers.noise_images import NoiseImages, encoded, noise


def test_second_load_does_not_decode(load, decoded, tmp_path):
    first = load()
    assert len(decoded) == 32
    second = load()
    assert len(decoded) == 32
    assert np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["noise_images-1.2.3-32"]


def test_first_classes_are_kept_without_a_copy(load, decoded):
    whole, part = load(), load(num_classes=2)
    assert len(decoded) == 32
    assert part.num_classes == 2 and part.class_names == ("0", "1") and part.num_images == 16
    assert isinstance(part.images, np.memmap)
    # The run of a version that copied these images is the same run.
    kept = np.flatnonzero(whole.labels < 2)
    compact = dataclasses.replace(
        part,
        images=whole.images[kept],
        labels=whole.labels[kept],
        subset=None,
        splits={split: np.searchsorted(kept, indices) for split, indices in part.splits.items()},
    )
    assert fingerprint(part) == fingerprint(compact)
    for split, count in (("train", 10), ("validation", 2), ("test", 4)):
        assert len(part.splits[split]) == count
        chosen = whole.splits[split][whole.labels[whole.splits[split]] < 2]
        assert np.array_equal(part.images[part.splits[split]], whole.images[chosen])
        assert np.array_equal(part.labels[part.splits[split]], whole.labels[chosen])
    assert load(num_classes=4).num_classes == 4


def test_a_set_that_was_prepared_again_is_decoded_again(load, decoded, monkeypatch, tmp_path):
    before = load()
    shutil.rmtree(tmp_path / "tfds")
    # Corrected labels, as many images, the same version.
    monkeypatch.setattr(NoiseImages, "label", staticmethod(lambda number: (number + 1) % 4))
    after = load()
    assert len(decoded) == 64
    assert np.array_equal(before.images, after.images) and np.array_equal((before.labels + 1) % 4, after.labels)
    assert fingerprint(before) != fingerprint(after)


def test_another_data_dir_is_another_set(load, decoded, monkeypatch, tmp_path):
    load()
    monkeypatch.setattr(NoiseImages, "image", staticmethod(lambda number: encoded(noise(number + 5000))))
    other = load(data_dir=tmp_path / "other")
    assert len(decoded) == 64
    assert any(np.array_equal(image, noise(5000)) for image in other.images)


def damage(change):
    def apply(folder):
        info = json.loads((folder / "info.json").read_text())
        change(info)
        (folder / "info.json").write_text(json.dumps(info))

    return apply


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "info.json").unlink(),
        lambda folder: (folder / "info.json").write_text("{"),
        lambda folder: (folder / "info.json").write_text("[]"),
        lambda folder: (folder / "images.npy").write_bytes(b""),
        lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-1]),
        lambda folder: np.save(folder / "images.npy", np.zeros((32, 32, 32, 3), np.uint8)),
        lambda folder: np.save(folder / "images.npy", np.zeros((8, 32, 32, 3), np.uint8)),
        lambda folder: np.save(folder / "labels.npy", np.zeros(32, np.int32)),
        lambda folder: np.save(folder / "labels.npy", np.array([None] * 32), allow_pickle=True),
        damage(lambda info: info["identity"].update(name="other/1.2.3")),
        damage(lambda info: info["identity"].update(files_sha256="0")),
        damage(lambda info: info["identity"].update(format=1)),
        damage(lambda info: info["splits"].update(train=3)),
        damage(lambda info: info.pop("digests")),
    ],
)
def test_a_damaged_or_foreign_cache_is_written_again(load, decoded, tmp_path, caplog, harm):
    whole = load()
    images = np.array(whole.images)
    harm(tmp_path / "cache" / "noise_images-1.2.3-32")
    with caplog.at_level(logging.WARNING):
        again = load()
    assert "noise_images-1.2.3-32 cannot be used" in caplog.text and "decoding again" in caplog.text
    assert len(decoded) == 64 and np.array_equal(again.images, images)
    assert np.array_equal(again.labels, whole.labels)


def test_what_a_killed_process_left_is_replaced(load, tmp_path):
    left = tmp_path / "cache" / "noise_images-1.2.3-32.incomplete"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    assert len(load().images) == 32 and not left.exists()


def test_an_interrupted_decoding_keeps_what_it_has(load, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "_digests", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["noise_images-1.2.3-32.incomplete"]


def test_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image_cache.default_cache_dir() == tmp_path / "ofav2_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_cache.default_cache_dir() == tmp_path / ".cache" / "ofav2_jax"
