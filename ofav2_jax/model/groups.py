"""An inverted bottleneck of one traced subnet, without the middle channels that its expand ratio leaves out.

The middle channels are computed in groups of as many as the block has input channels, so that the expand ratio is the
number of groups. A group of a large map also stays in a processor's cache, where the widest expansion does not.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.model.subnet import LevelChoice
from ofav2_jax.ops.backend import backend
from ofav2_jax.ops.choose import prefix
from ofav2_jax.ops.pointwise import mix_channels

# The layers whose channels are the middle ones, before squeeze-and-excitation.
_MIDDLE_NORMS = "expand_bn", "depthwise_bn"
_MIDDLE_LAYERS = "expand", "depthwise", *_MIDDLE_NORMS

# With fewer multiplications in the expansion of a group, compiling the loop takes longer than it saves in a short run.
_MIN_PRODUCTS = 2**21


def pays(x: jax.Array, choice: LevelChoice) -> bool:
    """Whether a program without gradients computes a block with the input `x` faster in groups.

    On a CPU only: what a TPU, which runs subnets one after another too, makes of such a loop was not tried.
    """
    is_single = not isinstance(choice.expand, int) and choice.expand.shape == (1,)
    return is_single and backend() == "cpu" and len(x) * x.size >= _MIN_PRODUCTS


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def project_active(
    block: nn.Module, train: bool, variables: Any, x: jax.Array, choice: LevelChoice
) -> tuple[jax.Array, Any]:
    """The projection of a block's active middle channels, before its batch norm.

    Args:
        block: an `InvertedBottleneck` that is not bound.
        train: whether batch norm uses the batch's statistics instead of the stored ones.
        variables: the block's variables.
        x: float [C, 1, H, W, B].
        choice: the choices of one subnet, traced.

    Returns:
        The projection [channels, 1, H, W, B]; and, with `train`, the statistics of the batch norms before it, [middle
        channels] each, mean 0 and variance 1 for the inactive channels.
    """
    size, num_groups = block.in_channels, choice.expand[0]
    bound, group = block.bind(variables), block.clone(largest_expand=1)
    kernel = bound.project.sliced_kernel(size * block.largest_expand)

    def middle(i):
        mutable = ["batch_stats"] if train else []
        y, updated = group.apply(
            _of_group(variables, i, size), x, choice.kernel, train, mutable=mutable, method="middle"
        )
        return y, updated.get("batch_stats", {})

    def project(y, i):
        return mix_channels(_cut(kernel, i, size), y)

    def add(i, carry):
        total, stats = carry
        y, of_group = middle(i)
        return total + project(y, i), _put(stats, of_group, i, size)

    def collect(i, carry):
        y, of_group = middle(i)
        return _put(carry, (y, jnp.mean(y, axis=(2, 3), keepdims=True), of_group), i, size)

    def add_excited(i, total):
        return total + project(_cut(middles, i, size) * _cut(gates, i, size), i)

    _, _, height, width, batch = x.shape
    shape = 1, -(-height // block.stride), -(-width // block.stride), batch
    total = jnp.zeros((block.channels, *shape), jnp.promote_types(block.dtype, jnp.float32))
    stats = _neutral(block) if train else {}
    if not block.squeeze_excite:
        total, stats = lax.fori_loop(0, num_groups, add, (total, stats))
        return total.astype(block.dtype), stats
    # The gates depend on all middle channels, so that these wait in memory.
    middles, pooled = (jnp.zeros((len(kernel), *of), block.dtype) for of in (shape, (1, 1, 1, batch)))
    middles, pooled, stats = lax.fori_loop(0, num_groups, collect, (middles, pooled, stats))
    gates = bound.se.gates(pooled, prefix(choice.expand, bound.hidden))
    return lax.fori_loop(0, num_groups, add_excited, total).astype(block.dtype), stats


def _project_active_fwd(block, train, variables, x, choice):
    """The masked formulation, because JAX has no gradient of loops whose length is traced."""

    def masked(variables, x):
        mutable = ["batch_stats"] if train else []
        y, updated = block.apply(variables, x, choice, train, mutable=mutable, method="masked")
        return y, updated.get("batch_stats", {})

    return jax.vjp(masked, variables, x)


def _project_active_bwd(block, train, pull_back, cotangents):
    return *pull_back(cotangents), None


project_active.defvjp(_project_active_fwd, _project_active_bwd)


def _neutral(block):
    """The statistics of the middle channels before a group is computed."""
    middle, dtype = block.in_channels * block.largest_expand, jnp.promote_types(block.dtype, jnp.float32)
    return {name: {"mean": jnp.zeros(middle, dtype), "var": jnp.ones(middle, dtype)} for name in _MIDDLE_NORMS}


def _of_group(variables, i, size):
    """The variables of the middle layers for the i-th group of channels, which are the last axis of each of them."""

    def cut(path, values):
        # All channels share the matrices that make small kernels of large ones.
        return values if path[-1].key.startswith("matrix") else _cut(values, i, size, axis=values.ndim - 1)

    layers = {
        collection: {name: tree[name] for name in _MIDDLE_LAYERS if name in tree}
        for collection, tree in variables.items()
    }
    return jax.tree_util.tree_map_with_path(cut, layers)


def _cut(values, i, size, axis=0):
    return lax.dynamic_slice_in_dim(values, i * size, size, axis)


def _put(tree, part, i, size):
    """Arrays with a part of each in the place of the i-th group of channels, the first axis."""
    return jax.tree.map(lambda all_of_it, one: lax.dynamic_update_slice_in_dim(all_of_it, one, i * size, 0), tree, part)
