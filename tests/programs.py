"""Compiled programs for tests that run many of them.

Compiling takes most of the tests' time. Without optimisation it takes half as long; the numbers agree as well.
"""

import functools

import jax
import jax.numpy as jnp

from ofav2_jax.programs import quick_compiler_options

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
        stats = jax.tree.map(lambda v: v * len(images), _statistics(net, variables, images, choices))  # noqa: B023
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
    return {**variables, "batch_stats": jax.tree.map(lambda v: v / num_images, total)}


def distillation_loss(logits, labels, teacher_logits):
    """The reference's loss: cross-entropy with label smoothing 0.1 plus soft-target cross-entropy."""
    num_classes = logits.shape[-1]
    targets = 0.9 * jax.nn.one_hot(labels, num_classes, dtype=logits.dtype) + 0.1 / num_classes
    targets = targets + jax.nn.softmax(teacher_logits)
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def _loss(params, net, batch_stats, images, choices, labels, teacher_logits):
    logits = net.apply({"params": params, "batch_stats": batch_stats}, images, choices, train=True)
    num_classes = logits.shape[-1]
    return distillation_loss(logits.reshape(-1, num_classes), labels, teacher_logits)


# One traced subnet (S = 1): the reference has a gradient for each subnet by itself.
masked_gradient = quick_jit(jax.value_and_grad(_loss), static_argnames="net")
static_gradient = quick_jit(jax.value_and_grad(_loss), static_argnames=("net", "choices"))
