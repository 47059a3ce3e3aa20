"""Folders of images that are refused: each in one line that names what is wrong."""

import os
import shutil
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from experiments import eps
from tests.helpers.folders import a_file, load
from tests.helpers.pictures import encoded, picture, write_folder

pytestmark = pytest.mark.usefixtures("kept")


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
def test_bad_folders_are_refused_in_one_line_and_leave_nothing(root, kept, harm, message):
    write_folder(root, {"train": 3, "test": 1})
    harm(root)
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("error")
        load(root)
    assert message.replace("ROOT", str(root)) in str(caught.value) and "\n" not in str(caught.value)
    assert not kept.exists() or list(kept.iterdir()) == []


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


def test_what_does_not_fit_is_refused_before_anything_is_decoded(root, kept, decoded, capsys, tmp_path):
    write_folder(root, {"train": 1, "test": 1})
    with pytest.raises(ValueError, match=r"splits\['validation'\] is empty: 'images' needs images to choose the best"):
        load(root)
    write_folder(root, {"val": 1})
    arguments = ["--config=configs/quickstart.py", "--config.data.dataset=folder", f"--config.data.data_dir={root}"]
    arguments += [f"--workdir={tmp_path / 'run'}", "--config.data.base_resolution=32"]
    assert eps.main(["eps", *arguments]) == 2
    assert capsys.readouterr().err == "error: batch_size=64 is not allowed: there are 3 training images\n"
    assert not decoded and not kept.exists()
