"""Arrays of one's own, from memory and from a file of numpy; about thirty wrong ones; and any `Dataset` by hand."""

import dataclasses
import warnings

import numpy as np
import pytest

import ofav2_jax as ofa
from experiments import eps
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import Dataset, fingerprint

SIZE = 8
NEUTRAL = Normalisation((0.5,) * 3, (0.25,) * 3)


def images(number, seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), np.uint8)


def arrays(train=20, test=6, num_classes=2):
    return {
        "train": (images(train), np.arange(train) % num_classes),
        "test": (images(test, 1), np.arange(test) % num_classes),
    }


def test_from_arrays():
    given = arrays()
    dataset = ofa.Dataset.from_arrays(**given, class_names=["cat", "dog"], name="pets", seed=3)
    assert (dataset.name, dataset.num_classes, dataset.class_names) == ("pets", 2, ("cat", "dog"))
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        **{"train": 16, "validation": 4, "test": 6}
    }
    assert np.array_equal(dataset.images[dataset.splits["test"]], given["test"][0])
    assert np.array_equal(dataset.labels[dataset.splits["test"]], given["test"][1])
    assert dataset.labels.dtype == np.int32
    np.testing.assert_allclose(dataset.normalisation.mean, given["train"][0].mean((0, 1, 2)) / 255, atol=1e-4)
    np.testing.assert_allclose(dataset.normalisation.std, given["train"][0].std((0, 1, 2)) / 255, atol=1e-4)
    same = ofa.Dataset.from_arrays(**given, class_names=["cat", "dog"], name="pets", seed=3)
    assert fingerprint(same) == fingerprint(dataset)


def test_validation_arrays_and_further_arguments():
    given = arrays() | {"validation": (images(2, 2), [0, 1])}
    dataset = ofa.Dataset.from_arrays(**given, normalisation=NEUTRAL)
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {
        **{"train": 20, "validation": 2, "test": 6}
    }
    assert dataset.class_names == ("0", "1") and dataset.normalisation == NEUTRAL


def changed(split, images=None, labels=None):
    """Changes the images or the labels of a split by functions."""

    def change(given):
        of_split = given[split]
        given[split] = (
            of_split[0] if images is None else images(of_split[0]),
            of_split[1] if labels is None else labels(of_split[1]),
        )

    return change


def put(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


BAD = [
    (
        changed("train", images=lambda a: a / 255),
        "train images=float64[20, 8, 8, 3] is not allowed: it must be uint8, "
        "from 0 to 255; floats in [0, 1] become that by",
    ),
    (changed("test", images=lambda a: a.astype(np.float32)), "test images=float32[6, 8, 8, 3] is not allowed"),
    (
        changed("train", images=lambda a: a.astype(np.int64)),
        "train images=int64[20, 8, 8, 3] is not allowed: it must be",
    ),
    (changed("train", images=lambda a: a.astype(np.uint16) * 257), "train images=uint16[20, 8, 8, 3] is not allowed"),
    (changed("train", images=lambda a: a.tolist()), "train images=list is not allowed: it must be an array, uint8"),
    (changed("train", images=lambda a: np.moveaxis(a, -1, 1)), "channels last: numpy.moveaxis(images, 1, -1)"),
    (changed("train", images=lambda a: a[..., 0]), "[20, 8, 8] is not allowed: it must be [N, H, W, 3]; grey images:"),
    (changed("train", images=lambda a: a[..., :1]), "it must be [N, H, W, 3], RGB; grey images: numpy.repeat"),
    (changed("train", images=lambda a: np.concatenate([a, a[..., :1]], -1)), "[20, 8, 8, 4] is not allowed"),
    (
        changed("train", images=lambda a: a[:, :5]),
        "uint8[20, 5, 8, 3] is not allowed: it must be [N, H, W, 3] with H = W",
    ),
    (changed("train", images=lambda a: a[0]), "uint8[8, 8, 3] is not allowed: it must be [N, H, W, 3]"),
    (
        changed("train", images=lambda a: a[:0], labels=lambda a: a[:0]),
        "must be at least one image of at least one pixel",
    ),
    (changed("test", images=lambda a: a[:0], labels=lambda a: a[:0]), "test images=uint8[0, 8, 8, 3] is not allowed"),
    (changed("test", images=lambda a: a[:, :4, :4]), "test images have 4 pixels a side and train images 8"),
    (
        changed("train", labels=lambda a: a[:-1]),
        "train labels=int64[19] is not allowed: it must be ints [20], one for each",
    ),
    (
        changed("train", labels=lambda a: a.astype(float)),
        "train labels=float64[20] is not allowed: it must be ints [20]",
    ),
    (
        changed("train", labels=lambda a: np.eye(2)[a]),
        "train labels=float64[20, 2] is not allowed: it must be ints [20], "
        "one for each image; numpy.argmax(labels, -1) if they are one-hot",
    ),
    (changed("train", labels=lambda a: a[:, None]), "train labels=int64[20, 1] is not allowed"),
    (changed("train", labels=lambda a: a.astype(str)), "train labels=<U21[20] is not allowed: it must be ints [20]"),
    (changed("train", labels=put(3, -1)), "label -1 in split 'train' is not allowed: with 2 classes labels are 0 to 1"),
    (changed("test", labels=put(3, 2)), "label 2 in split 'test' is not allowed: with 2 classes labels are 0 to 1"),
    (changed("train", labels=lambda a: a + 1), "no training images of class 0"),
    (changed("train", labels=lambda a: a * 2), "no training images of class 1"),
    (lambda given: given.update(class_names=["cat"]), "label 1 in split 'train' is not allowed: with 1 classes"),
    (lambda given: given.update(class_names=["cat", "dog", "emu"]), "no training images of class emu"),
    (lambda given: given.update(class_names=["cat", "cat"]), "class_names has 'cat' twice"),
    (lambda given: given.update(class_names=[1, 2]), "class_names=(1, 2) is not allowed: it must be a tuple of str"),
    (lambda given: given.update(train=given["train"][0]), "train=ndarray is not allowed: it must be (images, labels)"),
    (lambda given: given.update(validation=(1, 2, 3)), "validation=tuple is not allowed: it must be (images, labels)"),
    (lambda given: given.update(name=""), "name='' is not allowed"),
    (lambda given: given.update(validation_fraction=1.5), "validation_fraction=1.5 is not allowed"),
    (lambda given: given.update(normalisation=((0.5,) * 3, (0.25,) * 3)), "normalisation="),
    (
        lambda given: given.update(normalisation=Normalisation((127.0,) * 3, (60.0,) * 3)),
        "must be three means in [0, 1]",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_arrays_are_refused_in_one_line(change, message):
    given = arrays()
    change(given)
    with pytest.raises(ValueError) as caught:
        ofa.Dataset.from_arrays(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_images_in_two_splits_are_warned_of():
    given = arrays()
    given["test"][0][:2] = given["train"][0][:2]
    with pytest.warns(UserWarning, match="arrays: 2 images of test are also in train"):
        dataset = ofa.Dataset.from_arrays(**given)
    assert "2 images of test are also in train" in dataset.notes


# --- a file of numpy ---------------------------------------------------------------------------------------------


def write(path, **changes):
    given = arrays()
    content = {f"{kind}_{split}": given[split][i] for split in given for i, kind in enumerate(("images", "labels"))}
    content = {name: array for name, array in {**content, **changes}.items() if array is not None}
    np.savez(path, **content)
    return path


def load(path, **arguments):
    return ofa.load_dataset(f"npz:{path}", **arguments)


def test_npz(tmp_path):
    file = write(tmp_path / "pets.npz", class_names=np.array(["cat", "dog"]))
    dataset, given = load(file, seed=3), arrays()
    assert dataset.name == "pets" and dataset.class_names == ("cat", "dog")
    of_arrays = ofa.Dataset.from_arrays(**given, class_names=["cat", "dog"], name="pets", seed=3)
    assert fingerprint(dataset) == fingerprint(of_arrays)
    larger = load(file, base_resolution=12)
    assert larger.images.shape == (26, 12, 12, 3) and "images of 8 pixels resized to 12" in larger.notes
    own = write(tmp_path / "own.npz", images_validation=images(4, 5), labels_validation=np.arange(4) % 2)
    assert len(load(own).splits["train"]) == 20 and len(load(own).splits["validation"]) == 4
    many = write(tmp_path / "many.npz", labels_train=np.arange(20) % 5, labels_test=np.arange(6) % 5)
    fewer = load(many, num_classes=3)
    assert (fewer.num_classes, len(fewer.images), len(fewer.splits["test"])) == (3, 16, 4)


NEEDED = "needed: a file of numpy.savez with images_train, labels_train, images_test, labels_test"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is not a file; needed: a file of numpy.savez"),
        (lambda path: path.mkdir(), "is not a file; needed"),
        (lambda path: path.write_bytes(b""), "No data left in file; needed"),
        (lambda path: path.write_bytes(b"hello"), "needed: a file of numpy.savez"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "needed: a file of numpy.savez"),
        (lambda path: [write(path), path.write_bytes(path.read_bytes()[:5000])], "needed: a file of numpy.savez"),
        (lambda path: np.save(path.open("wb"), images(3)), "it holds a single array; needed"),
        (
            lambda path: write(path, labels_test=None),
            "labels_test is missing; its arrays are images_train, labels_train",
        ),
        (lambda path: np.savez(path, x_train=1), "images_train is missing; its arrays are x_train; needed"),
        (lambda path: write(path, image_validation=images(1)), "it holds 'image_validation'; its arrays are"),
        (lambda path: write(path, images_validation=images(1)), "images_validation and labels_validation go together"),
        (lambda path: write(path, labels_train=np.array([None] * 20)), "needed: a file of numpy.savez"),
        (
            lambda path: write(path, images_test=images(6) / 255),
            "a.npz: test images=float64[6, 8, 8, 3] is not allowed",
        ),
        (lambda path: write(path, class_names=np.array(["a"])), "a.npz: label 1 in split 'train' is not allowed"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, make, message, capsys):
    file = tmp_path / "a.npz"
    make(file)
    arguments = ["--config=configs/quickstart.py", f"--config.data.dataset=npz:{file}", f"--workdir={tmp_path / 'run'}"]
    arguments += ["--config.data.base_resolution=32", "--dry_run"]
    assert eps.main(["eps", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and message in err and len(err.splitlines()) == 1 and str(file) in err


# --- a data set by hand ------------------------------------------------------------------------------------------


def by_hand(**changes):
    values = {
        "name": "mine",
        "images": images(12),
        "labels": np.arange(12, dtype=np.int32) % 3,
        "splits": {"train": np.arange(6), "validation": np.arange(6, 9), "test": np.arange(9, 12)},
        "num_classes": 3,
        "normalisation": NEUTRAL,
    }
    return Dataset(**{**values, **changes})


def splits(**changes):
    return {"splits": {**by_hand().splits, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": images(12) / 255.0}, "images=float64[12, 8, 8, 3] is not allowed: it must be uint8"),
        ({"images": images(12)[:, :4]}, "images=uint8[12, 4, 8, 3] is not allowed: it must be [N, H, W, 3] with H = W"),
        ({"labels": np.arange(11)}, "labels=int64[11] is not allowed: it must be ints [12]"),
        ({"labels": np.full(12, 3)}, "label 3 in split 'train' is not allowed: with 3 classes labels are 0 to 2"),
        ({"labels": np.arange(12) % 3 - 1}, "label -1 in split 'train' is not allowed"),
        ({"num_classes": 1}, "num_classes=1 is not allowed: it must be an int of at least 2"),
        ({"num_classes": 2}, "label 2 in split 'train' is not allowed: with 2 classes labels are 0 to 1"),
        (
            {"splits": {"train": np.arange(6), "test": np.arange(9, 12)}},
            "it must be the three splits train, validation",
        ),
        (splits(dev=np.arange(3)), "splits=('train', 'validation', 'test', 'dev') is not allowed"),
        (
            splits(validation=np.arange(0)),
            "splits['validation'] is empty: 'mine' needs images to choose the best epoch",
        ),
        (splits(train=np.arange(0)), "splits['train'] is empty: 'mine' needs images to train on"),
        (
            splits(test=np.array([9, 12])),
            "splits['test']=12 is not allowed: it must be indices of images, >= 0 and < 12",
        ),
        (splits(test=np.array([-1, 9])), "splits['test']=-1 is not allowed"),
        (splits(test=np.ones(12, bool)), "splits['test']='bool[12]' is not allowed: it must be indices of images"),
        (splits(test=[9, 10]), "splits['test']='list' is not allowed: it must be indices of images"),
        ({"class_names": ("a", "b")}, "class_names has 2 names for 3 classes"),
        ({"class_names": ("a", "b", "a")}, "class_names has 'a' twice"),
        ({"normalisation": None}, "normalisation=None is not allowed: it must be a Normalisation(mean, std)"),
        ({"normalisation": Normalisation((0.5,) * 3, (0.0,) * 3)}, "three standard deviations in (0, 1]"),
    ],
)
def test_a_wrong_data_set_is_refused(changes, message):
    with pytest.raises(ValueError) as caught:
        by_hand(**changes)
    assert message in str(caught.value)


def test_what_may_be_meant_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = by_hand()
    with pytest.warns(UserWarning, match="mine: 6 images are in train and in test") as caught:
        by_hand(**splits(test=np.arange(6)))
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="mine: no training images of class 1, 2"):
        dataclasses.replace(dataset, splits={**dataset.splits, "train": np.array([0, 3])})
