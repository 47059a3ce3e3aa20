"""Tiny ImageNet, unpacked: the same as its archive."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import ofav2_jax as ofa
from ofav2_jax.data import folder
from ofav2_jax.data.dataset import fingerprint
from ofav2_jax.data.tiny_imagenet.archive import Contents
from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet
from tests.helpers import miniature
from tests.helpers.folders import a_file, load, sizes

pytestmark = pytest.mark.usefixtures("kept")


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
