"""Files of networks that were taken out: they come back, prove themselves, and what is none is refused by name."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import ofav2_jax as ofa
from tests.helpers.networks import images, pixels, standalone


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "net.safetensors"
    standalone().save(file)
    return file


def read(file):
    with safetensors.safe_open(file, "numpy") as content:
        return {name: content.get_tensor(name) for name in content.keys()}, content.metadata()


def test_a_file_comes_back(file):
    alone, loaded = standalone(), ofa.Standalone.load(file)
    assert loaded.design == alone.design and loaded.layers == alone.layers and loaded.class_names == alone.class_names
    assert (loaded.params, loaded.macs, loaded.normalisation) == (alone.params, alone.macs, alone.normalisation)
    assert np.array_equal(loaded.apply(images(2)), alone.apply(images(2)))
    assert np.array_equal(loaded.predict(pixels(2)), alone.predict(pixels(2)))
    assert dict(loaded.about) == dict(alone.about)


def test_a_file_is_as_large_as_its_numbers(file):
    alone = standalone()
    statistics = sum(array.size for name, array in alone.arrays.items() if name.endswith(("/mean", "/var")))
    with file.open("rb") as content:
        header = int.from_bytes(content.read(8), "little")
    assert file.stat().st_size == 8 + header + 4 * (alone.params + statistics)


def damaged(file, tmp_path, change):
    arrays, metadata = read(file)
    header = json.loads(metadata["network"])
    change(arrays, metadata, header)
    if "network" in metadata:
        metadata["network"] = json.dumps(header)
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(arrays, other, metadata)
    return other


KERNEL, VAR = "stem_conv/kernel", "stem_bn/var"


def sum_in(header):
    """The first layer that adds maps."""
    return next(layer for layer in header["layers"] if layer[1] == "add")


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda arrays, metadata, header: arrays.update({KERNEL: -arrays[KERNEL]}), "self-check"),
        (lambda arrays, metadata, header: arrays.update({KERNEL: np.nan * arrays[KERNEL]}), "self-check"),
        (lambda arrays, metadata, header: arrays.update({VAR: -arrays[VAR]}), "self-check"),
        (lambda arrays, metadata, header: arrays.update({KERNEL: arrays[KERNEL][0]}), "it must be (3, 3, 3, 8)"),
        (lambda arrays, metadata, header: arrays.update({KERNEL: arrays[KERNEL][:2, :2]}), "it must be (1, 1, 3, 8)"),
        (
            lambda arrays, metadata, header: arrays.update({KERNEL: np.ones((), np.float32)}),
            "'stem_conv/kernel' has shape ()",
        ),
        (lambda arrays, metadata, header: arrays.update({VAR: arrays[VAR][:2]}), "'stem_bn/var' has shape (2,)"),
        (lambda arrays, metadata, header: arrays.update({VAR: arrays[VAR].astype(int)}), "'stem_bn/var' is int64"),
        (lambda arrays, metadata, header: header["layers"][0].__setitem__(2, []), "reads 0 others"),
        (lambda arrays, metadata, header: header["layers"][0].__setitem__(2, ["images"] * 2), "reads 2 others"),
        (lambda arrays, metadata, header: sum_in(header)[2].append("images"), "which do not fit"),
        (lambda arrays, metadata, header: header.update(num_classes=3, class_names=None), "3 channels"),
        (lambda arrays, metadata, header: arrays.pop(KERNEL), "'stem_conv/kernel' is missing"),
        (lambda arrays, metadata, header: arrays.update(x=arrays[KERNEL]), "'x' is not of any layer"),
        (lambda arrays, metadata, header: metadata.pop("network"), "network"),
        (lambda arrays, metadata, header: metadata.update(format="other/1"), "format is 'other/1'"),
        (lambda arrays, metadata, header: header.pop("design"), "design"),
        (lambda arrays, metadata, header: header["layers"].reverse(), "does not come before it"),
        (lambda arrays, metadata, header: header["layers"].append(["a", "eval", ["images"], 1]), "is not a layer"),
        (lambda arrays, metadata, header: header["layers"].append(header["layers"][0]), "is there twice"),
        (lambda arrays, metadata, header: header.update(outputs={"3": "nothing"}), "outputs"),
        (lambda arrays, metadata, header: header.update(class_names=["a"]), "class_names are 1"),
        (lambda arrays, metadata, header: header["design"].update(resolution=0), "resolution=0"),
        (lambda arrays, metadata, header: header.update(layers=3), "TypeError"),
        (lambda arrays, metadata, header: header["preprocessing"].update(resize=18), "resized=18 is not allowed"),
        (lambda arrays, metadata, header: header["preprocessing"].update(resize="22"), "resized='22' is not allowed"),
    ],
)
def test_damaged_files_are_refused(file, tmp_path, change, told):
    other = damaged(file, tmp_path, change)
    with pytest.raises(ValueError) as error:
        ofa.Standalone.load(other)
    assert str(other) in str(error.value) and told in str(error.value) and "\n" not in str(error.value)


def test_foreign_files_are_refused(file, tmp_path):
    content = file.read_bytes()
    for name, data, told in (
        ("cut", content[:-100], ""),
        ("empty", b"", ""),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n", ""),
        ("text", b"hello" * 100, ""),
    ):
        other = tmp_path / f"{name}.safetensors"
        other.write_bytes(data)
        with pytest.raises(ValueError, match="is not a network that extract wrote") as error:
            ofa.Standalone.load(other)
        assert str(other) in str(error.value) and told in str(error.value)
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "weights.safetensors")
    for other, told in (
        (tmp_path / "weights.safetensors", "its format is None"),
        (tmp_path / "missing.safetensors", "missing.safetensors"),
        (tmp_path, "must end in .safetensors"),
        (tmp_path / "net.pth", "must end in .safetensors"),
    ):
        with pytest.raises(ValueError) as error:
            ofa.Standalone.load(other)
        assert told in str(error.value)


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="its name must end"):
        standalone().save(tmp_path / "net.onnx")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(OSError):
        standalone().save(tmp_path / "taken.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]
