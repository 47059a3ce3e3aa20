"""Folders of images: how they are divided, what is left out and counted, plans and commands."""

import shutil
import unicodedata

import numpy as np
import pytest

from experiments import eps
from experiments.console import data_lines
from ofav2_jax.data.decode import decode_image
from tests.helpers.folders import SIZE, load, sizes
from tests.helpers.pictures import encoded, picture, write_folder
from tests.helpers.runs import ROOT

pytestmark = pytest.mark.usefixtures("kept")


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


def test_a_plan_decodes_and_writes_nothing(root, kept, decoded):
    write_folder(root, {"train": 8, "test": 3})
    for name in range(5):
        (root / "train" / "cat" / f"{name}.png").write_bytes(encoded(picture(1, name)))
    planned = load(root, plan_only=True)
    assert not kept.exists() and not decoded
    lines = "\n".join(data_lines(planned))
    assert "images: 25 train, 4 validation, 9 test images" in lines
    assert "bee, cat, dog; training images: 7 of bee (fewest) to 11 of cat (most)" in lines
    assert "not decoded yet: 0.0 MB of pixels will be kept in" in lines and "mean" not in lines
    whole = load(root)
    assert sizes(planned) == sizes(whole)
    assert all(np.array_equal(planned.splits[split], whole.splits[split]) for split in whole.splits)
    assert "pixels       16x16, mean 0." in "\n".join(data_lines(load(root, plan_only=True)))


def test_command(root, kept, capsys, tmp_path):
    write_folder(root, {"train": 20, "test": 3})
    arguments = ["--config=configs/ee_d.py:smoke", "--config.data.dataset=folder", f"--config.data.data_dir={root}"]
    arguments += ["--config.batch_size=16", "--config.evaluation.recalibration_images=20", "--dry_run"]
    arguments += ["--config.evaluation.recalibration_batch_size=20", f"--workdir={tmp_path / 'run'}"]
    arguments += ["--config.data.num_classes=3", "--config.data.normalisation=(0.5,0.5,0.5),(0.25,0.25,0.2)"]
    assert eps.main(["eps", *arguments]) == 0
    out, _ = capsys.readouterr()
    assert "classes      bee, cat, dog; 17 training images each" in out
    assert not kept.exists()
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
