"""Once-For-All's own networks: their names, their exit widths and their logits, in both directions."""

import hashlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import ofav2_jax as ofa
from ofav2_jax.model.torch_weights import to_torch
from tests.helpers.networks import images, off, random_variables

# Of all names and shapes of `OFAMobileNetV3(n_classes=7, width_mult=0.1)`, package ofa 0.1.0.post202307202001.
NAMES_SHA256 = "0c9582e5b0b2c91d2681d00a7949cd62edb264f35aa66ab41d8ff23d73186345"
# Logits of `OFAMobileNetV3(n_classes=7, width_mult=0.25)` with the weights of `random_variables`, of this subnet.
DESIGN = "k35753575357535753575-e34634634634634634634-d32423-l7-h5@33"
LOGITS = [
    [-0.16960003972, 0.34211903811, 0.25308114290, -0.17094689608, -0.09634059668, -0.69507360458, -0.02072121948],
    [-0.16987654567, 0.34190893173, 0.25392651558, -0.16989369690, -0.09633213282, -0.69474816322, -0.01991309971],
]


def network(width_multiplier):
    return ofa.SuperNet("ofa_mbv3", width_multiplier, 7, exit_widths="ofa")


def require_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_names_and_shapes():
    net = network(0.1)
    state = to_torch(random_variables(net), net, "ofa")
    listed = "\n".join(sorted(f"{name} {value.shape}" for name, value in state.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == NAMES_SHA256


def test_logits():
    net, design = network(0.25), ofa.Design.parse(DESIGN)
    alone = ofa.extract(net, random_variables(net), design)
    assert off(alone.apply(images(2, 33)), LOGITS) < 1e-5


def test_checkpoints_as_they_are_published():
    net = network(0.1)
    variables = random_variables(net)
    state = to_torch(variables, net, "ofa")
    wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    require_equal(ofa.load_torch(wrapped, net), variables)
    half = ofa.load_torch({name: value.astype(np.float16) for name, value in state.items()}, net)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float32)}
    jax.tree.map(lambda found, expected: np.testing.assert_allclose(found, expected, 1e-3, 1e-6), half, variables)
    del state["blocks.7.conv.point_linear.conv.conv.weight"]
    with pytest.raises(ValueError, match=r"1 missing: blocks\.7"):
        ofa.load_torch(state, net)


def test_files_come_back(tmp_path):
    for widths, names, first in (
        ("ofa", None, "first_conv.conv.weight"),
        ("ofav2", None, "head_stage.first_conv.conv.weight"),
        ("ofav2", "ofa", "first_conv.conv.weight"),
    ):
        net = ofa.SuperNet("ofa_mbv3", 0.1, 7, exit_widths=widths)
        variables, file = random_variables(net), tmp_path / "weights.safetensors"
        ofa.save_torch(variables, net, file, names)
        assert first in load_file(file)
        require_equal(ofa.load_torch(file, net), variables)


def test_refused(tmp_path):
    net = ofa.SuperNet("se_d", 0.1, 7)
    with pytest.raises(ValueError, match="names='ofa'"):
        ofa.save_torch(random_variables(net), net, tmp_path / "weights.safetensors", "ofa")
    with pytest.raises(ValueError, match="must end in"):
        ofa.save_torch(random_variables(net), net, tmp_path / "weights.pth")
    assert not list(tmp_path.iterdir())
