"""Folders of images: how they are divided, what is refused and named, what is left out, and Tiny ImageNet unpacked."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

import ofav2_jax as ofa
from experiments import eps
from experiments.console import data_lines
from ofav2_jax.data import decoding, folder
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.decode import decode_image
from ofav2_jax.data.tiny_imagenet.archive import Contents
from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet
from tests.helpers import miniature
from tests.helpers.pictures import encoded, picture, write_folder
from tests.helpers.runs import ROOT, wait_until

SIZE = 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of decoded images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ofav2_jax"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


def load(root, **arguments):
    return ofa.load_dataset("folder", **{"data_dir": root, "base_resolution": SIZE, **arguments})


def sizes(dataset):
    return {split: dataset.class_counts(split).tolist() for split in dataset.splits}


# --- what is read ------------------------------------------------------------------------------------------------


def test_images_labels_and_names(root):
    dataset = load(write_folder(root))
    assert dataset.name == "images" and dataset.class_names == ("bee", "cat", "dog")
    assert sizes(dataset) == {"train": [7] * 3, "validation": [1] * 3, "test": [3] * 3}
    pixels = {decode_image(file, SIZE).tobytes(): file.parts for file in root.rglob("*.png")}
    for split, indices in dataset.splits.items():
        for index in indices:
            *_, folder_of_split, name, _ = pixels[dataset.images[index].tobytes()]
            assert folder_of_split == ("test" if split == "test" else "train")
            assert name == dataset.class_names[dataset.labels[index]]
    of_train = dataset.images[:24] / 255
    np.testing.assert_allclose(dataset.normalisation.mean, of_train.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(dataset.normalisation.std, of_train.std((0, 1, 2)), atol=1e-4)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_images_of_ones_own(root, name):
    dataset = load(write_folder(root, {"train": 4, "test": 3, name: 2}))
    assert sizes(dataset) == {"train": [4] * 3, "validation": [2] * 3, "test": [3] * 3}
    tested = load(root, test_split=name)
    assert sizes(tested) == {"train": [3] * 3, "validation": [1] * 3, "test": [2] * 3}
    assert any("folders that are not read: test" in note for note in tested.notes)


def test_without_a_test_folder_a_share_is_set_aside(root):
    dataset = load(write_folder(root, {"train": 20, "val": 2}))
    assert sizes(dataset) == {"train": [16] * 3, "validation": [2] * 3, "test": [4] * 3}
    assert "test images: 20% of each class of the training images, always the same" in dataset.notes
    assert np.array_equal(load(root, seed=5).splits["test"], dataset.splits["test"])


def test_without_folders_of_splits(root):
    dataset = load(write_folder(root, {"": 20}))
    assert sizes(dataset) == {"train": [14] * 3, "validation": [2] * 3, "test": [4] * 3}


def test_few_images_leave_one_for_each_split(root):
    assert sizes(load(write_folder(root, {"train": 2, "test": 1}))) == {name: [1] * 3 for name in ofa_splits()}


def ofa_splits():
    return ("train", "validation", "test")


def test_every_format_and_litter(root):
    write_folder(root, {"train": 2, "test": 2})
    pixels = picture(0)
    for suffix, file_format in (("JPG", "JPEG"), ("jpeg", "JPEG"), ("gif", "GIF"), ("bmp", "BMP"), ("webp", "WEBP"),
                                ("tif", "TIFF"), ("ppm", "PPM"), ("jp2", "JPEG2000"), ("ico", "ICO")):  # fmt: skip
        (root / "train" / "bee" / f"a.{suffix}").write_bytes(encoded(pixels, file_format))
    nested = root / "train" / "bee" / "more" / "again"
    nested.mkdir(parents=True)
    (nested / "b.png").write_bytes(encoded(pixels))
    litter = [".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "._a.jpg", "notes.txt", "labels.csv"]
    for name in litter:
        for parent in (root, root / "train", root / "train" / "bee"):
            (parent / name).write_bytes(b"no image")
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        for parent in (root, root / "train", root / "train" / "bee"):
            (parent / name).mkdir()
            (parent / name / "a.png").write_bytes(b"no image")
    dataset = load(root)
    assert dataset.class_names == ("bee", "cat", "dog")
    assert np.add(*(dataset.class_counts(split) for split in ("train", "validation"))).tolist() == [12, 2, 2]
    assert any(note.startswith("2 files are no images by their names: train/bee/") for note in dataset.notes)


def test_links_and_names_of_any_letters(root):
    write_folder(root, classes=("größe", "猫", "with space #%"))
    decomposed = unicodedata.normalize("NFD", "größe")
    (root / "test" / "größe").rename(root / "test" / decomposed)
    shutil.move(root / "train" / "猫", root.parent / "elsewhere")
    (root / "train" / "猫").symlink_to(root.parent / "elsewhere")
    dataset = load(root)
    assert dataset.class_names == ("größe", "with space #%", "猫")
    assert sizes(dataset)["test"] == [3, 3, 3]


# --- what is refused ---------------------------------------------------------------------------------------------


def a_file(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def broken(content, name="zz.jpg"):
    return lambda root: a_file(root / "train" / "cat" / name, content)


def twice_encoded(root):
    for form in ("NFC", "NFD"):
        a_file(root / "train" / unicodedata.normalize(form, "é") / "a.png", encoded(picture(0)))


def without(*parts):
    return lambda root: shutil.rmtree(root.joinpath(*parts))


def renamed(old, new):
    return lambda root: (root / old).rename(root / new)


def emptied(*parts):
    def empty(root):
        shutil.rmtree(root.joinpath(*parts))
        root.joinpath(*parts).mkdir()

    return empty


BAD = [
    # --- the folder itself
    (without(), "data.data_dir='ROOT' is not allowed: it is not a folder"),
    (emptied(), "ROOT has no folders: images lie in DIR/train/CLASS and DIR/test/CLASS, or in DIR/CLASS"),
    (
        lambda root: [shutil.rmtree(root), a_file(root)],
        "data.data_dir='ROOT' is not allowed: it is not a folder",
    ),
    (lambda root: [emptied()(root), a_file(root / "a.png")], "ROOT has no folders: images lie in"),
    (
        lambda root: [root.rename(root.parent / "x"), root.mkdir(), (root.parent / "x").rename(root / "inner")],
        "ROOT has the folders inner and no folder 'train'; did you mean data_dir='ROOT/inner'?",
    ),
    # --- splits
    (without("train"), "ROOT has the folders test and no folder 'train': 'test' is the name of a split"),
    (renamed("train", "training"), "no folder 'train': 'test' is the name of a split and not of a class"),
    (emptied("test"), "ROOT/test has no folders of the classes in train, so that its images have no labels"),
    (
        lambda root: [emptied("test")(root), a_file(root / "test" / "images" / "1.png")],
        "ROOT/test has no folders of the classes in train, so that its images have no labels: choose another folder "
        "with --config.data.test_split",
    ),
    (lambda root: [emptied("test")(root), a_file(root / "test" / "1.png")], "1.png lies in no folder of a class"),
    (lambda root: [write_folder(root, {"val": 1, "valid": 1})], "has val and valid: choose one with --config.data.val"),
    (lambda root: [emptied("test", name)(root) for name in ("bee", "cat", "dog")], "ROOT/test has no images"),
    # --- classes
    (lambda root: [without("train", "cat")(root)], "ROOT/test has class 'cat', which train lacks"),
    (lambda root: a_file(root / "test" / "emu" / "1.png"), "ROOT/test has class 'emu', which train lacks"),
    (emptied("train", "cat"), "class 'cat' has no training images in ROOT/train/cat"),
    (
        lambda root: [emptied("train", "cat")(root), a_file(root / "train" / "cat" / "list.txt")],
        "class 'cat' has no training images in ROOT/train/cat: its files, such as 'list.txt', are none by their names",
    ),
    (
        lambda root: [without(split, name)(root) for split in ("train", "test") for name in ("bee", "cat")],
        "ROOT/train has one folder of a class, 'dog'; at least 2 classes are needed",
    ),
    (emptied("train"), "ROOT/train has no folders of classes; at least 2 classes are needed"),
    (lambda root: a_file(root / "train" / "stray.JPG"), "ROOT/train/stray.JPG lies in no folder of a class: it has no"),
    (renamed("train/cat", "train/ca\nt"), r"ROOT/train has a class whose name is not printable: 'ca\nt'"),
    (twice_encoded, "ROOT/train has the class 'é' twice, in two encodings of its name"),
    (
        lambda root: (root / "train" / "cat" / "loop").symlink_to(root / "train" / "cat"),
        "ROOT/train/cat/loop is a link to a folder that it lies in",
    ),
    # --- images
    (broken(b""), "broken image ROOT/train/cat/zz.jpg: it is empty; --config.data.skip_broken leaves such images out"),
    (broken(b"<html>404"), "broken image ROOT/train/cat/zz.jpg: it is an HTML page"),
    (broken(b"version https://git-lfs.github.com"), "broken image ROOT/train/cat/zz.jpg: it is a pointer of Git LFS"),
    (broken(encoded(picture(0), "JPEG")[:-100]), "broken image ROOT/train/cat/zz.jpg: image file is truncated"),
    (broken(encoded(picture(0))[:80], "zz.png"), "broken image ROOT/train/cat/zz.png: "),
    (broken(encoded(picture(0), "TIFF")[:99], "zz.tif"), "broken image ROOT/train/cat/zz.tif: "),
    (
        broken(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "zz.tif"),
        "broken image ROOT/train/cat/zz.tif: its pixels are floats",
    ),
    (broken(b"x", "zz.heic"), "ROOT/train/cat/zz.heic is of a format that Pillow does not read: convert it"),
    (
        lambda root: (root / "train" / "cat" / "zz.png").symlink_to(root / "nowhere.png"),
        "broken image ROOT/train/cat/zz.png: No such file",
    ),
]


@pytest.mark.parametrize(("harm", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_folders_are_refused_in_one_line_and_leave_nothing(root, cache, harm, message):
    write_folder(root, {"train": 3, "test": 1})
    harm(root)
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("error")
        load(root)
    assert message.replace("ROOT", str(root)) in str(caught.value) and "\n" not in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_dir": None}, "data.data_dir=None is not allowed: it must be the folder of the images"),
        ({"archive": "a.zip"}, "data.archive='a.zip' is not allowed: it goes with data.dataset='tiny_imagenet' only"),
        ({"test_split": "dev"}, "data.test_split='dev' is not allowed: ROOT has the folders test, train"),
        ({"test_split": "train"}, "data.test_split='train' is not allowed"),
        ({"validation_split": "test"}, "data.validation_split='test' is not allowed: it is the test split"),
        ({"validation_split": "val"}, "data.validation_split='val' is not allowed: ROOT has the folders test, train"),
        ({"num_classes": 4}, "data.num_classes=4 is not allowed: it must be from 2 to 3, the classes of images"),
        ({"num_classes": 1}, "data.num_classes=1 is not allowed: it must be from 2 to 3, the classes of images"),
        ({"validation_fraction": 0.0}, "data.validation_fraction=0.0 is not allowed: it must be a number > 0 and < 1"),
        ({"validation_fraction": 1}, "data.validation_fraction=1 is not allowed: it must be a number > 0 and < 1"),
        ({"normalisation": ((0.5,) * 3,)}, "data.normalisation=.* is not allowed: it must be three means"),
        ({"normalisation": ((120.0,) * 3, (60.0,) * 3)}, r"it must be three means in \[0, 1\]"),
        ({"normalisation": ((0.5,) * 3, (0.0,) * 3)}, r"three standard deviations in \(0, 1\]"),
        ({"base_resolution": 0}, "data.base_resolution=0 is not allowed"),
    ],
)
def test_arguments_that_do_not_go_with_a_folder(root, arguments, message):
    write_folder(root, {"train": 3, "test": 1})
    with pytest.raises(ValueError, match=message.replace("ROOT", str(root))):
        load(root, **arguments)


def test_unreadable_folder(root, monkeypatch):
    write_folder(root)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"train/cat cannot be read: Permission denied"):
        load(root)


def test_what_does_not_fit_is_refused_before_anything_is_decoded(root, cache, decoded, capsys, tmp_path):
    write_folder(root, {"train": 1, "test": 1})
    with pytest.raises(ValueError, match=r"splits\['validation'\] is empty: 'images' needs images to choose the best"):
        load(root)
    write_folder(root, {"val": 1})
    arguments = ["--config=configs/quickstart.py", "--config.data.dataset=folder", f"--config.data.data_dir={root}"]
    arguments += [f"--workdir={tmp_path / 'run'}", "--config.data.base_resolution=32"]
    assert eps.main(["eps", *arguments]) == 2
    assert capsys.readouterr().err == "error: batch_size=64 is not allowed: there are 3 training images\n"
    assert not decoded and not cache.exists()


# --- broken images, skipped --------------------------------------------------------------------------------------


def test_broken_images_are_skipped_and_counted(root):
    write_folder(root, {"train": 5, "test": 3})
    names = sorted(path.name for path in (root / "train" / "cat").iterdir())
    (root / "train" / "cat" / names[1]).write_bytes(b"")
    (root / "test" / "dog" / "zz.heic").write_bytes(b"")
    (root / "test" / "dog" / "zz.png").write_bytes(b"<html>")
    dataset = load(root, skip_broken=True)
    assert dataset.class_counts("train").sum() + dataset.class_counts("validation").sum() == 14
    assert sizes(dataset)["test"] == [3, 3, 3] and dataset.num_images == 23
    assert f"2 broken images left out: {root}/train/cat/{names[1]}: it is empty and 1 more" in dataset.notes
    assert any("1 images left out whose format Pillow does not read: test/dog/zz.heic" in n for n in dataset.notes)
    assert not any((dataset.images[i] == 0).all() for indices in dataset.splits.values() for i in indices)
    (root / "test" / "dog" / "zz.heic").unlink()
    load(root, skip_broken=True)
    # What was skipped once is not accepted without a word another time.
    with pytest.raises(ValueError, match=r"cat/.*: it is empty \(1 more are broken\)"):
        load(root)
    for name in names:
        (root / "train" / "cat" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="images has no training images of class cat"):
        load(root, skip_broken=True)


# --- the cache ---------------------------------------------------------------------------------------------------


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
def test_a_process_that_is_stopped_goes_on(root, decoded, cache, monkeypatch, number):
    write_folder(root, {"train": 40, "test": 20})
    process = subprocess.Popen([sys.executable, "-c", _SLOWLY, str(root)], cwd=ROOT, stderr=subprocess.DEVNULL)

    def some_are_done():
        # The file may not be there yet, or be empty.
        with contextlib.suppress(OSError, ValueError, EOFError, IndexError):
            (records,) = cache.glob("*.incomplete/records.npy")
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
    assert [path.suffix for path in cache.iterdir()] == [""]


def test_images_in_two_splits_are_named(root):
    write_folder(root)
    for name in ("a.png", "b.png"):
        shutil.copy(next((root / "train" / "bee").iterdir()), root / "test" / "bee" / name)
    notes = load(root).notes
    assert f"2 images of other splits are also in train: {root}/test/bee/a.png and 1 more" in notes


def test_a_full_disk_is_known_before(root, cache, monkeypatch):
    write_folder(root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(OSError, match=r"take 0\.0 GB and .* 0\.0 GB left: set the environment variable XDG_CACHE_HOME"):
        load(root)
    assert list(cache.iterdir()) == []


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


# --- plans and commands ------------------------------------------------------------------------------------------


def test_a_plan_decodes_and_writes_nothing(root, cache, decoded):
    write_folder(root, {"train": 8, "test": 3})
    for name in range(5):
        (root / "train" / "cat" / f"{name}.png").write_bytes(encoded(picture(1, name)))
    planned = load(root, plan_only=True)
    assert not cache.exists() and not decoded
    lines = "\n".join(data_lines(planned))
    assert "images: 25 train, 4 validation, 9 test images" in lines
    assert "bee, cat, dog; training images: 7 of bee (fewest) to 11 of cat (most)" in lines
    assert "not decoded yet: 0.0 MB of pixels will be kept in" in lines and "mean" not in lines
    whole = load(root)
    assert sizes(planned) == sizes(whole)
    assert all(np.array_equal(planned.splits[split], whole.splits[split]) for split in whole.splits)
    assert "pixels       16x16, mean 0." in "\n".join(data_lines(load(root, plan_only=True)))


def test_command(root, cache, capsys, tmp_path):
    write_folder(root, {"train": 20, "test": 3})
    arguments = ["--config=configs/ee_d.py:smoke", "--config.data.dataset=folder", f"--config.data.data_dir={root}"]
    arguments += ["--config.batch_size=16", "--config.evaluation.recalibration_images=20", "--dry_run"]
    arguments += ["--config.evaluation.recalibration_batch_size=20", f"--workdir={tmp_path / 'run'}"]
    arguments += ["--config.data.num_classes=3", "--config.data.normalisation=(0.5,0.5,0.5),(0.25,0.25,0.2)"]
    assert eps.main(["eps", *arguments]) == 0
    out, _ = capsys.readouterr()
    assert "classes      bee, cat, dog; 17 training images each" in out
    assert not cache.exists()
    (root / "train" / "cat" / "stray.png").write_bytes(b"<html>")
    arguments.remove("--dry_run")
    assert eps.main(["eps", *arguments]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: broken image ") and len(err.splitlines()) == 1


def test_the_command_of_the_readme_fits_a_hundred_and_sixty_images(root, capsys, tmp_path):
    write_folder(root, {"": 40}, classes=("bee", "cat", "dog", "emu"))
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if "--config.data.dataset=folder" in line)
    arguments = command.replace("=DIR", f"={root}").split("experiments.eps")[1].split()
    assert eps.main(["eps", *arguments, f"--workdir={tmp_path / 'run'}", "--dry_run"]) == 0
    assert "images: 108 train, 20 validation, 32 test images" in capsys.readouterr().out


# --- Tiny ImageNet, unpacked -------------------------------------------------------------------------------------


def unpack(tree, directory):
    for name, content in tree.items():
        a_file(directory / name, content)
    return directory / miniature.ROOT


@pytest.fixture
def tree(monkeypatch):
    """Tiny ImageNet with three classes and more images than a split's rounding hides."""
    contents = Contents(miniature.WNIDS, train_images=12, validation_images=6, size=64)
    monkeypatch.setattr(miniature, "CONTENTS", contents)
    monkeypatch.setattr(TinyImagenet, "_contents", contents)
    return miniature.mini_tree()


def test_unpacked_tiny_imagenet_is_that_of_the_archive(tmp_path, tree, monkeypatch):
    archive = miniature.write_zip(tmp_path / "a.zip", tree)
    unpacked = unpack(tree, tmp_path / "unpacked")
    of_archive = ofa.load_dataset("tiny_imagenet", archive=archive, data_dir=tmp_path / "tfds", seed=4)
    monkeypatch.setattr(folder, "published_contents", lambda: miniature.CONTENTS)
    for of_folder in (
        load(unpacked, base_resolution=64, seed=4),
        ofa.load_dataset("tiny_imagenet", archive=unpacked, data_dir=tmp_path / "again", seed=4),
        ofa.load_dataset("tiny_imagenet", archive=tmp_path / "unpacked", data_dir=tmp_path / "once_more", seed=4),
    ):
        differing = {"name"} if of_folder.name != of_archive.name else set()
        one, other = fingerprint(of_archive), fingerprint(of_folder)
        assert {name for name in one if one[name] != other[name]} == differing
    grey = np.asarray(Image.open(io.BytesIO(tree[miniature.GREY])))
    assert any(np.array_equal(image, np.stack([grey] * 3, -1)) for image in of_folder.images)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "val" / "images" / "val_3.JPEG").unlink(), "val/images lacks val_3.JPEG"),
        (
            lambda root: a_file(root / "val" / "images" / "val_9.JPEG"),
            "val_annotations.txt has no label for val_9.JPEG",
        ),
        (lambda root: shutil.rmtree(root / "train" / "n00000001" / "images"), "class 'n00000001' has no training"),
    ],
)
def test_unpacked_tiny_imagenet_with_something_missing(tmp_path, tree, harm, message):
    root = unpack(tree, tmp_path)
    harm(root)
    with pytest.raises(ValueError, match=message):
        load(root)


def test_unpacked_tiny_imagenet_of_fewer_classes(tmp_path, tree):
    root = unpack(tree, tmp_path)
    shutil.rmtree(root / "train" / "n00000001")
    dataset = load(root)
    assert sizes(dataset) == {"train": [10, 10], "validation": [2, 2], "test": [2, 2]}
    assert "2 images of val left out, whose classes are not in train" in dataset.notes
