"""OFAv2 (Once-For-All v2) in JAX and Flax."""

from ofav2_jax.space import Choices, SearchSpace, Subnet
from ofav2_jax.supernet import SuperNet, forward, forward_exits, forward_masked, recalibrate

__all__ = [
    "Choices",
    "SearchSpace",
    "Subnet",
    "SuperNet",
    "forward",
    "forward_exits",
    "forward_masked",
    "recalibrate",
]
