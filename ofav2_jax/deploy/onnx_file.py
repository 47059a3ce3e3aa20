"""ONNX files of networks that were taken out, written from their lists of layers (extra `export`)."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import local_file, require_among, require_package
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
    file = local_file("path", path, ".onnx")
    graph, shape = Graph(require_package("onnx", "export"), alone), [alone.num_classes]
    graph.read_images(input)
    graph.add(alone.layers)
    exits = {f"exit_{exit}": [layer] for exit, layer in alone.outputs.items()} if len(alone.outputs) > 1 else {}
    for name, layers in {"logits": list(alone.outputs.values()), **exits}.items():
        graph.give(name, layers, shape)
    files.write_bytes(file, graph.model({"ofav2_jax": shared_header(alone, input)}))


def shared_header(alone: Standalone, input: str) -> dict[str, Any]:
    """What an exported network says of itself, as JSON."""
    header = {key: value for key, value in alone.header().items() if key not in ("layers", "outputs")}
    return {**header, "input": input}


class Graph:
    """A network or a part of one, which is [N, C, H, W] inside, as ONNX has it.

    Args:
        onnx: the package.
        alone: the network.
    """

    def __init__(self, onnx: Any, alone: Standalone):
        self._onnx, self._alone = onnx, alone
        self._of_layers = by_layer(alone.layers, alone.arrays)
        self._nodes: list[Any] = []
        self._arrays: list[Any] = []
        self._declared: dict[str, list[Any]] = {"inputs": [], "outputs": []}
        self._results: dict[str, str] = {}

    def read_images(self, input: str) -> None:
        """Makes images the input; see `to_onnx`."""
        types, size, normalisation = self._onnx.TensorProto, self._alone.design.resolution, self._alone.normalisation
        x = self._declare("inputs", "images", [size, size, 3], types.UINT8 if input == "uint8" else types.FLOAT)
        if input == "uint8":
            # As `Normalisation` computes it.
            x = self._node("Cast", "images/cast", x, to=types.FLOAT)
            x = self._node("Div", "images/scaled", x, self._array("images/range", np.float32(255)))
            x = self._node("Sub", "images/centred", x, self._array("images/mean", normalisation.mean))
            x = self._node("Div", "images/normalised", x, self._array("images/std", normalisation.std))
        self._results[INPUT] = self._node("Transpose", "images/channels_first", x, perm=[0, 3, 1, 2])

    def read_features(self, name: str, layer: str, shape: Sequence[int]) -> None:
        """Makes the result of a layer, [C, H, W] for each image, the input."""
        self._results[layer] = self._declare("inputs", name, shape)

    def add(self, layers: Sequence[Layer]) -> None:
        """Adds layers, whose inputs are there."""
        for layer in layers:
            self._results[layer.name] = self._layer(layer, [self._results[name] for name in layer.inputs])

    def give(self, name: str, layers: Sequence[str], shape: Sequence[int]) -> None:
        """Makes the result of a layer, or the mean of several, an output; `shape` is without the images."""
        results = [self._results[layer] for layer in layers]
        self._declare("outputs", self._node("Mean" if len(results) > 1 else "Identity", name, *results), shape)

    def model(self, metadata: Mapping[str, Any]) -> bytes:
        """The whole model, after onnx has checked it.

        Args:
            metadata: what it says of itself, by name; as JSON.
        """
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "ofav2", self._declared["inputs"], self._declared["outputs"], self._arrays
        )
        model = helper.make_model(
            graph,
            producer_name="ofav2_jax",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
        self._onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def _declare(self, kind: str, name: str, shape: Sequence[int], dtype: Any = None) -> str:
        dtype = self._onnx.TensorProto.FLOAT if dtype is None else dtype
        self._declared[kind].append(self._onnx.helper.make_tensor_value_info(name, dtype, ["N", *shape]))
        return name

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
