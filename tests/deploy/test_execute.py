"""Batch norm becomes a part of the convolutions; a CPU runs large maps a few images at a time; logits stay the same."""

import jax
import numpy as np
import pytest

from ofav2_jax.deploy import execute
from ofav2_jax.deploy.layers import INPUT, Layer, fold_batch_norm
from ofav2_jax.ops.backend import traced_for
from tests.helpers.networks import images, off, standalone

CONV, DEPTHWISE = Layer("conv", "conv", (INPUT,)), Layer("depthwise", "depthwise", ("conv_bn",))
CONV_BN, DEPTHWISE_BN = Layer("conv_bn", "batch_norm", ("conv",)), Layer("bn", "batch_norm", ("depthwise",))


def arrays_of(*layers):
    rng = np.random.default_rng(0)

    def values(*shape):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    arrays = {}
    for layer in layers:
        if layer.op == "batch_norm":
            arrays |= {f"{layer.name}/{kind}": values(4) for kind in ("scale", "bias", "mean", "var")}
    return arrays | {"conv/kernel": values(1, 1, 3, 4), "conv/bias": values(4), "depthwise/kernel": values(3, 3, 4)}


def test_batch_norm_becomes_a_part_of_convolutions():
    layers = [CONV, CONV_BN, DEPTHWISE, DEPTHWISE_BN, Layer("mean", "mean", ("bn",))]
    arrays, x = arrays_of(*layers), images(2, 5)
    folded, folded_arrays = fold_batch_norm(layers, arrays, ["mean"])
    assert [(layer.name, layer.op) for layer in folded] == [("conv_bn", "conv"), ("bn", "depthwise"), ("mean", "mean")]
    assert set(folded_arrays) == {"conv_bn/kernel", "conv_bn/bias", "bn/kernel", "bn/bias"}
    assert {array.dtype for array in folded_arrays.values()} == {np.dtype(np.float32)}
    assert off(execute.run(folded, folded_arrays, ["mean"], x), execute.run(layers, arrays, ["mean"], x)) <= 1e-6


@pytest.mark.parametrize(
    "layers, output",
    [
        ([CONV, CONV_BN, Layer("sum", "add", ("conv_bn", "conv"))], "sum"),
        ([CONV, CONV_BN], "conv"),
        ([CONV, Layer("relu", "relu", ("conv",)), Layer("conv_bn", "batch_norm", ("relu",))], "conv_bn"),
    ],
)
def test_other_batch_norm_stays(layers, output):
    arrays = {name: array for name, array in arrays_of(*layers).items() if not name.startswith("depthwise")}
    assert fold_batch_norm(layers, arrays, [output]) == (layers, arrays)


def test_the_whole_network_stays_the_same():
    alone, x = standalone(), images(2)
    outputs = list(alone.outputs.values())
    folded, _ = fold_batch_norm(alone.layers, alone.arrays, outputs)
    left = [layer.name for layer in folded if layer.op == "batch_norm"]
    # Of a light block whose convolution is not needed.
    assert left and all("/light/" in name for name in left)
    found = jax.jit(lambda x: execute.run(alone.layers, alone.arrays, outputs, x))(x)
    assert off(alone.apply_exits(x), found) <= 1e-5


def test_a_few_images_at_a_time(monkeypatch):
    alone, x = standalone(), images(7)
    whole = alone.apply_exits(x)
    # Maps of the stem have 8 channels and 10 x 10 pixels, those of the first bottleneck three times as many channels.
    monkeypatch.setattr(execute, "_MAX_MAP_BYTES", 3 * 4 * 10 * 10 * 24)

    def loops():
        # Not `alone.function` itself, whose trace JAX remembers.
        jaxpr = jax.make_jaxpr(lambda x: alone.function(alone.arrays_on_device, x))(x)
        return [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]

    (loop,) = loops()
    # Seven images in three parts of three, two of which are padding.
    assert loop.params["length"] == 3
    parts = jax.jit(lambda x: alone.function(alone.arrays_on_device, x))(x)
    assert parts.shape == whole.shape and off(parts, whole) <= 1e-5
    with traced_for("gpu"):
        assert not loops()
