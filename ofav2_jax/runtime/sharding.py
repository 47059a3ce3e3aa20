"""Where arrays are: replicated on all devices, or sharded over them; of one process or of several."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The pmap axis over which a batch is sharded.
AXIS = "data"


def sharding_over(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    """How an array lies on the devices: sharded along the leading axes that are named, else replicated."""
    return NamedSharding(Mesh(devices, (AXIS,)), PartitionSpec(*axes))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy of every array on every device; of several processes, each has to give the same arrays."""
    sharding = sharding_over(devices)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        # device_put would send the whole array around to compare it.
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))

    return jax.tree.map(put, tree)


def shard(array: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """Spreads the rows of an array [devices, ...] over the devices."""
    return jax.make_array_from_callback(array.shape, sharding_over(devices, AXIS), lambda rows: array[rows])
