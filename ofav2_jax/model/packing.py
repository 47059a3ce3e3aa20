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
    """Marks the parameters that weight decay acts on: all but BN parameters and biases.

    Args:
        params: a tree of parameters, whose leaves may be arrays or packed vectors.

    Returns:
        A tree of the same structure with a bool for each leaf.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias", OTHERS), params)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parameters of a tree lie in its two vectors.

    Attributes:
        structure: the structure of the tree.
        shapes: the shape of each leaf.
        decays: for each leaf whether weight decay acts on it.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    decays: tuple[bool, ...]

    @classmethod
    def of(cls, params: Params) -> "Layout":
        """The layout of trees that have the structure and the shapes of `params`."""
        leaves, structure = jax.tree.flatten(params)
        return cls(structure, tuple(leaf.shape for leaf in leaves), tuple(jax.tree.leaves(decayed(params))))

    def pack(self, params: Params) -> Vectors:
        """Packs a tree in two vectors; if its leaves have a further leading axis, in two arrays of rows."""
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
            # The gradient of a split is one concatenation; that of slices would be a sum of padded arrays.
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
        params: the network's parameters, or their shapes.
    """

    def __init__(self, params: Params):
        self._stages = [f"stage_{stage + 1}" for stage in range(NUM_STAGES)]
        self._levels = [Layout.of(jax.tree.map(_slice_shape, params[stage][STACKED_LEVELS])) for stage in self._stages]
        self._whole = Layout.of(jax.eval_shape(self._to_rows, params))

    def _to_rows(self, params):
        return self._replace_levels(params, [layout.pack for layout in self._levels])

    def _replace_levels(self, params, functions):
        """Applies one function per stage to the value under STACKED_LEVELS, and puts the result in its place."""
        replaced = {
            stage: {**params[stage], STACKED_LEVELS: function(params[stage][STACKED_LEVELS])}
            for stage, function in zip(self._stages, functions)
        }
        return {**params, **replaced}

    def pack(self, params: Params) -> Vectors:
        """Packs a tree of parameters in two vectors."""
        return self._whole.pack(self._to_rows(params))

    def unpack(self, vectors: Vectors) -> Params:
        """Unpacks the tree of parameters: the inverse of `pack`."""
        return self._replace_levels(self.unpack_to_rows(vectors), [layout.unpack for layout in self._levels])

    def unpack_to_rows(self, vectors: Vectors) -> Params:
        """Unpacks all parameters but those of the stacked levels.

        Each stage's stacked levels remain two arrays of rows, [levels, N]. A network can be applied to this tree if it
        is given `unpack_level` too.
        """
        return self._whole.unpack(vectors)

    def unpack_level(self, stage: int, rows: Vectors) -> Params:
        """Unpacks one level from its row in each of the two arrays; see `stage.UnpackLevel`."""
        return self._levels[stage].unpack(rows)
