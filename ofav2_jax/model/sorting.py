"""Sorting the supernet's channels by importance, so that narrow subnets use the important ones."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax.checks import plain, shown
from ofav2_jax.model.network import NUM_STAGES, middle_width
from ofav2_jax.model.stage import FIRST_LEVEL, STACKED_LEVELS
from ofav2_jax.model.supernet import SuperNet, Variables, check_params

# The expand ratio at whose width each width phase divides the channels in two groups that are sorted separately. The
# second width phase keeps the channels apart that the first one made optional.
_KEPT_EXPAND = {1: None, 2: 4}
_BLOCK = "inverted_bottleneck"


def sort_channels(net: SuperNet, variables: Variables, width_phase: int) -> dict[str, Any]:
    """Puts the middle channels of every inverted bottleneck in descending order of importance.

    Narrow subnets take the leading channels, so each width phase starts by sorting (Once-For-All, section 3.2).
    A channel's importance is the L1 norm of the project convolution's weights that read it. The hidden units of
    squeeze-and-excitation are sorted too, by the L1 norm of the expand weights that read them, in either phase as
    one group. The function that the maximal network computes does not change.

    Args:
        net: the supernet.
        variables: {"params"} of the supernet, with "batch_stats" or without.
        width_phase: 1 sorts all channels as one group. 2 sorts two groups separately: the channels within the width
            of expand ratio 4, and those beyond it, which stay behind the others.

    Returns:
        `variables` with permuted channels, batch-norm statistics included where there are any.

    Raises:
        ValueError: if `width_phase` is not 1 or 2, or `variables` has no "params".
    """
    check_params(net, variables)
    width_phase = plain(width_phase)
    if type(width_phase) is not int or width_phase not in _KEPT_EXPAND:
        raise ValueError(f"width_phase={shown(width_phase)} is not allowed: it must be 1 or 2")
    expand = _KEPT_EXPAND[width_phase]
    result = {name: dict(variables[name]) for name in ("params", "batch_stats") if name in variables}
    for stage in range(NUM_STAGES):
        name = f"stage_{stage + 1}"
        for collection in result.values():
            collection[name] = dict(collection[name])
        for level, part in ((0, FIRST_LEVEL), (1, STACKED_LEVELS)):
            boundary = 0 if expand is None else middle_width(net.channels.level_input(stage, level), expand)
            block = {key: collection[name][part][_BLOCK] for key, collection in result.items()}
            sort = functools.partial(_sorted_block, boundary=boundary)
            for key, values in (jax.vmap(sort) if part == STACKED_LEVELS else sort)(block).items():
                result[key][name][part] = {**result[key][name][part], _BLOCK: values}
    return {**variables, **result}


def _sorted_block(block: Mapping[str, Any], boundary: int) -> dict[str, Any]:
    """Sorts the channels of one inverted bottleneck in two groups, those before `boundary` and those from it on.

    Args:
        block: the block's variables by collection, "params" and perhaps "batch_stats".
        boundary: index of the second group's first channel.
    """
    params = block["params"]
    importance = jnp.sum(jnp.abs(params["project"]["kernel"]), axis=1)
    order = jnp.concatenate([_descending(importance[:boundary]), boundary + _descending(importance[boundary:])])

    def take(tree):
        # Middle channels are the last axis of every array but the project kernel and SE's reduce kernel.
        return jax.tree.map(lambda leaf: leaf[..., order], tree)

    moved = {
        "expand": take(params["expand"]),
        "expand_bn": take(params["expand_bn"]),
        "depthwise": {**params["depthwise"], "kernel": take(params["depthwise"]["kernel"])},
        "depthwise_bn": take(params["depthwise_bn"]),
        "project": {"kernel": params["project"]["kernel"][order]},
    }
    if "se" in params:
        reduce, expand = params["se"]["reduce"], take(params["se"]["expand"])
        units = _descending(jnp.sum(jnp.abs(expand["kernel"]), axis=1))
        moved["se"] = {
            "reduce": {"kernel": reduce["kernel"][order][:, units], "bias": reduce["bias"][units]},
            "expand": {"kernel": expand["kernel"][units], "bias": expand["bias"]},
        }
    result = {"params": {**params, **moved}}
    if "batch_stats" in block:
        stats = block["batch_stats"]
        result["batch_stats"] = {**stats, **{name: take(stats[name]) for name in ("expand_bn", "depthwise_bn")}}
    return result


def _descending(importance: jax.Array) -> jax.Array:
    return jnp.argsort(-importance, stable=True)
