"""Parameters as two vectors: those that weight decay acts on, and the others.

What an optimiser does to a few hundred arrays is then two operations, and so is a sum over devices. The parameters of
equal levels lie in rows, of which a loop over the levels takes one at a time.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

Params = Any
Vectors = dict[str, jax.Array]

DECAYED, OTHERS = "decayed", "others"

# In a stage's parameters, the levels that a loop runs; and in those, what holds them as rows.
LOOPED, ROWS = "levels_2_to_4", "rows"


def decayed(params: Params) -> Params:
    """Which parameters weight decay acts on: all but BN parameters and biases, by themselves or in rows."""
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


@flax.struct.dataclass
class Rows:
    """Parameters of equal levels: of vectors [levels, N], or of one level, [N].

    Attributes:
        vectors: the parameters.
        layout: of the parameters of one level.
    """

    vectors: Vectors
    layout: Layout = flax.struct.field(pytree_node=False)

    def unpack(self) -> Params:
        """The parameters of one level, or of all, stacked on a leading axis."""
        return self.layout.unpack(self.vectors)


class Packing:
    """The two vectors of a supernet's parameters.

    Args:
        params: of the network, or their shapes.
    """

    def __init__(self, params: Params):
        one_level = {
            stage: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), parts[LOOPED])
            for stage, parts in params.items()
            if LOOPED in parts
        }
        self._level = {stage: Layout.of(shapes) for stage, shapes in one_level.items()}
        self._whole = Layout.of(jax.eval_shape(self._in_rows, params))

    def _in_rows(self, params):
        rows = {stage: layout.pack(params[stage][LOOPED]) for stage, layout in self._level.items()}
        return self._with_looped(params, rows)

    @staticmethod
    def _with_looped(params, looped):
        return {**params, **{stage: {**params[stage], LOOPED: value} for stage, value in looped.items()}}

    def pack(self, params: Params) -> Vectors:
        """The vectors of a tree of parameters."""
        return self._whole.pack(self._in_rows(params))

    def unpack(self, vectors: Vectors) -> Params:
        """The tree of parameters."""
        params = self._whole.unpack(vectors)
        looped = {stage: layout.unpack(params[stage][LOOPED]) for stage, layout in self._level.items()}
        return self._with_looped(params, looped)

    def unpack_to_rows(self, vectors: Vectors) -> Params:
        """What a network can be applied to as well: the tree, in which looped levels are `Rows`."""
        params = self._whole.unpack(vectors)
        looped = {stage: {ROWS: Rows(params[stage][LOOPED], layout)} for stage, layout in self._level.items()}
        return self._with_looped(params, looped)
