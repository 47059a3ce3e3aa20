"""The blocks of subnets: their names, how many of each a design has, and how a network splits into them."""

import dataclasses

import numpy as np

from ofav2_jax.deploy.layers import Layer
from ofav2_jax.deploy.standalone import Standalone
from ofav2_jax.model.design import Design
from ofav2_jax.model.network import CHOICES, LEVELS_PER_STAGE, NUM_LEVELS, NUM_STAGES, Block
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.nas.genes import Designs

# The first level of a stage has other channels and another stride than the following ones, which are alike.
POSITIONS = ("first", "other")
_SUMS = (2, 3)
_STAGE, _LEVEL = np.divmod(np.arange(NUM_LEVELS), LEVELS_PER_STAGE)
_STAGES = np.arange(1, NUM_STAGES + 1)
_PARALLEL = {"pointwise": Block.POINTWISE, "light": Block.LIGHT}


def block_names(net: SuperNet) -> list[str]:
    """The names of all blocks of a network's subnets, without the resolution.

    "stem"; "2/first/k5e4" and "2/other/k5e4", the inverted bottlenecks of stage 2's first level and of its other ones;
    "2/first/pointwise" and so on in parallel networks; "2/add3", a sum of three maps; "2/exit", the exit after stage 2;
    "ensemble/2", the mean of two exits' logits.
    """
    names, spec = ["stem"], net.spec
    for stage in _STAGES:
        for position in POSITIONS:
            names += [f"{stage}/{position}/{bottleneck}" for bottleneck in _bottlenecks()]
            names += [f"{stage}/{position}/{kind}" for kind in _PARALLEL if spec.parallel]
        names += [f"{stage}/add{number}" for number in _SUMS if spec.parallel or spec.dense_skips]
        names += [f"{stage}/exit"] if stage - 1 in net.exit_stages else []
    return names + [f"ensemble/{number}" for number in range(2, len(net.exit_stages) + 1)]


def _bottlenecks() -> dict[str, tuple[int, int]]:
    """Kernel size and expand ratio by name."""
    return {f"k{k}e{e}": (k, e) for k in CHOICES["kernel"].values for e in CHOICES["expand"].values}


def block_counts(net: SuperNet, designs: Designs) -> np.ndarray:
    """How many of each block designs have, int64 [N, blocks], in the order of `block_names`."""
    kernel, expand, depth, code = (
        np.asarray(getattr(designs.choices, name)) for name in ("kernel", "expand", "depth", "level")
    )
    reached = np.asarray(designs.choices.height)[:, None] >= _STAGES
    active = reached[:, _STAGE] & (depth[:, _STAGE] > _LEVEL)
    counts: dict[str, np.ndarray] = {"stem": np.ones(len(designs), np.int64)}
    # The number of summands of each active level.
    summands = np.bitwise_count(code) * active if net.spec.parallel else np.zeros_like(code)
    for stage in _STAGES:
        for position in POSITIONS:
            at = (_STAGE == stage - 1) & ((_LEVEL == 0) == (position == "first"))
            levels, codes = active[:, at], code[:, at]
            for name, (k, e) in _bottlenecks().items():
                chosen = (codes & Block.BOTTLENECK > 0) & (kernel[:, at] == k) & (expand[:, at] == e)
                counts[f"{stage}/{position}/{name}"] = (levels & chosen).sum(1)
            for name, block in _PARALLEL.items():
                counts[f"{stage}/{position}/{name}"] = (levels & (codes & block > 0)).sum(1)
        of_stage = summands[:, _STAGE == stage - 1]
        add2, add3 = ((of_stage == number).sum(1) for number in _SUMS)
        if net.spec.dense_skips:
            # Depth 3 ends with a sum of two maps, depth 4 with one of three, after one of two before its last level.
            add2 = add2 + (reached[:, stage - 1] & (depth[:, stage - 1] >= 3))
            add3 = add3 + (reached[:, stage - 1] & (depth[:, stage - 1] == 4))
        counts |= {f"{stage}/add2": add2, f"{stage}/add3": add3, f"{stage}/exit": designs.exits[:, stage - 1]}
    exits = designs.exits.sum(1)
    counts |= {f"ensemble/{number}": exits == number for number in range(2, NUM_STAGES + 1)}
    return np.column_stack([counts[name] for name in block_names(net)]).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a network.

    Attributes:
        name: that of the block, see `block_names`.
        layers: its layers, in the order in which they run; none of the mean of several exits, which is no layer.
        inputs: the layers whose results it reads, or `INPUT`.
    """

    name: str
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]

    def then(self, other: "Part", name: str) -> "Part":
        """Both as one; the other one reads only this one."""
        return Part(name, self.layers + other.layers, self.inputs)


def split(alone: Standalone) -> dict[str, Part]:
    """The parts of a network by their place, "stage_2/level_3/inverted_bottleneck" for instance.

    Each layer is in one of them; the name of a part is that of its block.
    """
    of_places: dict[str, list[Layer]] = {}
    for layer in alone.layers:
        of_places.setdefault(_place(layer.name), []).append(layer)
    parts = {}
    for place, layers in of_places.items():
        own = {layer.name for layer in layers}
        read = dict.fromkeys(name for layer in layers for name in layer.inputs if name not in own)
        parts[place] = Part(_name(place, layers, alone.design), tuple(layers), tuple(read))
    return parts


def _place(layer: str) -> str:
    first, *others = layer.split("/")
    if first.startswith("stem_"):
        return "stem"
    return first if first.startswith("exit_") else "/".join([first, *others[:2]])


def _name(place: str, layers: list[Layer], design: Design) -> str:
    """The name of the block at a place of a network."""
    if place == "stem":
        return place
    if place.startswith("exit_"):
        return f"{place.removeprefix('exit_')}/exit"
    stage, where, *kind = place.removeprefix("stage_").split("/")
    if not kind:
        return f"{stage}/add{len(layers[0].inputs)}"
    level = int(where.removeprefix("level_")) - 1
    choice = design.subnet.at(int(stage) - 1, level)
    bottleneck = f"k{choice.kernel}e{choice.expand}"
    return f"{stage}/{POSITIONS[level > 0]}/{bottleneck if kind[0] == 'inverted_bottleneck' else kind[0]}"
