"""Programs compiled without optimisation, for tests that compile many: that takes a quarter of the time."""

import functools

import jax
import jax.numpy as jnp

from ofav2_jax.runtime.programs import quick_compiler_options
from ofav2_jax.train.losses import smoothed_cross_entropy, soft_target_cross_entropy

quick_jit = functools.partial(jax.jit, compiler_options=quick_compiler_options())


@functools.partial(quick_jit, static_argnames=("net", "train", "all_exits"))
def masked(net, variables, images, choices, train=False, all_exits=False):
    """Logits [S, B, classes] of traced subnets, with a leading axis over the exits if `all_exits`."""
    return net.apply(variables, images, choices, train=train, all_exits=all_exits)


@functools.partial(quick_jit, static_argnames=("net", "subnet", "train"))
def static(net, variables, images, subnet, train=False):
    """Logits [B, classes] of a static subnet."""
    return net.apply(variables, images, subnet, train=train)


@functools.partial(quick_jit, static_argnames="net")
def _statistics(net, variables, images, choices):
    return net.apply(variables, images, choices, train=True, mutable=["batch_stats"])[1]["batch_stats"]


def masked_recalibrate(net, variables, batches, choices):
    """`recalibrate` for S traced subnets at once: statistics [S, C] in place of [C]."""
    total, num_images = None, 0
    for images in batches:
        num_images += len(images)
        stats = _statistics(net, variables, images, choices)
        weighted = jax.tree.map(functools.partial(jnp.multiply, len(images)), stats)
        total = weighted if total is None else jax.tree.map(jnp.add, total, weighted)
    return {**variables, "batch_stats": jax.tree.map(lambda v: v / num_images, total)}


def _loss(params, net, batch_stats, images, choices, labels, teacher_logits):
    logits = net.apply({"params": params, "batch_stats": batch_stats}, images, choices, train=True)
    return jnp.mean(smoothed_cross_entropy(logits, labels, 0.1) + soft_target_cross_entropy(logits, teacher_logits))


# For a single traced subnet (S = 1), because the reference has a separate gradient for each subnet.
masked_gradient = quick_jit(jax.value_and_grad(_loss), static_argnames="net")
static_gradient = quick_jit(jax.value_and_grad(_loss), static_argnames=("net", "choices"))
