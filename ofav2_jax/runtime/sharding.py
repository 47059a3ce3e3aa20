"""Placing arrays on the devices of one process or of several: replicated on all of them, or sharded over them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The pmap axis over which a batch is sharded.
AXIS = "data"


def sharding_over(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    """A sharding that names the mesh axes over which an array's leading axes are sharded; without any, replicated."""
    return NamedSharding(Mesh(devices, (AXIS,)), PartitionSpec(*axes))


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Puts a copy of every array on every device; if there are several processes, each must give the same arrays."""
    sharding = sharding_over(devices)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        # device_put would broadcast the whole array to compare it in all processes.
        return jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))

    return jax.tree.map(put, tree)


def shard(array: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    """Shards an array [devices, ...] over the devices, one row on each."""
    return jax.make_array_from_callback(array.shape, sharding_over(devices, AXIS), lambda rows: array[rows])
