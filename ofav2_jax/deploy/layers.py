"""A network as a plain list of layers, which runs, is counted and is exported without the supernet."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import shown
from ofav2_jax.ops.batch_norm import EPSILON

# The arrays of each kind of layer. Kernels are [k, k, in, out] ("conv"), [k, k, channels] ("depthwise") and [in, out]
# ("dense"); the others [channels].
OPERATIONS: dict[str, tuple[str, ...]] = {
    "conv": ("kernel",),
    "depthwise": ("kernel",),
    "dense": ("kernel",),
    "batch_norm": ("scale", "bias", "mean", "var"),
    "relu": (),
    "h_swish": (),
    "h_sigmoid": (),
    "mean": (),
    "max_pool": (),
    "add": (),
    "mul": (),
}
# Convolutions and dense layers may have a bias, or none.
_OPTIONAL = {"conv": ("bias",), "dense": ("bias",)}
# Layers that do not read one other; "add" reads any number.
_NUM_INPUTS = {"mul": 2}
INPUT = "images"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: names its output and its arrays, "NAME/kernel" for instance.
        op: a key of `OPERATIONS`.
        inputs: the names of the layers, or `INPUT`, that it reads.
        stride: of convolutions, which are padded by half of their kernel; of "max_pool" also its window, in ceil mode.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    stride: int = 1

    def as_json(self) -> list[Any]:
        """The record of `from_json`."""
        return [self.name, self.op, list(self.inputs), self.stride]

    @classmethod
    def from_json(cls, record: Any) -> "Layer":
        """Reads a record [name, op, inputs, stride].

        Raises:
            ValueError: if it is not one.
        """
        try:
            name, op, inputs, stride = record
            layer = cls(str(name), op, tuple(map(str, inputs)), int(stride))
        except (TypeError, ValueError):
            raise ValueError(f"{shown(record)} is not a layer: it must be [name, op, inputs, stride]") from None
        if op not in OPERATIONS or stride not in (1, 2):
            raise ValueError(
                f"{shown(record)} is not a layer: op must be one of {', '.join(OPERATIONS)}, stride 1 or 2"
            )
        return layer


def require_consistent(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], resolution: int) -> None:
    """Requires that layers read what comes before them, and that their arrays are all there are and fit.

    Args:
        layers: the network.
        arrays: its arrays.
        resolution: height and width of the images, pixels.

    Raises:
        ValueError: naming the layer or the array.
    """
    known, needed, optional = {INPUT}, set(), set()
    for layer in layers:
        for name in layer.inputs:
            if name not in known:
                raise ValueError(f"layer {layer.name!r} reads {name!r}, which does not come before it")
        if layer.name in known:
            raise ValueError(f"layer {layer.name!r} is there twice")
        if not layer.inputs or (layer.op != "add" and len(layer.inputs) != _NUM_INPUTS.get(layer.op, 1)):
            raise ValueError(f"layer {layer.name!r} reads {len(layer.inputs)} others, which {layer.op!r} cannot")
        known.add(layer.name)
        needed |= {f"{layer.name}/{array}" for array in OPERATIONS[layer.op]}
        optional |= {f"{layer.name}/{array}" for array in _OPTIONAL.get(layer.op, ())}
    missing, unexpected = sorted(needed - set(arrays)), sorted(set(arrays) - needed - optional)
    if missing or unexpected:
        raise ValueError(f"array {(missing or unexpected)[0]!r} is {'missing' if missing else 'not of any layer'}")
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"array {name!r} is {array.dtype}, which is not allowed: it must be float")
    shapes(layers, arrays, resolution)


def by_layer(layers: Sequence[Layer], arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arrays of each of these layers by their kind, "kernel" for instance."""
    grouped: dict[str, dict[str, Any]] = {layer.name: {} for layer in layers}
    for name, array in arrays.items():
        of_layer, _, kind = name.rpartition("/")
        if of_layer in grouped:
            grouped[of_layer][kind] = array
    return grouped


def shapes(layers: Sequence[Layer], arrays: Mapping[str, Any], resolution: int) -> dict[str, tuple[int, int]]:
    """Channels, and height (and width) in pixels, of each layer's output, and of `INPUT`.

    Args:
        layers: the network.
        arrays: its arrays; others may be among them.
        resolution: height and width of the images, pixels.

    Raises:
        ValueError: if arrays or inputs of a layer do not fit together.
    """
    found, own = {INPUT: (3, resolution)}, by_layer(layers, arrays)
    for layer in layers:
        inputs = [found[name] for name in layer.inputs]
        (channels, size), expected = inputs[0], {}
        width = channels
        if "kernel" in OPERATIONS[layer.op]:
            *window, width = own[layer.name]["kernel"].shape or (0,)
            # The first number stands for a window's both sides; one without a centre is not allowed.
            k = window[0] - 1 + window[0] % 2 if window else 1
            expected["kernel"] = {
                "conv": (k, k, channels, width),
                "depthwise": (k, k, channels),
                "dense": (channels, width),
            }[layer.op]
        for kind, array in own[layer.name].items():
            if array.shape != expected.get(kind, (width,)):
                raise ValueError(
                    f"array {layer.name + '/' + kind!r} has shape {array.shape}, which is not allowed: "
                    f"it must be {expected.get(kind, (width,))}"
                )
        gates = [(channels, 1)] if layer.op == "mul" else []
        if any(shape not in [inputs[0], *gates] for shape in inputs):
            raise ValueError(f"layer {layer.name!r} reads maps of (channels, pixels) {inputs}, which do not fit")
        found[layer.name] = width, 1 if layer.op == "mean" else -(-size // layer.stride)
    return found


def count_macs(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], resolution: int) -> int:
    """Multiply-accumulates, counted as `count` does; see `shapes`."""
    of_layers = shapes(layers, arrays, resolution)
    return sum(
        arrays[f"{layer.name}/kernel"].size * of_layers[layer.name][1] ** 2
        for layer in layers
        if "kernel" in OPERATIONS[layer.op]
    )


def needed(layers: Sequence[Layer], outputs: Iterable[str]) -> list[Layer]:
    """The layers without which some outputs cannot be computed."""
    names, found = set(outputs), []
    for layer in reversed(layers):
        if layer.name in names:
            names.update(layer.inputs)
            found.append(layer)
    return found[::-1]


def fold_batch_norm(
    layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> tuple[list[Layer], dict[str, np.ndarray]]:
    """The same network with batch norm as a part of the convolution before it: its kernel's scale and its bias.

    A batch norm that follows no convolution stays, and so does one whose convolution something else reads.

    Args:
        layers: the network.
        arrays: its arrays.
        outputs: the names of the layers whose results are asked for.

    Returns:
        The layers, where a convolution has the name of the batch norm that it comprises, and the arrays, of the same
        dtype, with "bias" for depthwise convolutions too.
    """
    readers = collections.Counter([name for layer in layers for name in layer.inputs] + list(outputs))
    own, before = by_layer(layers, arrays), {layer.name: layer for layer in layers}
    folded: dict[str, Layer] = {}
    for layer in layers:
        source = before.get(layer.inputs[0])
        if layer.op == "batch_norm" and source and source.op in ("conv", "depthwise") and readers[source.name] == 1:
            own[layer.name] = _with_batch_norm(own.pop(source.name), own[layer.name])
            del folded[source.name]
            layer = dataclasses.replace(source, name=layer.name)
        folded[layer.name] = layer
    return list(folded.values()), {f"{name}/{kind}": array for name in folded for kind, array in own[name].items()}


def _with_batch_norm(conv: Mapping[str, np.ndarray], norm: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    dtype = conv["kernel"].dtype
    scale, bias, mean, var = (np.asarray(norm[kind], np.float64) for kind in OPERATIONS["batch_norm"])
    # What is not finite in a damaged file is found by its self-check, without warnings.
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + EPSILON)
        return {
            "kernel": (conv["kernel"] * factor).astype(dtype),
            "bias": ((conv.get("bias", 0) - mean) * factor + bias).astype(dtype),
        }
