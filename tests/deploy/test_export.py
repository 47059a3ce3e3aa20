"""Exported files compute what the network does, for any number of images; a file that does not is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.deploy.verify import verify
from tests.helpers.networks import SIMPLE, images, off, pixels, standalone

TOLERANCE = 1e-5

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def run(file, x):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": x})))


@pytest.mark.parametrize("network, design", [("ee_dp", None), ("ofa_mbv3", SIMPLE)])
def test_onnx_equals_the_network(tmp_path, network, design):
    alone = standalone(network, design) if design else standalone()
    x = images(7)
    expected = np.asarray(alone.apply(x))
    ofa.to_onnx(alone, tmp_path / "net.onnx", input="float")
    for number in (1, 7):
        assert off(run(tmp_path / "net.onnx", x[:number])["logits"], expected[:number]) <= TOLERANCE


def test_onnx_of_raw_images(tmp_path):
    alone = standalone()
    raw = pixels(7)
    normalised = np.asarray(alone.normalisation(raw.astype(np.float32)))
    ofa.to_onnx(alone, tmp_path / "net.onnx")
    found = run(tmp_path / "net.onnx", raw)
    assert off(found["logits"], alone.apply(normalised)) <= TOLERANCE
    assert off(np.stack([found["exit_1"], found["exit_3"]]), alone.apply_exits(normalised)) <= TOLERANCE


def test_onnx_says_what_it_is(tmp_path):
    alone = standalone()
    ofa.to_onnx(alone, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    header = json.loads({entry.key: entry.value for entry in model.metadata_props}["ofav2_jax"])
    assert ofa.Design.from_json(header["design"]) == alone.design
    assert header["class_names"] == list(alone.class_names) and header["macs"] == alone.macs
    assert [opset.version for opset in model.opset_import] == [17]


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_stablehlo_equals_the_network(tmp_path, kind):
    alone = standalone()
    ofa.to_stablehlo(alone, tmp_path / "net.stablehlo", input=kind)
    exported = jax.export.deserialize(bytearray((tmp_path / "net.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    raw = pixels(7)
    normalised = np.asarray(alone.normalisation(raw.astype(np.float32)))
    assert off(exported.call(raw if kind == "uint8" else normalised), alone.apply(normalised)) <= TOLERANCE


def test_a_network_runs_after_its_first_export(tmp_path):
    alone = dataclasses.replace(standalone())
    ofa.to_stablehlo(alone, tmp_path / "net.stablehlo")
    assert off(alone.apply(images(2)), standalone().apply(images(2))) <= TOLERANCE


def test_other_logits_do_not_pass(tmp_path):
    alone, other = standalone(), standalone("ee_dp", "k3-e3-d2-l7-h1@19")
    ofa.to_onnx(alone, tmp_path / "net.onnx")
    assert verify(tmp_path / "net.onnx", alone, "uint8") <= TOLERANCE
    with pytest.raises(ValueError, match="gives other logits"):
        verify(tmp_path / "net.onnx", other, "uint8")
    with pytest.raises(ValueError, match="does not run"):
        verify(tmp_path / "net.onnx", alone, "float")
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        verify(tmp_path / "net.onnx", alone, "uint8")


def test_refused(tmp_path):
    for write, name in ((ofa.to_onnx, "net.onnx"), (ofa.to_stablehlo, "net.stablehlo")):
        with pytest.raises(ValueError, match="input='int8'"):
            write(standalone(), tmp_path / name, input="int8")
        with pytest.raises(ValueError, match="must end in"):
            write(standalone(), tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())
