"""ONNX files of networks that were taken out, written from their lists of layers (extra `export`)."""

import json
import os
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import local_file, require_among
from ofav2_jax.deploy.layers import INPUT, Layer, by_layer
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.ops.batch_norm import EPSILON

# The oldest opset with HardSwish as BatchNormalization is written here; every runtime of the last years reads it.
OPSET = 17
# That of opset 17: later versions of onnx would write a version that older runtimes refuse.
_IR_VERSION = 8
INPUTS = ("uint8", "float")


def to_onnx(alone: Standalone, path: str | os.PathLike, input: str = "uint8") -> None:
    """Writes an ONNX file, for any number of images.

    Its input is `images`, [N, R, R, 3] in RGB: uint8 images that were resized and cropped, or with `input="float"`
    normalised ones. Its outputs are `logits`, averaged over the exits, and with several exits `exit_K` for each.

    Args:
        alone: the network.
        path: the file, whose name ends in .onnx.
        input: "uint8", with the normalisation inside of the network, or "float".

    Raises:
        ValueError: for another input, or a file of another name.
        ImportError: without the extra `export`.
        OSError: if the file cannot be written.
    """
    require_among("input", input, INPUTS)
    file = local_file("file", path, ".onnx")
    onnx = require_onnx()
    model = _Graph(onnx, alone).model(input)
    onnx.checker.check_model(model, full_check=True)
    files.write_bytes(file, model.SerializeToString())


def require_onnx() -> Any:
    """The package onnx.

    Raises:
        ImportError: without the extra `export`, saying how to install it.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("onnx is missing: pip install 'ofav2_jax[export]'") from error
    return onnx


class _Graph:
    """The nodes and arrays of a network, which is [N, C, H, W] inside, as ONNX has it."""

    def __init__(self, onnx: Any, alone: Standalone):
        self._onnx, self._alone = onnx, alone
        self._of_layers = by_layer(alone.layers, alone.arrays)
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []

    def model(self, input: str) -> Any:
        """The whole model; see `to_onnx`."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        alone, resolution = self._alone, self._alone.design.resolution
        x = "images"
        if input == "uint8":
            # As `Normalisation` computes it.
            x = self._node("Cast", "images/cast", x, to=types.FLOAT)
            x = self._node("Div", "images/scaled", x, self._array("images/range", np.float32(255)))
            x = self._node("Sub", "images/centred", x, self._array("images/mean", alone.normalisation.mean))
            x = self._node("Div", "images/normalised", x, self._array("images/std", alone.normalisation.std))
        results = {INPUT: self._node("Transpose", "images/channels_first", x, perm=[0, 3, 1, 2])}
        for layer in alone.layers:
            results[layer.name] = self._layer(layer, [results[name] for name in layer.inputs])
        exits = [results[name] for name in alone.outputs.values()]
        outputs = ["logits"]
        if len(exits) == 1:
            self._node("Identity", "logits", exits[0])
        else:
            names = [self._node("Identity", f"exit_{k}", x) for k, x in zip(alone.outputs, exits)]
            self._node("Mean", "logits", *names)
            outputs += names
        images = helper.make_tensor_value_info(
            "images", types.UINT8 if input == "uint8" else types.FLOAT, ["N", resolution, resolution, 3]
        )
        declared = [helper.make_tensor_value_info(name, types.FLOAT, ["N", alone.num_classes]) for name in outputs]
        graph = helper.make_graph(self._nodes, "ofav2", [images], declared, self._arrays)
        model = helper.make_model(
            graph,
            producer_name="ofav2_jax",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        header = {key: value for key, value in alone.header().items() if key not in ("layers", "outputs")}
        helper.set_model_props(model, {"ofav2_jax": json.dumps({**header, "input": input})})
        return model

    def _node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _array(self, name: str, values: Any) -> str:
        self._arrays.append(self._onnx.numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def _layer(self, layer: Layer, inputs: list[str]) -> str:
        name, arrays = layer.name, self._of_layers[layer.name]
        if layer.op in ("conv", "depthwise"):
            return self._conv(layer, inputs[0], arrays)
        if layer.op == "dense":
            # A map of one pixel, as "mean" leaves it, or the features of an exit.
            return self._dense(layer, inputs[0], arrays)
        if layer.op == "batch_norm":
            operands = [self._array(f"{name}/{key}", arrays[key]) for key in ("scale", "bias", "mean", "var")]
            return self._node("BatchNormalization", name, inputs[0], *operands, epsilon=EPSILON)
        if layer.op == "max_pool":
            window = [layer.stride] * 2
            return self._node("MaxPool", name, inputs[0], kernel_shape=window, strides=window, ceil_mode=1)
        if layer.op == "add":
            return self._sum(name, inputs)
        op, attributes = {
            "relu": ("Relu", {}),
            "h_swish": ("HardSwish", {}),
            "h_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
            "mean": ("GlobalAveragePool", {}),
            "mul": ("Mul", {}),
        }[layer.op]
        return self._node(op, name, *inputs, **attributes)

    def _conv(self, layer: Layer, x: str, arrays: dict[str, np.ndarray]) -> str:
        kernel, is_depthwise = arrays["kernel"], layer.op == "depthwise"
        size = kernel.shape[0]
        # [out, in / groups, k, k]
        weights = np.moveaxis(kernel, -1, 0)[:, None] if is_depthwise else np.transpose(kernel, (3, 2, 0, 1))
        return self._node(
            "Conv",
            layer.name,
            x,
            *self._weights_and_bias(layer, weights, arrays),
            kernel_shape=[size, size],
            strides=[layer.stride] * 2,
            pads=[size // 2] * 4,
            group=len(weights) if is_depthwise else 1,
        )

    def _dense(self, layer: Layer, x: str, arrays: dict[str, np.ndarray]) -> str:
        """A 1x1 convolution of a map of one pixel; the classifier's result loses its pixel axes."""
        weights = arrays["kernel"].T[:, :, None, None]
        operands = self._weights_and_bias(layer, weights, arrays)
        if layer.name not in self._alone.outputs.values():
            return self._node("Conv", layer.name, x, *operands, kernel_shape=[1, 1])
        y = self._node("Conv", f"{layer.name}/map", x, *operands, kernel_shape=[1, 1])
        return self._node("Flatten", layer.name, y, axis=1)

    def _weights_and_bias(self, layer: Layer, weights: np.ndarray, arrays: dict[str, np.ndarray]) -> list[str]:
        named = {"kernel": weights} | ({"bias": arrays["bias"]} if "bias" in arrays else {})
        return [self._array(f"{layer.name}/{key}", values) for key, values in named.items()]

    def _sum(self, name: str, inputs: list[str]) -> str:
        # Runtimes fuse sums of two with the convolution before them.
        total = inputs[0]
        for place, x in enumerate(inputs[1:], 2):
            total = self._node("Add", name if place == len(inputs) else f"{name}/{place}", total, x)
        return total
