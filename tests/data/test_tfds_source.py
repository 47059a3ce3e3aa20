"""Loading data sets through TFDS: splits, classes, keys, sizes; what does not fit is refused and named."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ofav2_jax.data import tfds_source
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet
from tests.helpers import miniature
from tests.helpers.noise_images import NoiseImages, encoded, noise

REAL_ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "tiny-imagenet-200.tar.xz"


def test_images_and_labels_are_those_of_the_splits(load):
    dataset = load()
    images = {noise(number).tobytes(): number for number in [*range(24), *range(1000, 1008)]}
    numbers = np.array([images[image.tobytes()] for image in dataset.images])
    assert dataset.images.dtype == np.uint8 and dataset.images.shape == (32, 32, 32, 3)
    assert dataset.labels.dtype == np.int32 and np.array_equal(dataset.labels, numbers % 4)
    assert sorted(numbers[dataset.splits["test"]]) == list(range(1000, 1008))
    trained_on = np.concatenate([dataset.splits["train"], dataset.splits["validation"]])
    assert sorted(numbers[trained_on]) == list(range(24))
    assert all(indices.dtype == np.int32 for indices in dataset.splits.values())
    assert (dataset.name, dataset.num_classes) == ("noise_images", 4)
    assert dataset.class_names == ("0", "1", "2", "3")
    of_training = dataset.images[np.flatnonzero(numbers < 1000)] / 255
    np.testing.assert_allclose(dataset.normalisation.mean, of_training.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(dataset.normalisation.std, of_training.std((0, 1, 2)), atol=1e-4)
    own = Normalisation((0.5,) * 3, (0.25,) * 3)
    assert load(normalisation=own).normalisation == own


def test_validation_images_are_drawn_class_by_class_by_seed(load):
    one, same, other = (
        load(validation_fraction=0.3),
        load(validation_fraction=0.3),
        load(validation_fraction=0.3, seed=1),
    )
    for dataset in (one, other):
        assert np.bincount(dataset.labels[dataset.splits["validation"]]).tolist() == [2, 2, 2, 2]
    assert np.array_equal(one.splits["validation"], same.splits["validation"])
    assert not np.array_equal(one.splits["validation"], other.splits["validation"])
    assert np.array_equal(one.splits["test"], other.splits["test"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 5}, "num_classes=5 is not allowed: it must be from 2 to 4, the classes of noise_images"),
        ({"num_classes": 1}, "num_classes=1 is not allowed: it must be from 2 to 4, the classes of noise_images"),
        ({"test_split": "dev"}, "data.test_split='dev' is not allowed: noise_images/1.2.3 has the splits train, test"),
        ({"name": "noice"}, "data set 'noice' is unknown to TensorFlow Datasets .*catalog lists the names"),
    ],
)
def test_arguments_that_are_not_allowed_are_named(load, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"splits": {"train": 4}}, "has the splits train, and no split test or validation to test on"),
        ({"splits": {"test": 4}}, "has the splits test; a split 'train' is needed"),
        (
            {"features": {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)}},
            "is not for image classification: it needs an Image of uint8 and a ClassLabel, named by its "
            r"supervised_keys or 'image' and 'label'; its features are image \(Image\), label \(Scalar\), id \(Text\)",
        ),
        (
            {
                "features": {
                    "picture": tfds.features.Image(),
                    "kind": tfds.features.ClassLabel(num_classes=4),
                },
                "supervised_keys": None,
            },
            r"its features are picture \(Image\), kind \(ClassLabel\), id \(Text\)",
        ),
        ({"label": staticmethod(lambda number: -1 if number >= 1000 else 0)}, "and no split with labels to test on"),
        ({"label": staticmethod(lambda number: number % 3)}, "noise_images has no training images of class 3"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(load, monkeypatch, tmp_path, changes, message):
    for name, value in changes.items():
        monkeypatch.setattr(NoiseImages, name, value)
    with pytest.raises(ValueError, match=message):
        load()
    assert not (tmp_path / "cache").exists() or "training" in message


def test_an_unlabelled_test_split_is_not_tested_on(load, monkeypatch):
    # ImageNet's layout: the test images have no labels, and those of `validation` are what everybody tests on.
    monkeypatch.setattr(NoiseImages, "splits", {"train": 24, "validation": 4, "test": 8})
    monkeypatch.setattr(NoiseImages, "label", staticmethod(lambda number: number % 4))
    generate = NoiseImages._generate_examples

    def unlabelled(self, split, count):
        for key, example in generate(self, split, count):
            yield key, {**example, "label": -1 if split == "test" else example["label"]}

    monkeypatch.setattr(NoiseImages, "_generate_examples", unlabelled)
    dataset = load()
    assert len(dataset.splits["test"]) == 4 and "splits that are not read: test" in dataset.notes
    for plan_only in (False, True):
        with pytest.raises(ValueError, match=r"data\.test_split='test' is not allowed: its images have no labels"):
            load(test_split="test", plan_only=plan_only)


def test_a_validation_split_of_ones_own(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "splits", {"train": 24, "val": 4, "test": 8})
    dataset = load(validation_split="val")
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        **{"train": 24, "validation": 4, "test": 8}
    }
    with pytest.raises(ValueError, match="has the splits train, val, test, and no split test or validation to test on"):
        load(validation_split="test")


def test_a_broken_image_is_named(load, monkeypatch, tmp_path):
    pictures = staticmethod(lambda number: b"" if number in (3, 1004) else encoded(noise(number)))
    monkeypatch.setattr(NoiseImages, "image", pictures)
    with pytest.raises(ValueError) as caught:
        load()
    message = str(caught.value)
    assert re.fullmatch(
        r"broken image \d+ of split 'train' of noise_images/1\.2\.3 in \S+ \(class 3\): it is empty; .*", message
    )
    assert not list((tmp_path / "cache").iterdir())
    dataset = load(skip_broken=True)
    assert sum(len(indices) for indices in dataset.splits.values()) == 30
    assert any(note.startswith("2 broken images left out: ") for note in dataset.notes)


def test_damaged_records_are_named(load, tmp_path):
    load()
    (file,) = (tmp_path / "tfds" / "noise_images" / "1.2.3").glob("*train*")
    content = bytearray(file.read_bytes())
    content[100:4000] = bytes(3900)
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"split 'train' of noise_images/1\.2\.3 in .* cannot be read: "):
        load()


def test_labels_beyond_the_classes_are_refused(load, monkeypatch, decoded, tmp_path):
    load()
    shutil.rmtree(tmp_path / "cache")
    # The name of a class was deleted after the images were prepared.
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    monkeypatch.setattr(NoiseImages, "features", features)
    labels = tmp_path / "tfds" / "noise_images" / "1.2.3" / "label.labels.txt"
    labels.write_text("0\n1\n2\n")
    for plan_only in (True, False):
        with pytest.raises(
            ValueError, match="label 3 in split 'train' is not allowed: with 3 classes labels are 0 to 2"
        ):
            load(plan_only=plan_only)
    monkeypatch.setattr(tfds_source, "_PLANNED_IMAGES", 0)
    with pytest.raises(
        ValueError, match=r"image \d+ of split 'train' of .* has label 3, and noise_images/1\.2\.3 has 3"
    ):
        load()
    assert len(decoded) < 64 and not list((tmp_path / "cache").iterdir())


def test_a_plan_of_a_prepared_set_decodes_nothing(load, decoded, tmp_path):
    load()
    shutil.rmtree(tmp_path / "cache")
    planned = load(plan_only=True)
    assert len(decoded) == 32 and not (tmp_path / "cache").exists()
    whole = load()
    assert {split: whole.class_counts(split).tolist() for split in whole.splits} == {
        split: planned.class_counts(split).tolist() for split in planned.splits
    }
    assert np.array_equal(planned.labels, whole.labels)


def test_validation_split_is_tested_on_where_there_is_no_test_split(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "splits", {"train": 24, "validation": 4})
    assert len(load().splits["test"]) == 4


def test_test_split_can_be_chosen(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "splits", {"train": 24, "validation": 4, "test": 8})
    assert len(load().splits["test"]) == 8
    assert len(load(test_split="validation").splits["test"]) == 4


def test_keys_are_those_of_the_supervised_keys(load, monkeypatch):
    features = {"picture": tfds.features.Image(), "kind": tfds.features.ClassLabel(num_classes=4)}
    monkeypatch.setattr(NoiseImages, "features", features)
    monkeypatch.setattr(NoiseImages, "supervised_keys", ("picture", "kind"))
    assert load().num_classes == 4


def test_other_sizes_are_resized_and_their_centre_taken(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "image", staticmethod(lambda number: encoded(noise(0, 40, 60))))
    dataset = load(base_resolution=20)
    centre = Image.fromarray(noise(0, 40, 60)[:, 10:50])
    theirs = np.asarray(centre.resize((20, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(dataset.images[0, :, 1:-1], theirs[:, 1:-1])


def test_grey_and_transparent_images_become_rgb(load, monkeypatch):
    grey, alpha = noise(0)[..., 0], np.dstack([noise(1), noise(2)[..., :1]])
    pictures = staticmethod(lambda number: encoded(grey) if number % 2 else encoded(alpha))
    monkeypatch.setattr(NoiseImages, "image", pictures)
    dataset = load()
    for image, label in zip(dataset.images, dataset.labels):
        assert np.array_equal(image, np.stack([grey] * 3, -1) if label % 2 else alpha[..., :3])


def test_tiny_imagenet_from_a_local_archive(load, tmp_path, monkeypatch):
    monkeypatch.setattr(TinyImagenet, "_contents", miniature.CONTENTS)
    tree = miniature.mini_tree()
    archive = miniature.write_zip(tmp_path / "a.zip", tree)
    dataset = load("tiny_imagenet", archive=archive, base_resolution=64, validation_fraction=0.25)
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        "train": 9,
        "validation": 3,
        "test": 6,
    }
    grey = np.asarray(Image.open(io.BytesIO(tree[miniature.GREY])))
    labels = {image.tobytes(): label for image, label in zip(dataset.images, dataset.labels)}
    assert labels[np.stack([grey] * 3, -1).tobytes()] == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL_ARCHIVE.exists(), reason="the real archive is not there")
def test_real_archive(load):
    dataset = load("tiny_imagenet", archive=REAL_ARCHIVE, base_resolution=64)
    counts = {split: np.bincount(dataset.labels[indices]) for split, indices in dataset.splits.items()}
    assert {split: set(count) for split, count in counts.items()} == {"train": {425}, "validation": {75}, "test": {50}}
    some = dataset.images[::50]
    assert np.allclose(some.mean((0, 1, 2), np.float64) / 255, dataset.normalisation.mean, atol=0.01)
    assert np.allclose(some.std((0, 1, 2), np.float64) / 255, dataset.normalisation.std, atol=0.01)
