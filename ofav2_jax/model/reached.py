"""The parameters of a supernet that a phase cannot reach, because none of its subnets contains them."""

import jax

from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace

# The kernel sizes for which the matrices of a depthwise convolution are read.
_READ_BY = {"matrix_7to5": {5, 3}, "matrix_5to3": {3}}


def keep_unreached(params: Params, start: Params, space: SearchSpace, all_exits: bool) -> Params:
    """Takes from `start` what no subnet reads: heads of exits, and the kernel matrices.

    Args:
        params: a tree of parameters.
        start: another one of the same structure.
        space: the subnets that were trained.
        all_exits: whether all exits were trained, as in phase full; else those of the space's heights.

    Returns:
        A tree with the leaves of `start` where no subnet has a gradient, and those of `params` elsewhere.
    """
    heads = set() if all_exits else {f"exit_{height}" for height in range(1, 6)} - {f"exit_{h}" for h in space.height}

    def kept(path: tuple, new: jax.Array, old: jax.Array) -> jax.Array:
        names = [entry.key for entry in path]
        readers = _READ_BY.get(names[-1])
        is_reached = names[0] not in heads and (readers is None or bool(readers & set(space.kernel)))
        return new if is_reached else old

    return jax.tree_util.tree_map_with_path(kept, params, start)
