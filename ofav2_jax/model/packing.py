"""A supernet's parameters as two vectors: those that weight decay acts on, and the others.

An optimiser's operations on a few hundred arrays become operations on two, and so does a sum over devices. The
parameters of a stage's stacked levels lie in rows, one row a level, so that the loop over the levels slices two arrays
instead of dozens.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.model.network import NUM_STAGES
from ofav2_jax.model.stage import STACKED_LEVELS

Params = Any
Vectors = dict[str, jax.Array]

DECAYED, OTHERS = "decayed", "others"


def decayed(params: Params) -> Params:
    """Which parameters weight decay acts on: all but BN parameters and biases, as arrays or packed in vectors."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias", OTHERS), params)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parameters of a tree lie in its two vectors.

    Attributes:
        structure: of the tree.
        shapes: of its leaves.
        decays: which of them are decayed.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    decays: tuple[bool, ...]

    @classmethod
    def of(cls, params: Params) -> "Layout":
        """The layout of trees of this structure and these shapes."""
        leaves, structure = jax.tree.flatten(params)
        return cls(structure, tuple(leaf.shape for leaf in leaves), tuple(jax.tree.leaves(decayed(params))))

    def pack(self, params: Params) -> Vectors:
        """The vectors of a tree, whose leaves may have a further leading axis: vectors then are rows."""
        leaves = self.structure.flatten_up_to(params)
        flat = [leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1) for leaf, shape in zip(leaves, self.shapes)]
        return {
            name: jnp.concatenate([leaf for leaf, decays in zip(flat, self.decays) if decays == wanted], axis=-1)
            for name, wanted in ((DECAYED, True), (OTHERS, False))
        }

    def unpack(self, vectors: Vectors) -> Params:
        """The inverse of `pack`."""
        parts = {}
        for name, wanted in ((DECAYED, True), (OTHERS, False)):
            sizes = [math.prod(shape) for shape, decays in zip(self.shapes, self.decays) if decays == wanted]
            # Its gradient is one concatenation; that of slices would be a sum of padded arrays.
            parts[wanted] = iter(lax.split(vectors[name], sizes, axis=vectors[name].ndim - 1))
        leaves = [
            (part := next(parts[decays])).reshape(*part.shape[:-1], *shape)
            for shape, decays in zip(self.shapes, self.decays)
        ]
        return self.structure.unflatten(leaves)


def _slice_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


class Packing:
    """The two vectors of a supernet's parameters.

    Args:
        params: of the network, or their shapes.
    """

    def __init__(self, params: Params):
        self._stages = [f"stage_{stage + 1}" for stage in range(NUM_STAGES)]
        self._levels = [Layout.of(jax.tree.map(_slice_shape, params[stage][STACKED_LEVELS])) for stage in self._stages]
        self._whole = Layout.of(jax.eval_shape(self._to_rows, params))

    def _to_rows(self, params):
        return self._replace_levels(params, [layout.pack for layout in self._levels])

    def _replace_levels(self, params, functions):
        """The tree with, for each stage, the function of what lies under its stacked levels in their place."""
        replaced = {
            stage: {**params[stage], STACKED_LEVELS: function(params[stage][STACKED_LEVELS])}
            for stage, function in zip(self._stages, functions)
        }
        return {**params, **replaced}

    def pack(self, params: Params) -> Vectors:
        """The vectors of a tree of parameters."""
        return self._whole.pack(self._to_rows(params))

    def unpack(self, vectors: Vectors) -> Params:
        """The tree of parameters."""
        return self._replace_levels(self.unpack_to_rows(vectors), [layout.unpack for layout in self._levels])

    def unpack_to_rows(self, vectors: Vectors) -> Params:
        """The tree of parameters with two arrays of rows, [levels, N], in the place of each stage's stacked levels.

        A network can be applied to this tree if it is given `unpack_level` too.
        """
        return self._whole.unpack(vectors)

    def unpack_level(self, stage: int, rows: Vectors) -> Params:
        """The parameters of one level from its row of each of the two arrays; see `stage.UnpackLevel`."""
        return self._levels[stage].unpack(rows)
