"""The commands extract, export and predict: from a run to the class of an image; what is refused, in one line."""

import contextlib
import io

import jax
import numpy as np
import pytest
from PIL import Image

import ofav2_jax as ofa
from experiments import export, extract, predict
from ofav2_jax.data.augment import eval_images
from ofav2_jax.deploy.verify import TOLERANCE, run_onnx
from tests.helpers.networks import standalone
from tests.helpers.refusals import refusal_of

FILE = {"onnx": "net.onnx", "stablehlo": "net.stablehlo"}


def picture(path, size=(40, 30)):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def taken_out(uninterrupted, tmp_path_factory):
    """A run, the file of one of its designs, and what the command that wrote the file printed."""
    run = ofa.open_run(uninterrupted[0])
    design = ofa.Design.parse(f"k5-e4-d3-l7-h5@{run.settings.resolutions[0]}")
    network = tmp_path_factory.mktemp("taken_out") / "net.safetensors"
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert extract.main([f"--run={uninterrupted[0]}", f"--subnet={design}", f"--out={network}"]) == 0
    return run, design, network, told.getvalue()


def test_from_a_run_to_a_class(taken_out, tmp_path, capsys):
    run, design, network, told = taken_out
    alone = ofa.Standalone.load(network)
    assert alone.design == design and str(design) in told and f"{alone.params:,}" in told
    # What the run's own test said of the subnet, to within an image; test_search_command.py compares both splits.
    rows = run.results["phases"][-1]["subnets"]
    (row,) = (row for row in rows if ofa.Design.from_json(row) == design)
    accuracy = alone.about["accuracy"]
    assert abs(accuracy["test"]["top1"] - row["top1"]) <= 100 / accuracy["test"]["images"] + 1e-9
    for split in ("validation", "test"):
        assert accuracy[split]["images"] == len(run.dataset.splits[split])
        assert f"{accuracy[split]['top1']:.2f}" in told
    assert alone.about["run"]["phase"] == run.phases[-1]
    assert alone.about["run"]["params_sha256"] == run.results["params_sha256"]
    assert alone.class_names == run.dataset.class_names and alone.normalisation == run.dataset.normalisation

    exported = tmp_path / "net.onnx"
    assert export.main([f"--network={network}", "--format=onnx", f"--out={exported}"]) == 0
    assert "verified" in capsys.readouterr().out
    pixels = run.dataset.images[run.dataset.splits["test"][0]]
    image = tmp_path / "digit.png"
    Image.fromarray(pixels).save(image)
    likely = run.dataset.class_names[int(np.argmax(alone.predict(pixels[None])))]
    for file in (network, exported):
        assert predict.main([f"--network={file}", str(image), "--top=3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == str(image) and len(lines) == 4 and lines[1].split()[1] == likely


def test_every_image_has_the_same_class(taken_out, tmp_path):
    run, _, network, _ = taken_out
    alone = ofa.Standalone.load(network)
    ofa.to_onnx(alone, tmp_path / "net.onnx", input="float")
    ofa.to_stablehlo(alone, tmp_path / "net.stablehlo", input="float")
    on_onnx = run_onnx(tmp_path / "net.onnx")
    on_stablehlo = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes())).call
    places = np.concatenate([run.dataset.splits["test"], run.dataset.splits["validation"]])
    pixels = np.asarray(run.dataset.images[places])
    x = np.asarray(eval_images(pixels, alone.design.resolution, alone.normalisation))
    expected = np.asarray(alone.predict(pixels))
    assert len(x) > 500 and len(set(expected.argmax(-1))) > 1
    second, first = np.sort(expected, axis=-1)[:, -2:].T
    is_tie = first - second <= 1e-5 * np.abs(expected).max()
    for batch_size in (1, 7, 64):
        for compute in (on_onnx, on_stablehlo):
            found = np.concatenate([compute(x[start : start + batch_size]) for start in range(0, len(x), batch_size)])
            assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
            assert np.all((found.argmax(-1) == expected.argmax(-1)) | is_tie)


def test_stablehlo_and_floats(tmp_path, capsys):
    standalone().save(tmp_path / "net.safetensors")
    out = tmp_path / "net.stablehlo"
    arguments = [f"--network={tmp_path / 'net.safetensors'}", "--format=stablehlo", f"--out={out}", "--input=float"]
    assert export.main(arguments) == 0
    assert out.is_file() and "float [N, 19, 19, 3]" in capsys.readouterr().out


def test_a_file_that_computes_something_else_is_removed(tmp_path, monkeypatch, capsys):
    standalone().save(tmp_path / "net.safetensors")
    other = standalone("ee_dp", "k3-e3-d2-l7-h1@19")
    monkeypatch.setattr(ofa, "to_onnx", lambda alone, path, input, write=ofa.to_onnx: write(other, path, input))
    out = tmp_path / "net.onnx"
    assert export.main([f"--network={tmp_path / 'net.safetensors'}", "--format=onnx", f"--out={out}"]) == 1
    assert not out.exists()
    error = capsys.readouterr().err
    assert "gives other logits" in error and error.count("\n") == 1


def test_a_picture_of_any_kind(tmp_path, capsys):
    network = tmp_path / "net.safetensors"
    standalone().save(network)
    Image.new("LA", (300, 20)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((9, 30), 40_000, np.uint16)).save(tmp_path / "deep.png")
    picture(tmp_path / "turned.jpg")
    assert (
        predict.main([f"--network={network}", *(str(tmp_path / n) for n in ("grey.png", "deep.png", "turned.jpg"))])
        == 0
    )
    assert len(capsys.readouterr().out.splitlines()) == 3 * 6


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A directory with a network, a foreign file, a broken image and the directory of no run."""
    here = tmp_path_factory.mktemp("here")
    standalone().save(here / "net.safetensors")
    (here / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (here / "foreign.onnx").write_text("no model")
    (here / "taken.onnx").write_text("precious")
    (here / "taken.safetensors").write_text("precious")
    (here / "broken.jpg").write_text("<html>")
    (here / "empty").mkdir()
    picture(here / "good.png")
    return here


NETWORK, OUT, RUN = "--network={here}/net.safetensors", "--out={here}/new", "--run={here}/empty"
DESIGN = "--subnet=k7-e6-d4-l7-h5@64"
WRONG = [
    (extract, [], "--run, --out"),
    (extract, [RUN, DESIGN, OUT + ".onnx"], "must end in .safetensors"),
    (extract, [RUN, DESIGN, "--out={here}/taken.safetensors"], "it exists already"),
    (extract, [RUN, DESIGN, "--out={here}/nowhere/net.safetensors"], "is not a directory"),
    (extract, [RUN, DESIGN, OUT + ".safetensors"], "is not a run directory"),
    (extract, ["--run={here}/missing", DESIGN, OUT + ".safetensors"], "is not a run directory"),
    (extract, [RUN, "--subnet=k7-e6-d4-l7-h5", OUT + ".safetensors"], "@64"),
    (extract, [RUN, "--subnet=k9-e6-d4-l7-h5@64", OUT + ".safetensors"], "kernel contains 9"),
    (extract, [RUN, "--subnet=k7-e6-d4-l7-h5@0", OUT + ".safetensors"], "resolution=0"),
    (extract, [RUN, "--subnet=k7-e6-d4-l7-h3@64+4", OUT + ".safetensors"], "exits"),
    (extract, [RUN, DESIGN, OUT + ".safetensors", "--nothing"], "--nothing"),
    (export, [], "--network, --format, --out"),
    (export, [NETWORK, "--format=tflite", OUT + ".onnx"], "invalid choice: 'tflite'"),
    (export, [NETWORK, "--format=onnx", OUT + ".stablehlo"], "must end in .onnx"),
    (export, [NETWORK, "--format=stablehlo", OUT + ".onnx"], "must end in .stablehlo"),
    (export, [NETWORK, "--format=onnx", "--out={here}/taken.onnx"], "it exists already"),
    (export, [NETWORK, "--format=onnx", "--out={here}/nowhere/net.onnx"], "is not a directory"),
    (export, [NETWORK, "--format=onnx", OUT + ".onnx", "--input=int8"], "invalid choice: 'int8'"),
    (export, ["--network={here}/pointer.safetensors", "--format=onnx", OUT + ".onnx"], "pointer.safetensors"),
    (export, ["--network={here}/missing.safetensors", "--format=onnx", OUT + ".onnx"], "missing.safetensors"),
    (export, ["--network={here}/foreign.onnx", "--format=onnx", OUT + ".onnx"], "must end in .safetensors"),
    (export, ["--network={here}/empty", "--format=onnx", OUT + ".onnx"], "must end in .safetensors"),
    (predict, [], "--network, IMAGE"),
    (predict, [NETWORK], "IMAGE"),
    (predict, [NETWORK, "{here}/missing.png"], "there is no such file"),
    (predict, [NETWORK, "{here}/good.png", "{here}/broken.jpg"], "broken.jpg: it is an HTML page"),
    (predict, [NETWORK, "{here}/empty"], "there is no such file"),
    (predict, [NETWORK, "{here}/good.png", "--top=0"], "--top=0"),
    (predict, ["--network={here}/foreign.onnx", "{here}/good.png"], "is not an ONNX file"),
    (predict, ["--network={here}/pointer.safetensors", "{here}/good.png"], "pointer.safetensors"),
    (predict, ["--network={here}/net.pth", "{here}/good.png"], "must end in .safetensors or .onnx"),
    (predict, ["--network={here}/missing.onnx", "{here}/good.png"], "there is no such file"),
]


@pytest.mark.parametrize("command, arguments, told", WRONG)
def test_wrong_input_is_one_line(command, arguments, told, here, capsys):
    before = {path.name: path.read_bytes() if path.is_file() else None for path in here.iterdir()}
    assert told in refusal_of(command.main, [argument.format(here=here) for argument in arguments], capsys)
    assert {path.name: path.read_bytes() if path.is_file() else None for path in here.iterdir()} == before
