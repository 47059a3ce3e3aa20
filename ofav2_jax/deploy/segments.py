"""Segments: a network of several exits cut behind each of them, so that later ones need not run."""

import dataclasses
import os
from typing import Any

from ofav2_jax import files
from ofav2_jax.checks import local_path, require_among, require_package
from ofav2_jax.deploy.layers import INPUT, Layer, count_macs, needed, shapes
from ofav2_jax.deploy.onnx_file import INPUTS, Graph, shared_header
from ofav2_jax.deploy.standalone import Standalone

# Where a segment's file says what it is; not under the name that networks have: a segment alone classifies nothing.
METADATA = "ofav2_jax_segment"


@dataclasses.dataclass(frozen=True)
class Segment:
    """What runs between two exits, the second exit included.

    Attributes:
        exit: the exit, a stage of 1..5.
        layers: its layers.
        source: the layer whose result it reads, or `INPUT`.
        features: the layer whose result the next segment reads; None: there is no next one.
        output: the layer that gives the exit's logits.
        macs: multiply-accumulates for an image that leaves here, what ran before included.
        single_macs: those of a network with this exit alone.
    """

    exit: int
    layers: tuple[Layer, ...]
    source: str
    features: str | None
    output: str
    macs: int
    single_macs: int


def cut(alone: Standalone) -> list[Segment]:
    """Cuts a network behind each of its exits.

    Raises:
        ValueError: if it has one exit only, or is not a chain of segments.
    """
    if len(alone.outputs) < 2:
        raise ValueError(
            f"network={str(alone.design)!r} is not allowed: it has one exit, and a cascade needs several; "
            f"extract {alone.design}+1, for instance"
        )
    found: list[Segment] = []
    source, before = INPUT, set[str]()
    outputs = list(alone.outputs.values())
    for place, (exit, output) in enumerate(alone.outputs.items()):
        prefix = needed(alone.layers, outputs[: place + 1])
        own = tuple(layer for layer in prefix if layer.name not in before)
        before |= {layer.name for layer in own}
        read_later = {name for layer in alone.layers if layer.name not in before for name in layer.inputs} & before
        if len(read_later) != (place + 1 < len(outputs)) or {*_reads(own)} != {source}:
            raise ValueError(f"network={str(alone.design)!r} cannot be cut behind exit {exit}: it is not a chain there")
        features = next(iter(read_later), None)
        macs, single = (
            count_macs(layers, alone.arrays, alone.design.resolution)
            for layers in (prefix, needed(alone.layers, [output]))
        )
        found.append(Segment(exit, own, source, features, output, macs, single))
        source = features or source
    return found


def _reads(layers: tuple[Layer, ...]) -> list[str]:
    """What layers read that is not theirs."""
    own = {layer.name for layer in layers}
    return [name for layer in layers for name in layer.inputs if name not in own]


def segment_file(place: int) -> str:
    """The name of a segment's file; `place` counts from 0."""
    return f"segment_{place + 1}.onnx"


def to_onnx_segments(alone: Standalone, directory: str | os.PathLike, input: str = "uint8") -> list[str]:
    """Writes `segment_1.onnx` and so on, for any number of images.

    The first one reads `images`, as the file of `to_onnx` does, each other one `features`, float [N, C, H, W]. Each
    gives `logits`, those of its exit, and all but the last `next_features`, which the next one reads.

    Args:
        alone: a network of several exits.
        directory: a directory.
        input: "uint8", with the normalisation inside of the first segment, or "float".

    Returns:
        The names of the files.

    Raises:
        ValueError: for another input, and a network that cannot be cut.
        ImportError: without the extra `export`.
        OSError: if a file cannot be written.
    """
    require_among("input", input, INPUTS)
    path, onnx, parts = local_path("directory", directory), require_package("onnx", "export"), cut(alone)
    sizes = shapes(alone.layers, alone.arrays, alone.design.resolution)
    names = []
    for place, part in enumerate(parts):
        names.append(segment_file(place))
        about = {"number": place + 1, "of": len(parts), "exit": part.exit, **shared_header(alone, input)}
        model = _graph(onnx, alone, part, sizes, input).model({METADATA: about})
        files.write_bytes(path / names[-1], model)
    return names


def _graph(onnx: Any, alone: Standalone, part: Segment, sizes: dict[str, tuple[int, int]], input: str) -> Graph:
    def shape(layer: str) -> list[int]:
        channels, size = sizes[layer]
        return [channels, size, size]

    graph = Graph(onnx, alone)
    if part.source == INPUT:
        graph.read_images(input)
    else:
        graph.read_features("features", part.source, shape(part.source))
    graph.add(part.layers)
    graph.give("logits", [part.output], [alone.num_classes])
    if part.features is not None:
        graph.give("next_features", [part.features], shape(part.features))
    return graph
