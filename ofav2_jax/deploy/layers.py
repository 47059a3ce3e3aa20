"""A network as a plain list of layers, which runs, is counted and is exported without the supernet."""

import dataclasses
from collections.abc import Mapping, Sequence
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


def count_layers(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray], resolution: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates, counted as `count` does.

    Args:
        layers: the network.
        arrays: its arrays.
        resolution: height and width of the images, pixels.
    """
    params = sum(array.size for name, array in arrays.items() if not name.endswith(("/mean", "/var")))
    sizes, macs = {INPUT: resolution}, 0
    for layer in layers:
        size = -(-sizes[layer.inputs[0]] // layer.stride)
        sizes[layer.name] = 1 if layer.op == "mean" else size
        if layer.op in ("conv", "depthwise", "dense"):
            macs += arrays[f"{layer.name}/kernel"].size * size * size
    return params, macs
