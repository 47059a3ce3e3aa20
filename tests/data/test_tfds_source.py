"""Loading data sets through TFDS, and the cache of decoded images, with miniature data sets of noise."""

import concurrent.futures
import dataclasses
import importlib.util
import io
import json
import logging
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ofav2_jax.data import image_cache, tfds_source
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.dataset import Request, fingerprint
from ofav2_jax.data.tfds_source import load_tfds
from ofav2_jax.data.tiny_imagenet.tiny_imagenet import TinyImagenet
from tests.helpers import miniature

REAL_ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "tiny-imagenet-200.tar.xz"


def encoded(pixels, file_format="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def noise(seed, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class NoiseImages(tfds.core.GeneratorBasedBuilder):
    """24 training images and 8 test images of 4 classes; class attributes hold the properties that tests change."""

    VERSION = tfds.core.Version("1.2.3")
    splits = {"train": 24, "test": 8}
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=4)}
    supervised_keys = ("image", "label")
    image = staticmethod(lambda number: encoded(noise(number)))
    label = staticmethod(lambda number: number % 4)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**self.features, "id": tfds.features.Text()}),
            supervised_keys=self.supervised_keys,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in self.splits.items()}

    def _generate_examples(self, split, count):
        image_key, label_key = self.features
        for i in range(count):
            number = i + (1000 if split != "train" else 0)
            yield number, {image_key: self.image(number), label_key: self.label(number), "id": str(number)}


@pytest.fixture
def load(tmp_path):
    def load(name="noise_images", **arguments):
        request = {"name": name, "data_dir": tmp_path / "tfds", "base_resolution": 32, **arguments}
        return load_tfds(Request(**request), cache_dir=tmp_path / "cache")

    return load


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


def test_a_plan_of_a_set_that_is_not_prepared(load, tmp_path):
    with pytest.raises(ValueError, match=r"noise_images/1\.2\.3 is not prepared in .*: a dry run downloads nothing"):
        load(plan_only=True)
    planned = load("tiny_imagenet", plan_only=True, base_resolution=64)
    assert {split: len(indices) for split, indices in planned.splits.items()} == {
        **{"train": 85000, "validation": 15000, "test": 10000}
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data_dir", "message"),
    [
        ("noise_images", "tfds/noise_images", r"it is the folder of a data set; give the folder that .* in, TMP/tfds$"),
        (
            "noise_images",
            "tfds/noise_images/1.2.3",
            r"it is the folder of a data set; give the folder that .* TMP/tfds$",
        ),
        (
            "noise_images:9.9.9",
            "tfds",
            "data.dataset='noise_images:9.9.9' is not allowed: Dataset noise_images cannot be loaded at version 9.9.9",
        ),
        ("prepared:9.9.9", "tfds", "data.dataset='prepared:9.9.9' is not allowed: TMP/tfds has prepared:1.2.3"),
        (
            "TMP/tfds/noise_images/1.2.3",
            None,
            "it is a path; write --config.data.dataset=noise_images --config.data.data_dir=TMP/tfds",
        ),
        ("TMP/tfds", None, "it is a path; for a folder of images write --config.data.dataset=folder"),
        (
            "./nowhere",
            None,
            "data.dataset='./nowhere' is not allowed: it is neither the name of a data set nor a folder",
        ),
        (
            "noice",
            "nowhere",
            "data set 'noice' is unknown to TensorFlow Datasets .* and there is no folder TMP/nowhere",
        ),
        (
            "noice",
            "tfds",
            "data set 'noice' is unknown to TensorFlow Datasets .* and is not prepared in TMP/tfds; https",
        ),
        ("noice", None, "data set 'noice' is unknown to TensorFlow Datasets .* /.*tensorflow_datasets; "),
    ],
)
def test_where_a_set_is_not(load, tmp_path, name, data_dir, message):
    load()
    shutil.copytree(tmp_path / "tfds" / "noise_images", tmp_path / "tfds" / "prepared")
    arguments = {"data_dir": None if data_dir is None else tmp_path / data_dir}
    with pytest.raises(ValueError, match=message.replace("TMP", str(tmp_path))) as caught:
        load(name.replace("TMP", str(tmp_path)), **arguments)
    assert "\n" not in str(caught.value) and "None" not in str(caught.value)


def test_without_a_network_the_answer_comes_at_once(load, monkeypatch, tmp_path):
    monkeypatch.setattr(NoiseImages, "url_infos", {"http://127.0.0.1:9/images.zip": None})
    monkeypatch.setenv("no_proxy", "*")
    advice = "prepare it elsewhere with `tfds build noise_images --file_format=array_record` and give its `data_dir`"
    with pytest.raises(ConnectionError, match=f"is not prepared in .*, and 127.0.0.1:9 cannot be reached .*: {advice}"):
        load()
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_cannot_even_be_made_says_so_in_one_line(load, monkeypatch, capsys):
    def fail(self, **kwargs):
        print("a banner\nof TFDS")
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr(NoiseImages, "__init__", fail)
    with pytest.raises(
        ImportError, match=r"'noise_images' needs what is not installed \(No module named 'tensorflow'\)"
    ):
        load()
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_prepared_says_so_in_one_line(load, monkeypatch, tmp_path):
    def fail(self, dl_manager):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(NoiseImages, "_split_generators", fail)
    with pytest.raises(
        ConnectionError, match=r"could not be downloaded and prepared \(first line second line\): prepare"
    ):
        load()
    assert list(tmp_path.iterdir()) == []


class Events(logging.Handler):
    """Tells that a process waits, or that one generates a data set."""

    def __init__(self):
        super().__init__()
        self.waits, self.generates, self.generated = threading.Event(), threading.Event(), 0

    def emit(self, record):
        assert "which prepares noise_images/1.2.3 (" in record.getMessage()
        self.waits.set()


@pytest.fixture
def events(monkeypatch):
    events, generate = Events(), NoiseImages._split_generators

    def splits(self, dl_manager):
        events.generated += 1
        if events.generates.is_set():
            # A second one generates, so that none will wait.
            events.waits.set()
        events.generates.set()
        events.waits.wait(60)
        return generate(self, dl_manager)

    monkeypatch.setattr(NoiseImages, "_split_generators", splits)
    logging.getLogger().addHandler(events)
    yield events
    logging.getLogger().removeHandler(events)


def test_of_two_at_once_one_prepares_and_the_other_waits(load, events, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(load)
        assert events.generates.wait(60)
        second = pool.submit(lambda: load(base_resolution=16))
        assert len(first.result().images) == len(second.result().images) == 32
    assert events.generated == 1 and events.waits.is_set()
    assert [path.name for path in (tmp_path / "tfds" / "noise_images").iterdir()] == ["1.2.3"]


def test_what_a_killed_process_left_of_preparing_is_removed(load, tmp_path):
    folder = tmp_path / "tfds" / "noise_images"
    # TFDS's name of a folder, the one before it gets its own, and that of somebody else's `tfds build`.
    for name in ("incomplete.ABC123_1.2.3.ofav2_jax", "1.2.3.ofav2_jax", "incomplete.ABC123_1.2.3"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half").write_text("half")
    (folder / "1.2.3.lock").write_text("process 7 on other")
    assert len(load().images) == 32
    assert sorted(path.name for path in folder.iterdir()) == ["1.2.3", "incomplete.ABC123_1.2.3"]


def test_a_folder_in_the_place_of_a_prepared_set_is_named(load, tmp_path):
    (tmp_path / "tfds" / "noise_images" / "1.2.3").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"there is a folder without dataset_info.json: remove it, or give another"):
        load()
    assert [path.name for path in (tmp_path / "tfds" / "noise_images").iterdir()] == ["1.2.3"]


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


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is there")
def test_says_when_preparing_needs_tensorflow(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "image", staticmethod(noise))
    with pytest.raises(ImportError, match=r"noise_images/1\.2\.3 is not prepared in .* without TensorFlow"):
        load()


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
