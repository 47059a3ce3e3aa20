"""A stage of the supernet: four levels, the first d of which are active."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ofav2_jax.model.blocks import Level
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.layers import SMALLER_KERNELS, smaller_kernels
from ofav2_jax.model.network import LEVELS_PER_STAGE, STAGES, Channels, NetworkSpec
from ofav2_jax.model.subnet import LevelChoice, Subnet
from ofav2_jax.ops.backend import backend, one_at_a_time
from ofav2_jax.ops.saved import remat

# The names of a stage's submodules: its first level, and the others, whose variables are stacked on a leading axis.
FIRST_LEVEL, STACKED_LEVELS = "level_1", "levels_2_to_4"

# A function from a stage's index, and one level's slice of the arrays under that stage's STACKED_LEVELS, to the
# parameters of the level.
UnpackLevel = Callable[[int, Any], Any]


class _CreatedLevel(Level):
    """A level that is called at initialisation only, to create its variables, with the maximal subnet's choices."""

    def __call__(self, x):
        return super().__call__(x, Subnet.uniform().at(0, 0), True)


class Stage(nn.Module):
    """Four levels, the first d of which are active, with dense skips (D) or without."""

    index: int
    spec: NetworkSpec
    channels: Channels
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        # The attributes have the names FIRST_LEVEL and STACKED_LEVELS, because Flax names variables after them.
        self.level_1 = Level(**self._level_shape(0))
        # Levels 2 to 4 have equal shapes, so that they can be the iterations of one loop.
        stacked = nn.vmap(
            _CreatedLevel,
            in_axes=None,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            axis_size=LEVELS_PER_STAGE - 1,
        )
        self.levels_2_to_4 = stacked(**self._level_shape(1))

    def _level_shape(self, level):
        stage = STAGES[self.index]
        return dict(
            parallel=self.spec.parallel,
            in_channels=self.channels.level_input(self.index, level),
            channels=self.channels.stages[self.index],
            stride=1 if level else stage.stride,
            activation=stage.activation,
            squeeze_excite=stage.squeeze_excite,
            residual=level > 0,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )

    @nn.nowrap
    def result(self, x: jax.Array) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the stage's output for an input `x`."""
        _, s, height, width, batch = x.shape
        stride = STAGES[self.index].stride
        shape = (self.channels.stages[self.index], s, -(-height // stride), -(-width // stride), batch)
        return jax.ShapeDtypeStruct(shape, self.dtype)

    def __call__(
        self, x: jax.Array, choices: Subnet | Choices, train: bool, unpack_level: UnpackLevel | None = None
    ) -> jax.Array:
        """The stage's output [C, S, H, W, B]; see `SuperNet.__call__` for the arguments."""
        first = self.level_1(x, choices.at(self.index, 0), train)
        if self.is_initializing():
            self.levels_2_to_4(first)
        static = isinstance(choices, Subnet)
        of_stage: Any = choices.depth
        depth = of_stage[self.index] if static else of_stage[:, self.index, None, None, None]
        levels = range(1, depth if static else LEVELS_PER_STAGE)
        stores = train and self.is_mutable_collection("batch_stats") and not self.is_initializing()
        module = Level(**self._level_shape(1), parent=None)

        def run_level(variables: Any, y: jax.Array, choice: LevelChoice) -> tuple[jax.Array, Any]:
            if unpack_level is not None:
                variables = {**variables, "params": unpack_level(self.index, variables["params"])}
            return module.apply(variables, y, choice, train, mutable=["batch_stats"] if stores else [])

        def body(carry, xs, choice):
            y, output = carry
            variables, level = xs
            y, stats = run_level(variables, _level_input(self.spec, level, y, first), choice)
            return (y, _stage_output(self.spec, level, depth, y, first, output)), stats

        variables = jax.tree.map(lambda v: v[: len(levels)], self.levels_2_to_4.variables)
        if not static and backend() == "gpu":
            variables = {**variables, SMALLER_KERNELS: self._smaller_kernels(variables["params"], unpack_level)}
        xs, start = (variables, jnp.arange(1, 1 + len(levels))), (first, first)
        # A GPU would launch kernels that only move slices of a loop's arrays; elsewhere a loop compiles in a third.
        unroll = len(levels) if backend() == "gpu" else 1
        of_levels = [choices.at(self.index, level) for level in levels] if static else []
        if not static:

            def traced(carry: Any, xs: Any) -> tuple[Any, Any]:
                return body(carry, xs, choices.at(self.index, xs[1]))

            def inactive(carry: Any, xs: Any) -> tuple[Any, Any]:
                stats = jax.eval_shape(traced, carry, xs)[1] if stores else {}
                return carry, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), stats)

            def skipping(carry: Any, xs: Any) -> tuple[Any, Any]:
                with jax.named_scope("if_level_is_active"):
                    return lax.cond(xs[1] < of_stage[0, self.index], remat(traced), inactive, carry, xs)

            skips = isinstance(choices, Choices) and choices.num_subnets == 1 and one_at_a_time()
            (_, output), stats = lax.scan(skipping if skips else remat(traced), start, xs, unroll=unroll)
        elif len(set(of_levels)) == 1:
            looped = remat(lambda carry, xs: body(carry, xs, of_levels[0]))
            (_, output), stats = lax.scan(looped, start, xs, unroll=unroll)
        else:
            (_, output), stats = _unrolled(body, start, xs, of_levels)
        if stores:
            self._store(stats["batch_stats"], len(levels))
        return output

    def _smaller_kernels(self, levels, unpack_level):
        """The smaller kernels of all stacked levels at once, where a GPU would launch products for each level."""
        if unpack_level is not None:
            levels = jax.vmap(functools.partial(unpack_level, self.index))(levels)
        depthwise = levels["inverted_bottleneck"]["depthwise"]
        kernels = jax.vmap(smaller_kernels)(*(depthwise[name] for name in ("kernel", "matrix_7to5", "matrix_5to3")))
        return {"inverted_bottleneck": {"depthwise": kernels}}

    def _store(self, stats, num_levels):
        if num_levels < LEVELS_PER_STAGE - 1:
            # The levels beyond a static subnet's depth keep the statistics that they have.
            old = self.levels_2_to_4.variables["batch_stats"]
            stats = jax.tree.map(lambda new, old: jnp.concatenate([new, old[num_levels:]]), stats, old)
        for name, values in stats.items():
            self.levels_2_to_4.put_variable("batch_stats", name, values)


# Dense skips, with y_i the output of level i (levels counted from 1): the fourth level reads y3 + y1, and the stage's
# output is y2, y3 + y1 or y4 + y1 + y2 for depth 2, 3 or 4. Below, levels are counted from 0, so that `first` is y1.


def _level_input(spec: NetworkSpec, level: Any, y: jax.Array, first: jax.Array) -> jax.Array:
    """The input of a level: the output `y` of the level before it, and the dense skip that ends there."""
    return y + first * (level == 3) if spec.dense_skips else y


def _stage_output(spec: NetworkSpec, level: Any, depth: Any, y: jax.Array, first: jax.Array, output: Any) -> jax.Array:
    """Updates the stage's output after a level.

    Args:
        spec: the network's spec.
        level: the level, from 1 (the second one) on; an int or a scalar array.
        depth: the stage's depth, an int or an array that broadcasts against `y`.
        y: output of that level.
        first: output of level 0.
        output: the stage's output after the level before. It no longer changes once the stage's depth is reached;
            until then it is y2, which the dense skip of the fourth level adds.
    """
    candidate = y + first * (level >= 2) + output * (level == 3) if spec.dense_skips else y
    return jnp.where((level == 1) | (depth == level + 1), candidate, output)


def _unrolled(body: Callable, start: Any, xs: Any, choices: Sequence[LevelChoice]) -> tuple[Any, Any]:
    """Does what `lax.scan` does, for iterations with different static choices, which cannot share a compiled body."""
    carry, results = start, []
    for i, choice in enumerate(choices):
        carry, result = body(carry, jax.tree.map(lambda v, i=i: v[i], xs), choice)
        results.append(result)
    return carry, jax.tree.map(lambda *arrays: jnp.stack(arrays), *results)
