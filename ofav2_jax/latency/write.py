"""Writes what is measured: an ONNX file for each block, and whole networks that the sum of blocks is fitted to."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ofav2_jax import files
from ofav2_jax.checks import local_path, refuse, require_package, require_positive
from ofav2_jax.deploy.extract import Extraction
from ofav2_jax.deploy.layers import INPUT, shapes
from ofav2_jax.deploy.onnx_file import Graph, to_onnx
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.latency import measure
from ofav2_jax.latency.blocks import Part, block_names, split
from ofav2_jax.model.design import Design
from ofav2_jax.model.network import CHOICES, NUM_STAGES
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet, Variables, variable_shapes

PLAN_FORMAT, PLAN = "ofav2_jax.latency_plan/1", "plan.json"
# Half of them for the fit, the other half to test it.
NUM_WHOLE = 40
# At least 100 timed runs of each file; more of them while there is time.
BUDGET = {"min_rounds": 10, "max_rounds": 60, "seconds": 200}
# Blocks whose pairs show what it costs to enter and leave a block: small ones, so that this is a large part of them.
SMALLEST = "k3e3"
# Written beside the blocks: two blocks as one, by the stage that the first one belongs to, and a single operation.
JOINTS, OVERHEAD = tuple(f"joint/{stage}" for stage in range(NUM_STAGES + 1)), "overhead"


def prepare(
    net: SuperNet, resolutions: Sequence[int], directory: str | os.PathLike, threads: int = 1, batch_size: int = 1
) -> None:
    """Writes a folder with everything that is measured on a device, and the script that does it.

    Args:
        net: the supernet. Its weights have no influence on the time; those written are random.
        resolutions: height and width of the images, pixels.
        directory: the folder; it does not exist yet, or is empty.
        threads: threads that a network runs on.
        batch_size: images that it runs on.

    Raises:
        ValueError: naming the field, the value and what is allowed.
        ImportError: without the extra `export`.
        OSError: if it cannot be written.
    """
    plan = make_plan(net, resolutions, threads, batch_size)
    require_package("onnx", "export")
    path = local_path("directory", directory)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"directory={str(path)!r} is not allowed: it exists already")
    if not path.parent.is_dir():
        raise ValueError(f"directory={str(path)!r} is not allowed: {path.parent} is not a directory")
    partial = Path(tempfile.mkdtemp(prefix=f"{path.name}.partial-", dir=path.parent))
    try:
        write(net, plan, partial)
        partial.chmod(0o755)
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def make_plan(net: SuperNet, resolutions: Sequence[int], threads: int, batch_size: int) -> dict[str, Any]:
    """What is measured and how, as JSON; see `prepare` for arguments and errors."""
    if not isinstance(net, SuperNet):
        refuse("net", net, "a SuperNet")
    if isinstance(resolutions, str) or not resolutions or any(type(r) is not int or r < 1 for r in resolutions):
        refuse("resolutions", resolutions, "a list of positive ints")
    require_positive("threads", threads)
    require_positive("batch_size", batch_size)
    sizes = sorted(set(resolutions))
    designs = [str(design) for design in whole_designs(net, sizes)]
    names = [*block_names(net), *JOINTS, OVERHEAD]
    return {
        "format": PLAN_FORMAT,
        "network": net.network,
        "width_multiplier": net.width_multiplier,
        "num_classes": net.num_classes,
        "exit_widths": net.exit_widths,
        "resolutions": sizes,
        "dtype": "float32",
        "threads": threads,
        "batch_size": batch_size,
        "designs": designs,
        "files": [f"{size}/{name}" for size in sizes for name in names] + [whole(i) for i in range(len(designs))],
        "budget": BUDGET,
    }


def whole(place: int) -> str:
    """The name of a whole network."""
    return f"whole/{place:02d}"


def write(net: SuperNet, plan: Mapping[str, Any], directory: Path) -> None:
    """Writes the files of a plan, the plan itself, and the script."""
    variables = random_variables(net)
    for resolution in plan["resolutions"]:
        for alone, part in _parts(net, variables, resolution):
            files.write_bytes(directory / f"{resolution}/{part.name}.onnx", _model(alone, part))
    for place, design in enumerate(plan["designs"]):
        to_onnx(_take_out(net, variables, Design.parse(design)), directory / f"{whole(place)}.onnx")
    script = Path(measure.__file__)
    files.write_bytes(directory / script.name, script.read_bytes())
    files.write_json(directory / PLAN, plan)


def whole_designs(net: SuperNet, resolutions: Sequence[int]) -> list[Design]:
    """Random designs: heights and resolutions in turn, the same of each two that follow each other."""
    rng, space = np.random.default_rng(0), SearchSpace(net)
    found = []
    for place in range(NUM_WHOLE):
        height = space.height[place // 2 % len(space.height)]
        drawn = {
            name: rng.choice(getattr(space, name), c.count).tolist() for name, c in CHOICES.items() if not c.is_single
        }
        below = [stage + 1 for stage in net.exit_stages if stage + 1 < height and rng.random() < 0.5]
        subnet = Subnet(**{name: tuple(values) for name, values in drawn.items()}, height=height)
        found.append(Design(subnet, resolutions[place // 2 % len(resolutions)], (*below, height)))
    return found


def random_variables(net: SuperNet) -> Variables:
    """Variables with which maps keep their scale: numbers that underflow would take longer than a real network's."""
    rng = np.random.default_rng(0)

    def values(path, leaf):
        kind = path[-1].key
        if kind in ("matrix_7to5", "matrix_5to3"):
            return np.broadcast_to(np.eye(leaf.shape[-1], dtype=np.float32), leaf.shape)
        if kind == "kernel":
            inputs = 9 if path[-2].key == "depthwise" else leaf.shape[-2]
            return rng.standard_normal(leaf.shape, np.float32) * np.float32(1 / np.sqrt(inputs))
        return np.full(leaf.shape, kind in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(values, variable_shapes(net))


def _take_out(net: SuperNet, variables: Variables, design: Design) -> Standalone:
    taken = Extraction(net, variables, design)
    supernet = {"network": net.network, "width_multiplier": net.width_multiplier, "exit_widths": net.exit_widths}
    about = {"supernet": supernet}
    return Standalone(design, tuple(taken.layers), taken.arrays, taken.outputs, net.num_classes, about=about)


def _parts(net: SuperNet, variables: Variables, resolution: int) -> Iterator[tuple[Standalone, Part]]:
    """Every part that is measured, once, with a network that it is a part of."""
    exits, written = [stage + 1 for stage in net.exit_stages], set[str]()
    # With parallel blocks: all three, two of them, and the inverted bottleneck alone, which the joints are made of.
    codes = (7, 6, 4) if net.spec.parallel else (7,)
    for kernel, expand in itertools.product(CHOICES["kernel"].values, CHOICES["expand"].values):
        for code in codes if f"k{kernel}e{expand}" == SMALLEST else codes[:1]:
            alone = _take_out(net, variables, Design(Subnet.uniform(kernel, expand, 4, code), resolution, tuple(exits)))
            parts = split(alone)
            new = {part.name: part for part in parts.values() if part.name not in written}
            written |= set(new)
            yield from ((alone, part) for part in new.values())
    # The last network is that of the smallest blocks alone.
    bottleneck = "stage_{}/level_{}/inverted_bottleneck"
    yield alone, parts["stem"].then(parts[bottleneck.format(1, 1)], JOINTS[0])
    for stage, name in enumerate(JOINTS[1:], 1):
        yield alone, parts[bottleneck.format(stage, 2)].then(parts[bottleneck.format(stage, 3)], name)
    relu = next(layer for layer in alone.layers if layer.name.endswith("/se/relu"))
    yield alone, Part(OVERHEAD, (relu,), relu.inputs)
    outputs = tuple(alone.outputs.values())
    for number in range(2, len(exits) + 1):
        yield alone, Part(f"ensemble/{number}", (), outputs[:number])


def _model(alone: Standalone, part: Part) -> bytes:
    sizes = {
        name: [c, size, size] for name, (c, size) in shapes(alone.layers, alone.arrays, alone.design.resolution).items()
    }
    sizes |= {name: [alone.num_classes] for name in alone.outputs.values()}
    graph = Graph(require_package("onnx", "export"), alone)
    for place, name in enumerate(part.inputs):
        if name == INPUT:
            graph.read_images("uint8")
        else:
            graph.read_features(f"input_{place}", name, sizes[name])
    graph.add(part.layers)
    if part.layers:
        graph.give("output", [part.layers[-1].name], sizes[part.layers[-1].name])
    else:
        graph.give("logits", part.inputs, sizes[part.inputs[0]])
        for place, name in enumerate(part.inputs):
            graph.give(f"exit_{place}", [name], sizes[name])
    return graph.model({"ofav2_jax": {"block": part.name}})
