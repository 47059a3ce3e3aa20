"""How the images of a data set get to the devices: resident on all of them, or streamed batch by batch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

    An image is one row. A TPU would lay images [N, H, W, 3] out anew in every step, the whole data set, before it can
    gather a few of them; rows it gathers as they lie.

    Attributes:
        rows: uint8 [N, H * W * 3], replicated on every device; or [devices, N, H * W * 3], sharded over the devices.
        labels: int32 [N] or [devices, N], likewise.
        shape: of one image, (H, W, 3).
    """

    rows: Any
    labels: Any
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, images: Any, labels: Any) -> "Images":
        """Images [N, H, W, 3] as rows; no copy is made."""
        return cls(images.reshape(len(images), -1), labels, images.shape[1:])

    def batch(self, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The images [B, H, W, 3] and the labels [B] at these places, int [B]."""
        return self.rows[places].reshape(-1, *self.shape), self.labels[places]

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
        images, labels, self._subset = dataset.images, dataset.labels, dataset.subset
        if self._subset is not None:
            # What is not used would take memory on the devices too.
            images, labels = images[self._subset], labels[self._subset]
        self._data = replicate(Images.of(images, labels), devices)

    def batch(self, indices: np.ndarray) -> tuple[Images, jax.Array]:
        """See `ImageFeed`."""
        if self._subset is not None:
            indices = np.searchsorted(self._subset, indices).astype(np.int32)
        return self._data, shard(indices, self._devices)


class StreamedImages:
    """Images that stay on the host: for each batch, each process reads those of its own devices."""

    def __init__(self, dataset: Dataset, devices: Sequence[jax.Device]):
        self._devices = devices
        self._all = Images.of(dataset.images, dataset.labels)

    def batch(self, indices: np.ndarray) -> tuple[Images, jax.Array]:
        """See `ImageFeed`."""
        sharding = sharding_over(self._devices, AXIS)

        def read(source: np.ndarray) -> jax.Array:
            def rows(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                return source[indices[index[0]]]

            return jax.make_array_from_callback((*indices.shape, *source.shape[1:]), sharding, rows)

        places = np.broadcast_to(np.arange(indices.shape[1], dtype=np.int32), indices.shape)
        images = Images(read(self._all.rows), read(self._all.labels), self._all.shape)
        return images, shard(places, self._devices)


def prefetched(feed: ImageFeed, batches: Iterable[np.ndarray]) -> Iterator[tuple[Images, jax.Array]]:
    """`feed.batch` of each batch's indices, in their order; while one is in use, a thread makes the next available."""
    with ThreadPoolExecutor(1) as pool:
        ahead: list[Future[tuple[Images, jax.Array]]] = []
        for indices in batches:
            ahead.append(pool.submit(feed.batch, indices))
            if len(ahead) > 1:
                yield ahead.pop(0).result()
        for last in ahead:
            yield last.result()


def image_feed(dataset: Dataset, devices: Sequence[jax.Device]) -> ImageFeed:
    """Resident images, or streamed ones, see `must_stream`."""
    return (StreamedImages if must_stream(dataset, devices) else ResidentImages)(dataset, devices)


def must_stream(dataset: Dataset, devices: Sequence[jax.Device]) -> bool:
    """Whether images stay on the host: there are several processes, or a device has no room for all images."""
    if jax.process_count() > 1:
        return True
    size = dataset.num_images * dataset.images[0].nbytes
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        # JAX has no memory statistics for a CPU, whose devices share the memory of the machine.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(devices)
    return size > _FOR_IMAGES * memory
