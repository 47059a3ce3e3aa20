"""Recomputing the statistics of batch norm, for several traced subnets in one program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.packing import Params
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.recipe import Augmentation, Evaluation

# Keeps this use of a run's seed apart from all others.
_TAG = 0x5EED


def recalibration_indices(dataset: Dataset, evaluation: Evaluation, seed: int) -> np.ndarray:
    """Chooses the training images that BN statistics are recomputed from.

    Args:
        dataset: whose training images.
        evaluation: how many, and in which batches.
        seed: of the choice.

    Returns:
        int32 [batches, batch size].

    Raises:
        ValueError: if there are too few images for a single batch.
    """
    train, size = dataset.splits["train"], evaluation.recalibration_batch_size
    available = min(evaluation.recalibration_images, len(train))
    if available < size:
        raise ValueError(
            f"evaluation.recalibration_batch_size={size} is not allowed: there are {available} images to "
            "recalibrate with"
        )
    chosen = np.random.default_rng([seed, _TAG]).permutation(train)[: available // size * size]
    return chosen.reshape(-1, size).astype(np.int32)


class Recalibration:
    """Recomputes BN statistics with the same images, crops and flips for every subnet.

    It runs on every device by itself: it takes a tenth of the time of a test, and batches of 100 cannot be sharded
    evenly over any number of devices.

    Args:
        net: the supernet, without an axis of devices.
        dataset: whose training images are used.
        evaluation: how many.
        augmentation: of training images.
        programs: compiles.
        seed: of the run.

    Attributes:
        indices: which images are used, int32 [batches, batch size].
    """

    def __init__(
        self,
        net: SuperNet,
        dataset: Dataset,
        evaluation: Evaluation,
        augmentation: Augmentation,
        programs: Programs,
        seed: int,
    ):
        self.indices = recalibration_indices(dataset, evaluation, seed)
        self._net = net
        self._augmentation = augmentation
        self._normalisation = dataset.normalisation
        self._programs = programs
        self._images = replicate(dataset.images[self.indices], programs.devices)
        self._key = jax.random.fold_in(jax.random.key(seed), _TAG)

    def __call__(self, params: Params, choices: Choices, resolution: int) -> dict[str, Any]:
        """The statistics of S subnets.

        Args:
            params: of the supernet, replicated.
            choices: of the S subnets, replicated.
            resolution: of the images, one of the run's.

        Returns:
            `batch_stats` whose entries are [S, C], or [C] before the first choice.
        """
        name = f"recalibrate {choices.num_subnets}"
        return self._programs.run(name, resolution, self._program, params, choices, self._images, self._key)

    def _program(self, resolution):
        def function(params, choices, batches, key):
            def statistics(batch):
                index, images = batch
                keys = jax.random.split(jax.random.fold_in(key, index), len(images))
                images = augment.train_images(images, keys, resolution, self._augmentation, self._normalisation)
                _, updated = self._net.apply(
                    {"params": params}, images, choices, train=True, all_exits=True, mutable=["batch_stats"]
                )
                return updated["batch_stats"]

            def add_batch(total, batch):
                return jax.tree.map(jnp.add, total, statistics(batch)), None

            numbered = jnp.arange(len(batches)), batches
            shapes = jax.eval_shape(statistics, jax.tree.map(lambda v: v[0], numbered))
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            total, _ = lax.scan(add_batch, zeros, numbered)
            return jax.tree.map(lambda v: v / len(batches), total)

        return function
