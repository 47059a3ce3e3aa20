"""State dicts of PyTorch networks, the authors' and Once-For-All's. PyTorch is not needed and not imported.

PyTorch has convolution kernels [out, in, height, width] and separate names for all levels of a stage; here kernels are
[height, width, in, out], and the levels 2 to 4 of a stage are stacked on a leading axis.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ofav2_jax.checks import local_file, refuse
from ofav2_jax.files import write_bytes
from ofav2_jax.model.network import LEVELS_PER_STAGE
from ofav2_jax.model.stage import STACKED_LEVELS
from ofav2_jax.model.state_dict import host_array, read_state_dict
from ofav2_jax.model.supernet import SuperNet, Variables, variable_shapes

# The largest number of names of each kind that an error message lists.
_MAX_LISTED = 5

_PARAMETERS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "matrix_7to5": "7to5_matrix",
    "matrix_5to3": "5to3_matrix",
}
_STEM = {
    "stem_conv": "first_conv.conv",
    "stem_bn": "first_conv.bn",
    "stem_block/depthwise": "first_layer.conv.depth_conv.conv",
    "stem_block/depthwise_bn": "first_layer.conv.depth_conv.bn",
    "stem_block/project": "first_layer.conv.point_linear.conv",
    "stem_block/project_bn": "first_layer.conv.point_linear.bn",
}
_INVERTED_BOTTLENECK = {
    "expand": "conv.inverted_bottleneck.conv.conv",
    "expand_bn": "conv.inverted_bottleneck.bn.bn",
    "depthwise": "conv.depth_conv.conv",
    "depthwise_bn": "conv.depth_conv.bn.bn",
    "se/reduce": "conv.depth_conv.se.fc.reduce",
    "se/expand": "conv.depth_conv.se.fc.expand",
    "project": "conv.point_linear.conv.conv",
    "project_bn": "conv.point_linear.bn.bn",
}
_BLOCKS = {
    "inverted_bottleneck": (0, _INVERTED_BOTTLENECK),
    "pointwise": (1, {"conv": "conv", "bn": "bn"}),
    "light": (2, {"conv": "conv1x1", "bn": "transformation.0"}),
}
_EXIT = {
    "expand": "final_expand_layer.conv",
    "expand_bn": "final_expand_layer.bn",
    "mix": "feature_mix_layer.conv",
    "classifier": "classifier.linear",
}


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One array of a state dict and where it belongs.

    Attributes:
        name, shape: the array's name and shape in the state dict.
        path: keys into the variables, the collection first.
        index: index of the stacked level, or None if the array is not part of a stack.
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    index: int | None


def load_torch(source: str | pathlib.Path | Mapping[str, Any], net: SuperNet) -> dict[str, Any]:
    """Reads the weights of a PyTorch supernet.

    Args:
        source: a `.safetensors` file, or a mapping from the reference's names to arrays (numpy arrays, PyTorch
            tensors or whatever `np.asarray` takes). For ofa_mbv3 the names may also be those of Once-For-All's
            `OFAMobileNetV3`, whose networks of width multiplier 1.2 have `exit_widths="ofa"`. The names may have a
            common prefix (`module.`), and the mapping may lie inside another one (`state_dict`, `model`), as training
            loops leave them; what lies beside it, and entries named `num_batches_tracked`, are ignored.
        net: the same network with the same width multiplier and classes.

    Returns:
        {"params", "batch_stats"} for `net`. Arrays keep their dtype, except that half precision becomes float32, and
        that JAX stores float64 as float32 unless `jax_enable_x64` is on.

    Raises:
        ValueError: if the file is not safetensors, or if entries are missing, unexpected, of another shape, no
            floating-point numbers or not finite.
    """
    if not isinstance(net, SuperNet):
        refuse("net", net, "a SuperNet")
    namings = [list(_entries(net, names)) for names in _namings(net)]
    where, found_state, naming = read_state_dict(source, [[entry.name for entry in each] for each in namings])
    entries = namings[naming]
    state = _arrays(where, found_state, entries, net)
    found: dict[tuple[str, ...], list[np.ndarray]] = {}
    for entry in entries:
        found.setdefault(entry.path, []).append(_from_torch(state[entry.name], entry.path))
    stacked = {entry.path for entry in entries if entry.index is not None}
    variables: dict[str, Any] = {}
    for path, arrays in found.items():
        branch = variables
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = jnp.asarray(np.stack(arrays) if path in stacked else arrays[0])
    return variables


def save_torch(
    variables: Variables, net: SuperNet, path: str | os.PathLike, names: Literal["ofav2", "ofa"] | None = None
) -> None:
    """Writes a state dict as a safetensors file, which `load_torch` reads.

    In PyTorch `load_state_dict(safetensors.torch.load_file(path), strict=False)` reads it; what it lacks there is how
    many batches a batch norm has seen.

    Args:
        variables: {"params", "batch_stats"} of `net`.
        net: the supernet that they belong to.
        path: the file, whose name ends in .safetensors.
        names: "ofav2" for the names of the authors' networks, "ofa" for those of Once-For-All's `OFAMobileNetV3`; None:
            those of the network whose exit widths `net` has.

    Raises:
        ValueError: for a file of another name, or names that the network does not have.
        OSError: if the file cannot be written.
    """
    file = local_file("path", path, ".safetensors")
    state = to_torch(variables, net, names or net.exit_widths)
    write_bytes(file, safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in state.items()}))


def to_torch(variables: Variables, net: SuperNet, names: str = "ofav2") -> dict[str, np.ndarray]:
    """Names and lays out variables, or gradients, as the PyTorch network does: the inverse of `load_torch`.

    Args:
        variables: {"params", "batch_stats"} of `net`, or one of the two.
        net: the supernet that they belong to.
        names: see `save_torch`.

    Returns:
        A state dict: numpy arrays by PyTorch's names.

    Raises:
        ValueError: for names that the network does not have.
    """
    if names not in _namings(net):
        refuse("names", names, f"one of {', '.join(_namings(net))} for {net.network}")
    state = {}
    for entry in _entries(net, names):
        if entry.path[0] in variables:
            value: Any = variables
            for key in entry.path:
                value = value[key]
            value = np.asarray(value if entry.index is None else value[entry.index])
            if entry.path[-1] == "kernel":
                value = np.moveaxis(_spatial(value, entry.path), (-1, -2), (0, 1))
            state[entry.name] = value.reshape(entry.shape)
    return state


def _arrays(where: str, state: Mapping[str, Any], entries: list[_Entry], net: SuperNet) -> dict[str, np.ndarray]:
    """The arrays of a state dict that fits."""
    shapes = {entry.name: entry.shape for entry in entries}
    arrays, not_numbers, not_finite = {}, [], []
    for name in shapes:
        if name in state:
            try:
                value = host_array(state[name])
                if value.dtype == np.float16:
                    # Batch norm's statistics would be computed with in it.
                    value = value.astype(np.float32)
                arrays[name] = value
                if not jnp.issubdtype(value.dtype, jnp.floating):
                    not_numbers.append(name)
                elif not np.isfinite(value).all():
                    not_finite.append(name)
            except (TypeError, ValueError):
                not_numbers.append(name)
    problems = {
        "missing": [name for name in shapes if name not in state],
        "unexpected": [name for name in state if name not in shapes],
        "of another shape": [
            f"{name} {value.shape} instead of {shapes[name]}"
            for name, value in arrays.items()
            if value.shape != shapes[name]
        ],
        "without floating-point numbers": not_numbers,
        "with NaN or infinite numbers": not_finite,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise ValueError(
            f"{where} does not fit network={net.network!r}, width_multiplier={net.width_multiplier}, "
            f"num_classes={net.num_classes}: {told}"
        )
    return arrays


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MAX_LISTED] + ["..."] * (len(names) > _MAX_LISTED))


def _namings(net: SuperNet) -> tuple[str, ...]:
    """Whose names the network's entries can have."""
    return ("ofav2", "ofa") if net.network == "ofa_mbv3" else ("ofav2",)


def _entries(net: SuperNet, names: str) -> Iterator[_Entry]:
    renamed = _of_once_for_all if names == "ofa" else str
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(variable_shapes(net)):
        path = tuple(key.key for key in key_path)
        stacked = STACKED_LEVELS in path
        for index in range(LEVELS_PER_STAGE - 1) if stacked else (None,):
            shape = leaf.shape[1:] if stacked else leaf.shape
            yield _Entry(renamed(_name(net, path[1:], index)), _torch_shape(path, shape), path, index)


def _of_once_for_all(name: str) -> str:
    """An entry of the authors' baseline network by the name that it has in Once-For-All's, where blocks are counted."""
    if match := re.match(r"body_stages\.(\d)\.layers\.(\d)", name):
        stage, level = int(match[1]), int(match[2])
        return f"blocks.{1 + stage * LEVELS_PER_STAGE + level}{name[match.end() :]}"
    for ours, theirs in (("head_stage.first_layer.", "blocks.0."), ("head_stage.", ""), ("exit_stage.", "")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(name)


def _name(net: SuperNet, path: tuple[str, ...], index: int | None) -> str:
    root, parameter = path[0], path[-1]
    number = int(root[-1]) - 1 if root[-1].isdigit() else None
    if root.startswith("stage_"):
        level = 0 if index is None else index + 1
        position, modules = _BLOCKS[path[2]]
        level_name = f"layers_blocks.{level}.{position}" if net.spec.parallel else f"layers.{level}"
        module = f"body_stages.{number}.{level_name}.{modules[_joined(path[3:-1])]}"
        # The elastic kernel lies one module deeper than the matrices that transform it.
        module += ".conv" if path[3:] == ("depthwise", "kernel") else ""
    elif root.startswith("exit_"):
        exit_name = f"exit_stages.{number}" if net.spec.early_exits else "exit_stage"
        module = f"{exit_name}.{_EXIT[path[1]]}"
    else:
        module = f"head_stage.{_STEM[_joined(path[:-1])]}"
    return f"{module}.{_PARAMETERS[parameter]}"


def _joined(path: Iterable[str]) -> str:
    return "/".join(path)


def _is_depthwise(path: tuple[str, ...]) -> bool:
    return path[-2] == "depthwise"


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if path[-1] != "kernel":
        return shape
    if _is_depthwise(path):
        k, _, channels = shape
        return (channels, 1, k, k)
    features = shape[::-1][:2]
    if path[-2] == "classifier":
        return features
    return features + (shape[:2] if len(shape) == 4 else (1, 1))


def _spatial(kernel: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """A kernel of this package with all four axes, [height, width, in, out]."""
    if _is_depthwise(path):
        return kernel[:, :, None]
    return kernel if kernel.ndim == 4 else kernel[None, None]


def _from_torch(value: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    kernel = np.moveaxis(value, (0, 1), (-1, -2))
    # Axes of length 1 have no counterpart here: the spatial ones of 1x1 kernels, the input axis of depthwise kernels.
    if _is_depthwise(path):
        return kernel[:, :, 0]
    return kernel if path[-2] == "stem_conv" or kernel.ndim == 2 else kernel[0, 0]
