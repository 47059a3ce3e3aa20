"""Takes a subnet out of a supernet: its own arrays alone, and the list of its layers.

What is sliced, in what order layers follow and which skips there are is what `model.blocks` and `model.stage` define;
`tests/test_extract.py` compares the two.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ofav2_jax.deploy.layers import INPUT, Layer
from ofav2_jax.model.design import Design
from ofav2_jax.model.network import LEVELS_PER_STAGE, STAGES, Block, middle_width, squeeze_width
from ofav2_jax.model.stage import FIRST_LEVEL, STACKED_LEVELS
from ofav2_jax.model.supernet import SuperNet, Variables


class Extraction:
    """The layers and arrays of a design.

    Args:
        net: the supernet.
        variables: {"params", "batch_stats"} of the supernet; the statistics are those of this design's subnet.
        design: what to take out.

    Attributes:
        layers: in the order in which they run.
        arrays: by "LAYER/ARRAY".
        outputs: for each exit of the design the name of the layer that gives its logits.

    Raises:
        ValueError: for a design that the network does not hold, and variables without statistics of one subnet.
    """

    def __init__(self, net: SuperNet, variables: Variables, design: Design):
        design.require_fit(net)
        for name in ("params", "batch_stats"):
            if name not in variables:
                raise ValueError(
                    f"variables has no {name}: it must have params and batch_stats, as recalibrate returns"
                )
        self._net, self._design, self._variables = net, design, variables
        self.layers: list[Layer] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.outputs: dict[int, str] = {}
        self._build()

    # --- arrays ------------------------------------------------------------------------------------------------------

    def _of(self, path: str, collection: str = "params") -> Mapping[str, np.ndarray]:
        """The arrays of a module; "stage_2/level_3/..." reads a slice of the stacked levels."""
        keys, index = path.split("/"), None
        if len(keys) > 1 and keys[1].startswith("level_"):
            number = int(keys[1].removeprefix("level_"))
            keys[1], index = (FIRST_LEVEL, None) if number == 1 else (STACKED_LEVELS, number - 2)
        branch: Any = self._variables[collection]
        for key in keys:
            branch = branch[key]
        arrays = {name: np.asarray(value) for name, value in branch.items() if not isinstance(value, Mapping)}
        return {name: value if index is None else value[index] for name, value in arrays.items()}

    def _add(self, op: str, name: str, *inputs: str, stride: int = 1, **arrays: Any) -> str:
        self.layers.append(Layer(name, op, inputs, stride))
        for key, array in arrays.items():
            # As JAX computes: float64 only where it is enabled.
            dtype = jax.dtypes.canonicalize_dtype(np.promote_types(array.dtype, np.float32))
            self.arrays[f"{name}/{key}"] = np.ascontiguousarray(array, dtype)
        return name

    def _conv(
        self, name: str, x: str, inputs: int, outputs: int | None = None, op: str = "conv", stride: int = 1
    ) -> str:
        """A 1x1 convolution or a dense layer, with the leading channels of its arrays."""
        arrays = self._of(name)
        kept = {"kernel": arrays["kernel"][:inputs, :outputs]}
        if op == "conv":
            kept["kernel"] = kept["kernel"][None, None]
        if "bias" in arrays:
            kept["bias"] = arrays["bias"][:outputs]
        return self._add(op, name, x, stride=stride, **kept)

    def _norm(self, name: str, x: str, activation: str, width: int | None = None) -> str:
        statistics = self._of(name, "batch_stats")
        for key, value in statistics.items():
            if value.ndim != 1:
                raise ValueError(
                    f"batch_stats has {value.shape} as {name}/{key}, which is not allowed: it must be the statistics "
                    "of one subnet, as recalibrate returns them"
                )
        arrays: dict[str, Any] = {key: v[:width] for key, v in {**self._of(name), **statistics}.items()}
        x = self._add("batch_norm", name, x, **arrays)
        return x if activation == "identity" else self._add(activation, f"{name}/{activation}", x)

    def _kernel(self, name: str, size: int, width: int) -> np.ndarray:
        """The elastic kernel [size, size, width]: see `model.layers.DepthwiseConv`."""
        arrays = self._of(name)
        kernel = arrays["kernel"][..., :width]
        for smaller, matrix in ((5, "matrix_7to5"), (3, "matrix_5to3")):
            if size <= smaller:
                flat = kernel[1:-1, 1:-1].reshape(smaller * smaller, width)
                kernel = (arrays[matrix] @ flat).reshape(smaller, smaller, width)
        return kernel

    # --- the network -------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        x = self._stem()
        for stage in range(self._design.subnet.height):
            x = self._stage(stage, x)
            if stage + 1 in (self._design.exits or ()):
                self.outputs[stage + 1] = self._exit(stage, x)

    def _stem(self) -> str:
        channels = self._net.channels.stem
        x = self._add("conv", "stem_conv", INPUT, stride=2, kernel=self._of("stem_conv")["kernel"])
        x = self._norm("stem_bn", x, "h_swish")
        y = self._add("depthwise", "stem_block/depthwise", x, kernel=self._of("stem_block/depthwise")["kernel"])
        y = self._norm("stem_block/depthwise_bn", y, "relu")
        y = self._norm("stem_block/project_bn", self._conv("stem_block/project", y, channels), "identity")
        return self._add("add", "stem_block", x, y)

    def _stage(self, stage: int, x: str) -> str:
        """See `model.stage` for the dense skips."""
        depth, name = self._design.subnet.depth[stage], f"stage_{stage + 1}"
        outputs: list[str] = []
        for level in range(depth):
            if level == LEVELS_PER_STAGE - 1 and self._net.spec.dense_skips:
                x = self._add("add", f"{name}/skip_4", x, outputs[0])
            x = self._level(stage, level, x)
            outputs.append(x)
        skipped = {2: [], 3: outputs[:1], 4: outputs[:2]}[depth] if self._net.spec.dense_skips else []
        return self._add("add", f"{name}/skip", x, *skipped) if skipped else x

    def _level(self, stage: int, level: int, x: str) -> str:
        choice, name = self._design.subnet.at(stage, level), f"stage_{stage + 1}/level_{level + 1}"
        inputs, outputs = self._net.channels.level_input(stage, level), self._net.channels.stages[stage]
        stride, activation = 1 if level else STAGES[stage].stride, STAGES[stage].activation
        parallel, sums = self._net.spec.parallel, []
        if not parallel or choice.level & Block.BOTTLENECK:
            sums.append(self._bottleneck(stage, level, x))
        if parallel and choice.level & Block.POINTWISE:
            y = self._conv(f"{name}/pointwise/conv", x, inputs, stride=stride)
            sums.append(self._norm(f"{name}/pointwise/bn", y, activation))
        if parallel and choice.level & Block.LIGHT:
            y = self._add("max_pool", f"{name}/light/max_pool", x, stride=stride) if stride > 1 else x
            y = self._conv(f"{name}/light/conv", y, inputs) if inputs != outputs else y
            sums.append(self._norm(f"{name}/light/bn", y, activation))
        return self._add("add", name, *sums) if len(sums) > 1 else sums[0]

    def _bottleneck(self, stage: int, level: int, x: str) -> str:
        choice, spec = self._design.subnet.at(stage, level), STAGES[stage]
        name, inputs = (
            f"stage_{stage + 1}/level_{level + 1}/inverted_bottleneck",
            self._net.channels.level_input(stage, level),
        )
        width = middle_width(inputs, choice.expand)
        y = self._conv(f"{name}/expand", x, inputs, width)
        y = self._norm(f"{name}/expand_bn", y, spec.activation, width)
        kernel = self._kernel(f"{name}/depthwise", choice.kernel, width)
        y = self._add("depthwise", f"{name}/depthwise", y, stride=1 if level else spec.stride, kernel=kernel)
        y = self._norm(f"{name}/depthwise_bn", y, spec.activation, width)
        if spec.squeeze_excite:
            hidden = squeeze_width(width)
            pooled = self._add("mean", f"{name}/se/mean", y)
            units = self._conv(f"{name}/se/reduce", pooled, width, hidden, op="dense")
            units = self._add("relu", f"{name}/se/relu", units)
            gates = self._conv(f"{name}/se/expand", units, hidden, width, op="dense")
            gates = self._add("h_sigmoid", f"{name}/se/h_sigmoid", gates)
            y = self._add("mul", f"{name}/se", y, gates)
        y = self._norm(f"{name}/project_bn", self._conv(f"{name}/project", y, width), "identity")
        return self._add("add", name, x, y) if level else y

    def _exit(self, stage: int, x: str) -> str:
        name, channels = f"exit_{stage + 1}", self._net.channels.stages[stage]
        expanded, mixed = self._net.channels.exits[stage]
        y = self._norm(f"{name}/expand_bn", self._conv(f"{name}/expand", x, channels), "h_swish")
        y = self._add("mean", f"{name}/mean", y)
        y = self._conv(f"{name}/mix", y, expanded, op="dense")
        y = self._add("h_swish", f"{name}/h_swish", y)
        return self._conv(f"{name}/classifier", y, mixed, op="dense")
