"""The cache of a folder's decoded images: when it is used, what a stopped process leaves, where it lies."""

import contextlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.data import decoding
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.decode import decode_image
from tests.helpers.folders import SIZE, load
from tests.helpers.pictures import encoded, picture, write_folder
from tests.helpers.runs import ROOT, wait_until

pytestmark = pytest.mark.usefixtures("kept")


def test_second_load_decodes_nothing(root, decoded):
    write_folder(root)
    first, second = load(root), load(root, seed=1)
    assert len(decoded) == 33 and np.array_equal(first.images, second.images)
    assert isinstance(second.images, np.memmap)
    assert fingerprint(first)["pixels_sha256"] == fingerprint(second)["pixels_sha256"]


def change_pixels(root):
    file = next((root / "train" / "bee").iterdir())
    file.write_bytes(encoded(picture(0, 999)))


@pytest.mark.parametrize(
    "change",
    [
        change_pixels,
        lambda root: next((root / "train" / "bee").iterdir()).unlink(),
        lambda root: (root / "train" / "bee" / "new.png").write_bytes(encoded(picture(0, 1000))),
        lambda root: next((root / "train" / "bee").iterdir()).rename(root / "train" / "cat" / "moved.png"),
        lambda root: [(root / split / "bee").rename(root / split / "wasp") for split in ("train", "test")],
    ],
)
def test_a_changed_folder_is_decoded_again(root, decoded, change):
    before = fingerprint(load(write_folder(root)))
    change(root)
    after = load(root)
    assert len(decoded) > 33 and fingerprint(after) != before
    pixels = {decode_image(file, SIZE).tobytes(): file.parent.name for file in root.rglob("*.png")}
    assert {pixels[image.tobytes()] for image in after.images} == set(after.class_names)
    assert all(pixels[image.tobytes()] == after.class_names[label] for image, label in zip(after.images, after.labels))


def test_another_folder_of_the_same_name_is_another_cache(root, tmp_path):
    first = load(write_folder(root))
    write_folder(tmp_path / "other" / "images", classes=("x", "y", "z"))
    assert load(tmp_path / "other" / "images").class_names == ("x", "y", "z")
    assert load(root).class_names == first.class_names


_SLOWLY = """
import signal, sys, time
import ofav2_jax as ofa
from ofav2_jax.data import decoding
decode = decoding.decode_image
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started without
decoding.decode_image = lambda *args: time.sleep(0.02) or decode(*args)
decoding._PART_BYTES = 4 * 16 * 16 * 3
decoding._num_threads = lambda: 1
ofa.load_dataset("folder", data_dir=sys.argv[1], base_resolution=16)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_goes_on(root, decoded, kept, monkeypatch, number):
    write_folder(root, {"train": 40, "test": 20})
    process = subprocess.Popen([sys.executable, "-c", _SLOWLY, str(root)], cwd=ROOT, stderr=subprocess.DEVNULL)

    def some_are_done():
        # The file may not be there yet, or be empty.
        with contextlib.suppress(OSError, ValueError, EOFError, IndexError):
            (records,) = kept.glob("*.incomplete/records.npy")
            return (np.load(records)["state"] == decoding.DECODED).sum() >= 20
        return False

    assert wait_until(some_are_done, process)
    process.send_signal(number)
    assert process.wait() != 0
    monkeypatch.setattr(decoding, "_PART_BYTES", 4 * 16 * 16 * 3)
    dataset = load(root)
    assert len(decoded) <= 160
    pixels = {decode_image(file, SIZE).tobytes() for file in root.rglob("*.png")}
    assert len(dataset.images) == 180 and {image.tobytes() for image in dataset.images} == pixels
    assert [path.suffix for path in kept.iterdir()] == [""]


def test_images_in_two_splits_are_named(root):
    write_folder(root)
    for name in ("a.png", "b.png"):
        shutil.copy(next((root / "train" / "bee").iterdir()), root / "test" / "bee" / name)
    notes = load(root).notes
    assert f"2 images of other splits are also in train: {root}/test/bee/a.png and 1 more" in notes


def test_a_full_disk_is_known_before(root, kept, monkeypatch):
    write_folder(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(OSError, match=r"take 0\.0 GB and .* 0\.0 GB left: set the environment variable XDG_CACHE_HOME"):
        load(root)
    assert list(kept.iterdir()) == []


def test_where_images_are_kept(root, monkeypatch, tmp_path):
    write_folder(root)
    monkeypatch.delenv("XDG_CACHE_HOME")
    # As in a container whose user has no home directory.
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(
        ValueError, match=r"data\.data_dir='~/x' is not allowed: it must be a path without '~', because"
    ):
        load("~/x")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match=r"data\.data_dir=None is not allowed: it must be the directory of prepared"):
        ofa.load_dataset("tiny_imagenet")
    with pytest.raises(ValueError, match=r"no home directory to keep decoded images in: set .* XDG_CACHE_HOME"):
        load(root)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"decoded images cannot be kept in .*file/ofav2_jax \(Not a directory\): set"):
        load(root)


def test_a_file_system_without_locks(root, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert len(load(write_folder(root)).images) == 33
    assert ".lock cannot be locked (No locks available): going on without a lock" in caplog.text


def test_progress(root):
    said = []
    load(write_folder(root), progress=lambda *numbers: said.append(numbers))
    assert said[-1] == (33, 33)
