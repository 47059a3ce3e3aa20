"""Running subnets of a supernet: logits, and the recalibration of batch norm."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax.model.choices import Choices
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet, Variables, check_images


@functools.partial(jax.jit, static_argnames=("net", "subnet", "train", "all_exits"))
def _apply_static(net, variables, images, subnet, train, all_exits):
    return net.apply(variables, images, subnet, train=train, all_exits=all_exits)


@functools.partial(jax.jit, static_argnames=("net", "train"))
def _apply_traced(net, variables, images, choices, train):
    return net.apply(variables, images, choices, train=train)


@functools.partial(jax.jit, static_argnames=("net", "subnet"))
def _batch_statistics(net, variables, images, subnet):
    _, updated = net.apply(variables, images, subnet, train=True, mutable=["batch_stats"])
    return updated["batch_stats"]


def forward(net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False) -> jax.Array:
    """Logits of one subnet, in a program that contains this subnet and nothing else.

    Args:
        net: the supernet (static).
        variables: {"params", "batch_stats"} of the supernet.
        images: float [B, H, W, 3], normalised.
        subnet: which subnet (static: another one compiles another program).
        train: use the batch's own statistics instead of `batch_stats` (static).

    Returns:
        float32 [B, classes].

    Raises:
        ValueError: for images of another shape or a subnet that `net` does not hold.
    """
    check_images(images)
    SearchSpace(net).check(subnet)
    return _apply_static(net, variables, images, subnet, train, False)


def forward_exits(
    net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False
) -> jax.Array:
    """Logits of every exit of an early-exit network, with `subnet`'s choices in the body; like `forward`.

    Returns:
        float32 [5, B, classes], the first exit first.

    Raises:
        ValueError: also if `net` has a single exit.
    """
    check_images(images)
    SearchSpace(net).check(subnet)
    if not net.spec.early_exits:
        raise ValueError(f"network={net.network!r} has a single exit: use forward")
    return _apply_static(net, variables, images, subnet, train, True)


def forward_masked(
    net: SuperNet, variables: Variables, images: jax.Array, subnets: Sequence[Subnet], train: bool = False
) -> jax.Array:
    """Logits of S subnets, in one program that serves any S subnets.

    Args:
        net: the supernet (static).
        variables: as for `forward`; entries of `batch_stats` may also be [S, C], one row per subnet.
        images: float [B, H, W, 3], normalised, shared by all subnets.
        subnets: S subnets (traced: other ones compile nothing).
        train: use the batch's own statistics, of each subnet, instead of `batch_stats` (static).

    Returns:
        float32 [S, B, classes].
    """
    check_images(images)
    for subnet in subnets:
        SearchSpace(net).check(subnet)
    return _apply_traced(net, variables, images, Choices.stack(subnets), train)


def recalibrate(net: SuperNet, variables: Variables, batches: Iterable[jax.Array], subnet: Subnet) -> dict[str, Any]:
    """Recomputes the batch-norm statistics of one subnet.

    Args:
        net: the supernet.
        variables: its variables.
        batches: image batches float [B, H, W, 3]; their sizes may differ.
        subnet: whose statistics; those of inactive channels and layers stay as they are.

    Returns:
        `variables` with the means over the batches, weighted by their sizes, of batch mean and biased batch
        variance.

    Raises:
        ValueError: if there is no batch, or for images or a subnet that `forward` would refuse.
    """
    SearchSpace(net).check(subnet)
    total, num_images = None, 0
    for images in batches:
        check_images(images)
        weight = len(images)
        stats = jax.tree.map(lambda v: v * weight, _batch_statistics(net, variables, images, subnet))  # noqa: B023
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
        num_images += weight
    if total is None:
        raise ValueError("batches is empty: give at least one batch of images")
    return {**variables, "batch_stats": jax.tree.map(lambda v: v / num_images, total)}
