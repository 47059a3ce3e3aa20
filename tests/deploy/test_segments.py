"""Segments together are the network; each costs what is counted for its exit."""

import dataclasses

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.deploy import segments
from ofav2_jax.deploy.layers import Layer
from tests.helpers.networks import DESIGN, off, pixels, standalone

TOLERANCE = 1e-5
SEVERAL = DESIGN + "+2"

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def chained(directory, names, x):
    """The logits of each segment."""
    logits = []
    for name in names:
        session = onnxruntime.InferenceSession(str(directory / name), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        assert outputs == ["logits", "next_features"][: 1 + (name != names[-1])]
        found = session.run(None, {session.get_inputs()[0].name: x})
        logits.append(found[0])
        x = found[-1]
    return np.stack(logits)


@pytest.mark.parametrize("input", ["uint8", "float"])
def test_segments_together_are_the_network(tmp_path, input):
    alone = standalone(design=SEVERAL)
    names = segments.to_onnx_segments(alone, tmp_path, input)
    assert names == ["segment_1.onnx", "segment_2.onnx", "segment_3.onnx"]
    raw = pixels(5)
    normalised = np.asarray(alone.normalisation(raw.astype(np.float32)))
    for number in (1, 5):
        found = chained(tmp_path, names, (raw if input == "uint8" else normalised)[:number])
        assert off(found, np.asarray(alone.apply_exits(normalised))[:, :number]) <= TOLERANCE


def test_segments_have_every_layer_once():
    alone = standalone(design=SEVERAL)
    parts = segments.cut(alone)
    assert [layer for part in parts for layer in part.layers] == list(alone.layers)
    assert [part.exit for part in parts] == [1, 2, 3]
    assert parts[0].source == "images" and [part.source for part in parts[1:]] == [p.features for p in parts[:-1]]


@pytest.mark.parametrize("design", [SEVERAL, DESIGN])
def test_costs_are_those_of_the_exits_that_ran(design):
    net, alone = ofa.SuperNet("ee_dp", 0.1, 7), standalone(design=design)
    parts = segments.cut(alone)
    for place, part in enumerate(parts):
        subnet = dataclasses.replace(alone.design.subnet, height=part.exit)
        ran = [each.exit for each in parts[: place + 1]]
        assert part.macs == ofa.count(net, subnet, 19, exits=ran).macs
        assert part.single_macs == ofa.count(net, subnet, 19).macs
    assert parts[-1].macs == alone.macs


def test_a_segment_says_what_it_is(tmp_path):
    from ofav2_jax.deploy.classify import Classifier

    alone = standalone(design=SEVERAL)
    segments.to_onnx_segments(alone, tmp_path)
    with pytest.raises(ValueError, match="is not a network that export wrote"):
        Classifier(tmp_path / "segment_1.onnx")
    model = onnx.load(tmp_path / "segment_2.onnx")
    assert [entry.key for entry in model.metadata_props] == ["ofav2_jax_segment"]
    # Of definite size but for the number of images, as phones want it.
    for value in (*model.graph.input, *model.graph.output):
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim][:1] == ["N"]
        assert all(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])


def test_refused(tmp_path):
    with pytest.raises(ValueError, match="it has one exit"):
        segments.cut(standalone("ofa_mbv3", "k3-e3-d2-l7-h5@19"))
    alone = standalone(design=SEVERAL)
    # The last exit reads the one before it instead of the body.
    layers = [*alone.layers, Layer("both", "add", (alone.outputs[2], alone.outputs[2]))]
    crossing = dataclasses.replace(alone, layers=tuple(layers), outputs={**alone.outputs, 3: "both"})
    with pytest.raises(ValueError, match="cannot be cut behind exit"):
        segments.cut(crossing)
    with pytest.raises(ValueError, match="input='int8'"):
        segments.to_onnx_segments(alone, tmp_path, "int8")
    assert not list(tmp_path.iterdir())
