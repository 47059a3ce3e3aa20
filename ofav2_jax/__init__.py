"""OFAv2 (Once-For-All v2) in JAX and Flax."""

from ofav2_jax.model.channels import count, sort_channels
from ofav2_jax.model.space import Choices, SearchSpace, Subnet
from ofav2_jax.model.supernet import SuperNet, forward, forward_exits, forward_masked, recalibrate
from ofav2_jax.model.torch_weights import load_torch
from ofav2_jax.train.losses import exit_weights

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
