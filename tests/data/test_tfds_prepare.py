"""TFDS sets that are not prepared: where they are looked for, what cannot be prepared, several processes at once."""

import concurrent.futures
import importlib.util
import logging
import shutil
import threading

import pytest

from tests.helpers.noise_images import NoiseImages, noise


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


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is there")
def test_says_when_preparing_needs_tensorflow(load, monkeypatch):
    monkeypatch.setattr(NoiseImages, "image", staticmethod(noise))
    with pytest.raises(ImportError, match=r"noise_images/1\.2\.3 is not prepared in .* without TensorFlow"):
        load()
