"""Programs and images as descriptions: what a run would compute is traced with shapes, and nothing is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax.data.dataset import Dataset
from ofav2_jax.runtime.feed import Images
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS, sharding_over


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class DescribedPrograms(Programs):
    """Programs that are traced where they would run; their results are zeros.

    The objects of a run that are made with them, see `run.assembly.assemble`, call them with shapes in the places of
    arrays. So the programs of the run become known without a second description of their arguments.

    Args:
        like: the programs of the run; its devices need not be there.
        take: is given the name, the resolution or None, and a function that traces the program and returns it, once for
            each program. What it returns is what the program returned if it ran: a tree of shapes.
    """

    def __init__(self, like: Programs, take: Callable[[str, int | None, Callable[[], jax.stages.Lowered]], Any]):
        super().__init__(like.devices, like.resolutions)
        self._like = like
        self._take = take
        self._results: dict[tuple[str, int | None], Any] = {}

    def replicate(self, tree: Any) -> Any:
        """Shapes of replicated arrays."""
        return jax.tree.map(self._described, tree)

    def shard(self, array: np.ndarray) -> Any:
        """The shape of an array that is sharded over the devices."""
        return self._described(array, AXIS)

    def _described(self, x: Any, *axes: str) -> jax.ShapeDtypeStruct:
        if isinstance(x, jax.ShapeDtypeStruct) and x.sharding is not None:
            return x
        # Of a typed PRNG key `result_type` gives no dtype.
        dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
        return jax.ShapeDtypeStruct(jnp.shape(x), dtype, sharding=sharding_over(self.devices, *axes))

    def _run(self, name, resolution, variants, make, args, donate):
        described = jax.tree.map(self._described, args)

        def traced(variant):
            return self._like.lower(f"{name} at {variant}", make(variant), donate, described)

        for variant in variants:
            # A test runs a program for each batch of its images, which is traced for the first.
            if (name, variant) not in self._results:
                self._results[name, variant] = self._take(name, variant, lambda v=variant: traced(v))
        return jax.tree.map(lambda x: zeros(x.shape, x.dtype), self._results[name, resolution])


class DescribedImages:
    """The images of a data set, as shapes: of the whole set on every device, or, if `streamed`, of a batch.

    See `feed.ResidentImages` and `feed.StreamedImages`.
    """

    def __init__(self, dataset: Dataset, programs: DescribedPrograms, streamed: bool):
        self._programs = programs
        shape = dataset.images.shape[1:]
        self._all = Images.of(zeros((dataset.num_images, *shape), np.uint8), zeros((dataset.num_images,), np.int32))
        self._streamed = streamed

    def batch(self, indices: np.ndarray) -> tuple[Images, Any]:
        """See `ImageFeed`."""
        if not self._streamed:
            return self._programs.replicate(self._all), self._programs.shard(indices)
        batch = jax.tree.map(lambda v: self._programs.shard(zeros((*indices.shape, *v.shape[1:]), v.dtype)), self._all)
        return batch, self._programs.shard(indices)
