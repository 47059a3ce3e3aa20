"""OFAv2 (Once-For-All v2) in JAX and Flax."""

from ofav2_jax.model.apply import forward, forward_exits, forward_masked, recalibrate
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.cost import count
from ofav2_jax.model.sorting import sort_channels
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.model.torch_weights import load_torch
from ofav2_jax.settings.exit_weights import exit_weights

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
