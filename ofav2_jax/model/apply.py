"""Running subnets of a supernet: logits, and the recalibration of batch norm."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ofav2_jax.checks import shown
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet, Variables, check_images, check_params, neutral_statistics


@functools.partial(jax.jit, static_argnames=("net", "subnet", "train", "all_exits"))
def _apply_static(net, variables, images, subnet, train, all_exits):
    return net.apply(variables, images, subnet, train=train, all_exits=all_exits)


@functools.partial(jax.jit, static_argnames=("net", "train"))
def _apply_traced(net, variables, images, choices, train):
    return net.apply(variables, images, choices, train=train)


@functools.partial(jax.jit, static_argnames=("net", "choices"))
def _static_statistics(net, variables, images, choices):
    return _statistics(net, variables, images, choices)


@functools.partial(jax.jit, static_argnames="net")
def _traced_statistics(net, variables, images, choices):
    return _statistics(net, variables, images, choices)


def _statistics(net, variables, images, choices):
    _, updated = net.apply(variables, images, choices, train=True, mutable=["batch_stats"])
    return updated["batch_stats"]


def forward(net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False) -> jax.Array:
    """Logits of one subnet, in a program that contains this subnet and nothing else.

    Args:
        net: the supernet (static).
        variables: {"params", "batch_stats"} of the supernet; with `train`, "params" suffice.
        images: float [B, H, W, 3], normalised.
        subnet: the subnet (static: another one compiles another program).
        train: use the batch's own statistics instead of `batch_stats` (static).

    Returns:
        float32 [B, classes].

    Raises:
        ValueError: for images of another shape or of integers, or a subnet that `net` does not hold.
    """
    _require_images(images)
    SearchSpace(net).check(subnet)
    _require_variables(net, variables, train)
    return _apply_static(net, variables, images, subnet, train, False)


def forward_exits(
    net: SuperNet, variables: Variables, images: jax.Array, subnet: Subnet, train: bool = False
) -> jax.Array:
    """Logits of every exit of an early-exit network, with `subnet`'s choices in the body.

    The arguments are those of `forward`; the subnet's height is ignored.

    Returns:
        float32 [5, B, classes], the first exit first.

    Raises:
        ValueError: as in `forward`, and if `net` has a single exit.
    """
    _require_images(images)
    SearchSpace(net).check(subnet)
    if not net.spec.early_exits:
        raise ValueError(f"network={net.network!r} has a single exit: use forward")
    _require_variables(net, variables, train)
    return _apply_static(net, variables, images, subnet, train, True)


def forward_masked(
    net: SuperNet, variables: Variables, images: jax.Array, subnets: Sequence[Subnet], train: bool = False
) -> jax.Array:
    """Logits of S subnets, in one program that serves any S subnets.

    Args:
        net: the supernet (static).
        variables: as for `forward`; entries of `batch_stats` may also be [S, C], one row per subnet.
        images: float [B, H, W, 3], normalised, shared by all subnets.
        subnets: S subnets (traced: S other ones run in the same program).
        train: use each subnet's statistics of the batch itself instead of `batch_stats` (static).

    Returns:
        float32 [S, B, classes].

    Raises:
        ValueError: as in `forward`, and if there is no subnet.
    """
    _require_images(images)
    choices = _required_choices(net, subnets)
    _require_variables(net, variables, train)
    return _apply_traced(net, variables, images, choices, train)


def recalibrate(net: SuperNet, variables: Variables, batches: Iterable[jax.Array], subnet: Subnet) -> dict[str, Any]:
    """Recomputes the batch-norm statistics of one subnet, in a program that contains this subnet and nothing else.

    Args:
        net: the supernet.
        variables: {"params"} of the supernet, with "batch_stats" or without.
        batches: image batches float [B, H, W, 3]; their sizes may differ.
        subnet: the subnet. The statistics of inactive channels and layers stay as they are; where `variables` has none,
            they are mean 0 and variance 1.

    Returns:
        `variables` with new "batch_stats": batch mean and biased batch variance, averaged over the batches with their
        sizes as weights.

    Raises:
        ValueError: if there is no batch, or for images or a subnet that `forward` would refuse.
    """
    SearchSpace(net).check(subnet)
    return _recalibrated(_static_statistics, net, variables, batches, subnet)


def recalibrate_masked(
    net: SuperNet, variables: Variables, batches: Iterable[jax.Array], subnets: Sequence[Subnet]
) -> dict[str, Any]:
    """Recomputes the batch-norm statistics of S subnets, in one program that serves any S subnets.

    Args:
        net: the supernet.
        variables: {"params"} of the supernet; its "batch_stats", if any, are not read.
        batches: image batches float [B, H, W, 3]; their sizes may differ.
        subnets: S subnets.

    Returns:
        {"params", "batch_stats"} for `forward_masked` with the same subnets. The entries of "batch_stats" are [S, C],
        those of a stage's levels 2 to 4 with a leading axis over the levels; before the first choice they are [C]. What
        they are where a subnet has no channels says nothing.

    Raises:
        ValueError: if there is no batch, or for images or subnets that `forward_masked` would refuse.
    """
    choices = _required_choices(net, subnets)
    _require_variables(net, variables, train=True)
    # The old statistics are left out: those of another number of subnets have another shape.
    params = {name: value for name, value in variables.items() if name != "batch_stats"}
    return _recalibrated(_traced_statistics, net, params, batches, choices)


def _recalibrated(statistics, net, variables, batches, choices):
    total, num_images = None, 0
    for images in _required_batches(batches):
        if total is None:
            _require_variables(net, variables, train=True)
            variables = {"batch_stats": variables.get("batch_stats") or neutral_statistics(net), **variables}
        weight = len(images)
        stats = jax.tree.map(lambda v: v * weight, statistics(net, variables, images, choices))  # noqa: B023
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
        num_images += weight
    if total is None:
        raise ValueError("batches is empty: give at least one batch of images")
    return {**variables, "batch_stats": jax.tree.map(lambda v: v / num_images, total)}


def _require_images(images):
    check_images(images)
    # As numbers from 0 to 255 they would be images of another kind to the network, and its answer without a meaning.
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}, which is not allowed: normalise them first, for instance by "
            "dataset.normalisation(images.astype('float32'))"
        )


def _required_batches(batches):
    if hasattr(batches, "ndim"):
        raise ValueError(f"batches has shape {batches.shape}, which is not allowed: it must be a list of image batches")
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches={shown(batches)} is not allowed: it must be a list of image batches")
    for images in batches:
        _require_images(images)
        yield images


def _required_choices(net, subnets):
    choices, space = Choices.stack(subnets), SearchSpace(net)
    for subnet in subnets:
        space.check(subnet)
    return choices


def _require_variables(net, variables, train):
    check_params(net, variables)
    if not train and "batch_stats" not in variables:
        raise ValueError("variables has no batch_stats: recalibrate the subnet first, or run it with train=True")
