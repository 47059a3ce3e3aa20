"""A network as a plain list of layers, which runs, is counted and is exported without the supernet."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import shown

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


def require_consistent(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray]) -> None:
    """Requires that layers read what comes before them, and that their arrays are all there are.

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
        known.add(layer.name)
        needed |= {f"{layer.name}/{array}" for array in OPERATIONS[layer.op]}
        optional |= {f"{layer.name}/{array}" for array in _OPTIONAL.get(layer.op, ())}
    missing, unexpected = sorted(needed - set(arrays)), sorted(set(arrays) - needed - optional)
    if missing or unexpected:
        raise ValueError(f"array {(missing or unexpected)[0]!r} is {'missing' if missing else 'not of any layer'}")


def by_layer(layers: Sequence[Layer], arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arrays of each layer by their kind, "kernel" for instance."""
    grouped: dict[str, dict[str, Any]] = {layer.name: {} for layer in layers}
    for name, array in arrays.items():
        of_layer, _, kind = name.rpartition("/")
        grouped[of_layer][kind] = array
    return grouped


def shapes(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], resolution: int) -> dict[str, tuple[int, int]]:
    """The channels of each layer's output, and its height and width in pixels.

    Args:
        layers: a network.
        arrays: its arrays; others may be among them.
        resolution: height and width of the images, pixels.
    """
    found = {INPUT: (3, resolution)}
    for layer in layers:
        channels, size = found[layer.inputs[0]]
        kernel = arrays.get(f"{layer.name}/kernel")
        size = 1 if layer.op == "mean" else -(-size // layer.stride)
        found[layer.name] = channels if kernel is None else kernel.shape[-1], size
    return found


def count_macs(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], resolution: int) -> int:
    """Multiply-accumulates, counted as `count` does; see `shapes`."""
    of_layers = shapes(layers, arrays, resolution)
    return sum(
        arrays[f"{layer.name}/kernel"].size * of_layers[layer.name][1] ** 2
        for layer in layers
        if layer.op in ("conv", "depthwise", "dense")
    )


def needed(layers: Sequence[Layer], outputs: Iterable[str]) -> list[Layer]:
    """The layers without which some outputs cannot be computed."""
    names, found = set(outputs), []
    for layer in reversed(layers):
        if layer.name in names:
            names.update(layer.inputs)
            found.append(layer)
    return found[::-1]
