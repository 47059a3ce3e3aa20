"""An inverted bottleneck of one subnet, a few of its middle channels after the others.

The middle channels are computed in groups of as many as the block has input channels, so that the expand ratio is the
number of groups, and what a traced one leaves out is not computed. A group of a large map also stays in a processor's
cache, from the expansion to the projection and back again, where the widest expansion does not.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import unfreeze
from jax import lax

from ofav2_jax.model.subnet import LevelChoice
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.choose import prefix
from ofav2_jax.ops.depthwise import takes_shifts
from ofav2_jax.ops.pointwise import mix_channels
from ofav2_jax.ops.saved import save

# The layers whose channels are the middle ones, before squeeze-and-excitation.
_MIDDLE_NORMS = "expand_bn", "depthwise_bn"
_MIDDLE_LAYERS = "expand", "depthwise", *_MIDDLE_NORMS

# With fewer multiplications in the expansion of a group, compiling the loop takes longer than it saves in a short run.
_MIN_PRODUCTS = 2**21
# Where the widest expansion takes fewer bytes, a processor's caches hold all of it, and groups gain nothing by that.
_MIN_BYTES = 2**22


def pays(block: nn.Module, x: jax.Array, choice: LevelChoice, train: bool, stores: bool) -> bool:
    """Whether a CPU computes a block faster in groups.

    Testing and recalibrating a traced subnet, all blocks but small ones gain, because what was not drawn is left out.
    A training step computes each group a second time for its gradient. That pays where memory limits the block: the
    widest expansion is larger than the caches, and the depthwise convolution is not a product of matrices. With
    squeeze-and-excitation, for which the middle channels have to wait in memory, it does not. The same holds for static
    choices, which leave nothing out. What a TPU makes of such a loop was not tried.

    Args:
        block: an `InvertedBottleneck`.
        x: its input [C, S, H, W, B].
        choice: its choices.
        train: whether batch norm uses the batch's statistics.
        stores: whether it stores them.
    """
    static = isinstance(choice.expand, int)
    if backend() != "cpu" or not (static or choice.expand.shape == (1,)):
        return False
    if not static and (stores or not train):
        return len(x) * x.size >= _MIN_PRODUCTS
    # The stored statistics of channels that a static subnet leaves out stay as they are.
    is_limited_by_memory = block.largest_expand * x.nbytes >= _MIN_BYTES and takes_shifts(x, block.stride)
    return is_limited_by_memory and not block.squeeze_excite and not stores


def project_active(
    block: nn.Module, train: bool, variables: Any, x: jax.Array, choice: LevelChoice
) -> tuple[jax.Array, Any]:
    """The projection of a block's active middle channels, before its batch norm.

    Args:
        block: an `InvertedBottleneck` that is not bound.
        train: whether batch norm uses the batch's statistics instead of the stored ones.
        variables: the block's variables.
        x: float [C, 1, H, W, B].
        choice: the choices of one subnet, ints or traced.

    Returns:
        The projection [channels, 1, H, W, B]; and, with `train`, the statistics of the batch norms before it, [middle
        channels] each, mean 0 and variance 1 for the inactive channels.
    """
    static, traced = (choice, None) if isinstance(choice.expand, int) else (None, choice)
    y, stats = _project_active(block, train, static, unfreeze(dict(variables)), x, traced)
    return save(y), stats


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _project_active(block, train, static, variables, x, traced):
    """See `project_active`; the choices are those that are not None."""
    size, choice = block.in_channels, static or traced
    kernel, middle = _parts(block, train, variables, choice)

    def project(y, i):
        return mix_channels(_cut(kernel, i, size), y)

    def add(i, carry):
        total, stats = carry
        y, of_group = middle(_of_group(variables, i, size), x)
        return total + project(y, i), _put(stats, of_group, i, size)

    def collect(i, carry):
        y, of_group = middle(_of_group(variables, i, size), x)
        return _put(carry, (y, jnp.mean(y, axis=(2, 3), keepdims=True), of_group), i, size)

    def add_excited(i, total):
        return total + project(_cut(middles, i, size) * _cut(gates, i, size), i)

    _, _, height, width, batch = x.shape
    shape = 1, -(-height // block.stride), -(-width // block.stride), batch
    total = jnp.zeros((block.channels, *shape), _wide(block.dtype))
    stats = _neutral(block) if train else {}
    num_groups = _num_groups(choice)
    if not block.squeeze_excite:
        total, stats = lax.fori_loop(0, num_groups, add, (total, stats))
        return total.astype(block.dtype), stats
    # The gates depend on all middle channels, so that these wait in memory.
    middles, pooled = (jnp.zeros((len(kernel), *of), block.dtype) for of in (shape, (1, 1, 1, batch)))
    middles, pooled, stats = lax.fori_loop(0, num_groups, collect, (middles, pooled, stats))
    bound = block.bind(variables)
    gates = bound.se.gates(pooled, prefix(choice.expand, bound.hidden))
    return lax.fori_loop(0, num_groups, add_excited, total).astype(block.dtype), stats


def _project_active_fwd(block, train, static, variables, x, traced):
    """Nothing is saved but the inputs; with squeeze-and-excitation the block is masked, see `pays`."""

    def masked(variables, x):
        mutable = ["batch_stats"] if train else []
        y, updated = block.apply(variables, x, static or traced, train, mutable=mutable, method="masked")
        return y, updated.get("batch_stats", {})

    if block.squeeze_excite:
        return jax.vjp(masked, variables, x)
    return _project_active(block, train, static, variables, x, traced), (variables, x, traced)


def _project_active_bwd(block, train, static, residuals, cotangents):
    """Group by group, the middle channels are computed once more, and their gradient while they are in the cache."""
    if block.squeeze_excite:
        return *residuals(cotangents), None
    variables, x, traced = residuals
    size, dtype = block.in_channels, _wide(block.dtype)
    kernel, middle = _parts(block, train, variables, static or traced)
    # No gradient flows through the statistics.
    dy, _ = cotangents

    def add(i, carry):
        dx, dkernel, dlayers = carry
        y, pull_back, _ = jax.vjp(middle, _of_group(variables, i, size), x, has_aux=True)
        _, pull_back_projection = jax.vjp(mix_channels, _cut(kernel, i, size), y)
        dkernel_of_group, dy_of_group = pull_back_projection(dy)
        dlayers_of_group, dx_of_group = pull_back(dy_of_group)
        return dx + dx_of_group, _put(dkernel, dkernel_of_group, i, size), _add(dlayers, dlayers_of_group, i, size)

    start = jnp.zeros(x.shape, dtype), jnp.zeros_like(kernel), jax.tree.map(jnp.zeros_like, _middle_layers(variables))
    dx, dkernel, dlayers = lax.fori_loop(0, _num_groups(static or traced), add, start)
    gradients = {name: {**tree, **dlayers[name]} for name, tree in jax.tree.map(jnp.zeros_like, variables).items()}
    project = {"kernel": dkernel.astype(variables["params"]["project"]["kernel"].dtype)}
    return {**gradients, "params": {**gradients["params"], "project": project}}, dx.astype(x.dtype), None


_project_active.defvjp(_project_active_fwd, _project_active_bwd)


def _parts(block, train, variables, choice):
    """The kernel of the projection; and a function from the variables of a group and x to its middle channels."""
    group, mutable = block.clone(largest_expand=1), ["batch_stats"] if train else []

    def middle(of_group, x):
        y, updated = group.apply(of_group, x, choice.kernel, train, mutable=mutable, method="middle")
        return y, updated.get("batch_stats", {})

    return block.bind(variables).project.sliced_kernel(block.in_channels * block.largest_expand), middle


def _num_groups(choice):
    return choice.expand if isinstance(choice.expand, int) else choice.expand[0]


def _wide(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _neutral(block):
    """The statistics of the middle channels before a group is computed."""
    middle, dtype = block.in_channels * block.largest_expand, _wide(block.dtype)
    return {name: {"mean": jnp.zeros(middle, dtype), "var": jnp.ones(middle, dtype)} for name in _MIDDLE_NORMS}


def _middle_layers(variables):
    return {
        collection: {name: tree[name] for name in _MIDDLE_LAYERS if name in tree}
        for collection, tree in variables.items()
    }


def _is_shared(path):
    """All channels share the matrices that make small kernels of large ones; the last axis of all else is channels."""
    return path[-1].key.startswith("matrix")


def _of_group(variables, i, size):
    """The variables of the middle layers for the i-th group of channels."""

    def cut(path, values):
        return values if _is_shared(path) else _cut(values, i, size, axis=values.ndim - 1)

    return jax.tree_util.tree_map_with_path(cut, _middle_layers(variables))


def _add(layers, of_group, i, size):
    """The inverse of `_of_group`: gradients of the middle layers with those of the i-th group of channels."""

    def put(path, values, part):
        if _is_shared(path):
            return values + part
        return lax.dynamic_update_slice_in_dim(values, part, i * size, values.ndim - 1)

    return jax.tree_util.tree_map_with_path(put, layers, of_group)


def _cut(values, i, size, axis=0):
    return lax.dynamic_slice_in_dim(values, i * size, size, axis)


def _put(tree, part, i, size):
    """Arrays with a part of each in the place of the i-th group of channels, the first axis."""
    return jax.tree.map(lambda all_of_it, one: lax.dynamic_update_slice_in_dim(all_of_it, one, i * size, 0), tree, part)
