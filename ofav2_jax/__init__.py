"""OFAv2 (Once-For-All v2) in JAX and Flax."""

from ofav2_jax.channels import count, sort_channels
from ofav2_jax.interop.torch import load_torch
from ofav2_jax.losses import exit_weights
from ofav2_jax.space import Choices, SearchSpace, Subnet
from ofav2_jax.supernet import SuperNet, forward, forward_exits, forward_masked, recalibrate

__all__ = [
    "Choices",
    "SearchSpace",
    "Subnet",
    "SuperNet",
    "count",
    "exit_weights",
    "forward",
    "forward_exits",
    "forward_masked",
    "load_torch",
    "recalibrate",
    "sort_channels",
]
