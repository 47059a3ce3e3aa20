"""What one forward pass says of every set of exits of a trunk."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.evaluate.recalibrate import Recalibration
from ofav2_jax.model.choices import Choices, of_each
from ofav2_jax.model.design import exit_sets
from ofav2_jax.model.packing import Params
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.ops.backend import one_at_a_time
from ofav2_jax.runtime.feed import ImageFeed, prefetched
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS

# Indices of images, and a mask of those that count: int32 and bool [devices, b].
Batch = tuple[np.ndarray, np.ndarray]
# What a padded image belongs to, instead of to one of the two halves.
_NO_HALF = -1


@dataclasses.dataclass(frozen=True)
class ExitScores:
    """The scores of S trunks with every set of their exits.

    Attributes:
        exit_sets: the sets, stages in ascending order.
        halves: the correct predictions among the images at even and at odd places, int [2, sets, S].
        loss: mean cross-entropy of each single exit, float64 [exits, S].
        images: the number of images.
    """

    exit_sets: tuple[tuple[int, ...], ...]
    halves: np.ndarray
    loss: np.ndarray
    images: int

    @property
    def correct(self) -> np.ndarray:
        """The correct predictions among all images, int [sets, S]."""
        return self.halves.sum(0)

    @classmethod
    def concatenate(cls, parts: Sequence["ExitScores"]) -> "ExitScores":
        """The scores of all trunks of several, in their order."""
        halves, loss = (np.concatenate([getattr(part, name) for part in parts], -1) for name in ("halves", "loss"))
        return cls(parts[0].exit_sets, halves, loss, parts[0].images)


def batches_of(indices: np.ndarray, batch_size: int, num_devices: int) -> Iterator[Batch]:
    """Images in batches of one shape.

    Args:
        indices: the images, int [N].
        batch_size: images per batch over all devices, which is rounded up to a multiple of their number.
        num_devices: how many devices there are.

    Yields:
        Indices, int32 [devices, b], and a mask of those that count, bool [devices, b]; the last batch is padded.
    """
    size = -(-batch_size // num_devices) * num_devices
    for first in range(0, len(indices), size):
        batch = indices[first : first + size]
        counted = np.arange(size) < len(batch)
        batch = np.concatenate([batch, np.repeat(batch[:1], size - len(batch))])
        yield batch.reshape(num_devices, -1), counted.reshape(num_devices, -1)


class ExitCounter:
    """Runs trunks, and counts for every set of exits; the arguments are those of `Evaluator`, and its attributes."""

    def __init__(
        self,
        net: SuperNet,
        dataset: Dataset,
        feed: ImageFeed,
        programs: Programs,
        recalibration: Recalibration,
        resized: Mapping[int, int],
    ):
        self._net, self._normalisation = net, dataset.normalisation
        self._feed, self._programs, self._recalibration = feed, programs, recalibration
        self._resized = resized
        self._sets = tuple(exit_sets(net))
        stages = np.array(net.exit_stages) + 1
        # [sets, exits]
        self._members = np.array([np.isin(stages, each) for each in self._sets])

    def __call__(
        self, params: Params, trunks: Sequence[Subnet], num_counted: int, resolution: int, batches: Sequence[Batch]
    ) -> ExitScores:
        """The scores of the first `num_counted` trunks; see `Evaluator.score_exits`."""
        choices, count = self._programs.replicate((Choices.stack(trunks), np.int32(num_counted)))
        stats = self._recalibration(params, choices, count, resolution)
        seen, found = 0, []
        feed = prefetched(self._feed, (indices for indices, _ in batches))
        for (images, places), (_, counted) in zip(feed, batches):
            order = seen + np.cumsum(counted.ravel()).reshape(counted.shape) - 1
            half = np.where(counted, order % 2, _NO_HALF).astype(np.int32)
            seen += int(counted.sum())
            axes = (None, None, None, None, images.mapped_axis, 0, 0)
            of_batch = self._programs.run(
                f"exits {choices.num_subnets}",
                resolution,
                functools.partial(self._program, axes),
                *(params, stats, choices, count, images, places, self._programs.shard(half)),
            )
            found.append(of_batch)
        halves, loss = (np.asarray(sum(each))[..., :num_counted] for each in zip(*found))
        return ExitScores(self._sets, halves, loss.astype(np.float64) / seen, seen)

    def _program(self, in_axes, resolution):
        def function(params, stats, choices, count, images, indices, half):
            pixels, labels = images.batch(indices)
            pixels = augment.eval_images(pixels, resolution, self._normalisation, self._resized[resolution])

            def counts(choices, stats):
                variables = {"params": params, "batch_stats": stats}
                return self._count(self._net.apply(variables, pixels, choices, all_exits=True), labels, half)

            def of_one(choices, place):
                return jax.tree.map(lambda v: v[..., 0], counts(choices, jax.tree.map(lambda v: v[place], stats)))

            if one_at_a_time():
                found = jax.tree.map(lambda v: jnp.moveaxis(v, 0, -1), of_each(of_one, choices, count))
            else:
                found = counts(choices, stats)
            return lax.psum(found, AXIS)

        return self._programs.pmap(function, in_axes, None)

    def _count(self, logits, labels, half):
        """Correct predictions, int [2, sets, S], and sums of the cross-entropy, float32 [exits, S], of one batch."""
        is_in_half = half == np.arange(2)[:, None]

        def correct(members):
            # The sum ranks as the mean does. Exits that are not in the set are left out even where they are NaN.
            total = jnp.where(members[:, None, None, None], logits, 0).sum(0)
            return jnp.sum((label_rank(total, labels) < 1) & is_in_half[:, None], -1)

        log_shares = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[None, None, :, None], -1)[..., 0]
        loss = -jnp.sum(jnp.where(half != _NO_HALF, log_shares, 0), -1)
        return jnp.moveaxis(lax.map(correct, jnp.asarray(self._members)), 0, 1), loss


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of classes that rank before the true one; classes with equal logits rank in their order.

    Args:
        logits: float [..., B, classes].
        labels: int [B].

    Returns:
        int [..., B]; the number of classes where a logit is not finite, so that no NaN counts as correct.
    """
    of_label = jnp.take_along_axis(logits, labels[(None,) * (logits.ndim - 2)][..., None], axis=-1)
    before = jnp.arange(logits.shape[-1]) < labels[:, None]
    rank = jnp.sum((logits > of_label) | ((logits == of_label) & before), axis=-1)
    return jnp.where(jnp.isfinite(logits).all(-1), rank, logits.shape[-1])
