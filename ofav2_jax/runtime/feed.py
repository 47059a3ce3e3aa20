"""How the images of a data set get to the devices: resident on all of them, or streamed batch by batch."""

from collections.abc import Sequence
from typing import Any, Protocol

import flax.struct
import jax
import numpy as np

from ofav2_jax.data.dataset import Dataset
from ofav2_jax.runtime.sharding import AXIS, replicate, shard, sharding_over

# The fraction of a device's memory that the images of a data set may take.
_FOR_IMAGES = 0.25


@flax.struct.dataclass
class Images:
    """The images and labels from which a program reads a batch.

    Attributes:
        images: uint8 [N, H, W, 3], replicated on every device; or [devices, N, H, W, 3], sharded over the devices.
        labels: int32 [N] or [devices, N], likewise.
    """

    images: Any
    labels: Any

    @property
    def mapped_axis(self) -> int | None:
        """The axis that is sharded over the devices, if any."""
        return None if self.labels.ndim == 1 else 0


class ImageFeed(Protocol):
    """Makes the images of a data set available to the devices."""

    def batch(self, indices: np.ndarray) -> tuple[Images, jax.Array]:
        """Makes the images of a batch available.

        Args:
            indices: int32 [devices, images per device], indices of the batch's images in the data set.

        Returns:
            Images, and the positions in them of each device's images: int32 of the shape of `indices`, sharded.
        """


class ResidentImages:
    """The whole data set on every device: a batch is a list of indices."""

    def __init__(self, dataset: Dataset, devices: Sequence[jax.Device]):
        self._devices = devices
        self._data = replicate(Images(dataset.images, dataset.labels), devices)

    def batch(self, indices: np.ndarray) -> tuple[Images, jax.Array]:
        """See `ImageFeed`."""
        return self._data, shard(indices, self._devices)


class StreamedImages:
    """Images that stay on the host: for each batch, each process reads those of its own devices."""

    def __init__(self, dataset: Dataset, devices: Sequence[jax.Device]):
        self._devices = devices
        self._dataset = dataset

    def batch(self, indices: np.ndarray) -> tuple[Images, jax.Array]:
        """See `ImageFeed`."""
        sharding = sharding_over(self._devices, AXIS)

        def read(source: np.ndarray) -> jax.Array:
            def rows(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                return source[indices[index[0]]]

            return jax.make_array_from_callback((*indices.shape, *source.shape[1:]), sharding, rows)

        places = np.broadcast_to(np.arange(indices.shape[1], dtype=np.int32), indices.shape)
        images = Images(read(self._dataset.images), read(self._dataset.labels))
        return images, shard(places, self._devices)


def image_feed(dataset: Dataset, devices: Sequence[jax.Device]) -> ImageFeed:
    """Resident images if there is a single process and each device has room for all of them, else streamed ones."""
    if jax.process_count() > 1:
        return StreamedImages(dataset, devices)
    # JAX has no memory statistics for a CPU.
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", float("inf"))
    return (ResidentImages if dataset.images.nbytes <= _FOR_IMAGES * memory else StreamedImages)(dataset, devices)
