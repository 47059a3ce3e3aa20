"""Recomputing the statistics of batch norm for several traced subnets in one program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.choices import Choices, of_each
from ofav2_jax.model.packing import Params
from ofav2_jax.model.subnet import Subnet
from ofav2_jax.model.supernet import SuperNet, neutral_statistics
from ofav2_jax.ops.backend import one_at_a_time
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS
from ofav2_jax.settings.recipe import Augmentation, Evaluation

# Keeps the random numbers drawn here apart from those of all other uses of a run's seed.
_TAG = 0x5EED


def recalibration_indices(dataset: Dataset, evaluation: Evaluation, seed: int) -> np.ndarray:
    """Chooses the training images from which BN statistics are recomputed.

    Args:
        dataset: the data set.
        evaluation: gives the number of images and the batch size.
        seed: seed of the choice.

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

    The devices share the batches out among themselves, each of them whole: the first batch to the first device, the
    second to the second one, and so on.

    Args:
        net: the supernet, with `axis_name` None.
        dataset: the data set whose training images are used.
        evaluation: gives the number of images and the batch size.
        augmentation: augmentation of training images.
        programs: compiles programs.
        seed: the run's seed.

    Attributes:
        indices: the images that are used, int32 [batches, batch size].
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
        # [devices, batches per device, batch size]; if the devices do not get the same number, the last ones get
        # batches that do not count.
        num_devices = len(programs.devices)
        places = np.arange(-(-len(self.indices) // num_devices) * num_devices).reshape(-1, num_devices).T
        self._is_batch = programs.shard(places < len(self.indices))
        self._places = programs.shard(places.astype(np.int32))
        self._images = programs.shard(dataset.images[self.indices[places % len(self.indices)]])
        self._key = jax.random.fold_in(jax.random.key(seed), _TAG)

    def __call__(self, params: Params, choices: Choices, count: jax.Array, resolution: int) -> dict[str, Any]:
        """Computes the statistics of S subnets.

        Args:
            params: the supernet's parameters, replicated.
            choices: the choices of the S subnets, replicated.
            count: int32 scalar, how many of the subnets are computed where they run one after another, replicated.
            resolution: one of the run's resolutions, pixels.

        Returns:
            `batch_stats`. Where subnets run one after another, its entries have a leading axis [S]; else they are
            those of S traced subnets: [S, C], or [C] before the first choice.
        """
        name = f"recalibrate {choices.num_subnets}"
        batches = self._places, self._is_batch, self._images
        return self._programs.run(name, resolution, self._program, params, choices, count, batches, self._key)

    def of_subnet(self, params: Params, subnet: Subnet, resolution: int) -> dict[str, Any]:
        """Computes the statistics of one subnet, in a program that contains this subnet and nothing else.

        Args:
            params: the supernet's parameters, replicated.
            subnet: the subnet, with which the statistics of all exits up to its height are computed.
            resolution: height and width of the images after augmentation, pixels.

        Returns:
            `batch_stats` with entries [C]; those of what the subnet does not contain are mean 0 and variance 1.
        """
        # Layers that are not part of a static subnet keep the statistics that they are given.
        neutral = neutral_statistics(self._net)

        def function(params, neutral, batches, key):
            return self._mean({"params": params, "batch_stats": neutral}, subnet, batches, key, resolution)

        program = self._programs.pmap(function, (None, None, 0, None), None)
        batches = self._places, self._is_batch, self._images
        name = f"recalibrate {subnet} at {resolution}"
        replicated = self._programs.replicate(neutral)
        return self._programs.run_single(name, program, params, replicated, batches, self._key)

    def _program(self, resolution):
        def function(params, choices, count, batches, key):
            variables = {"params": params}
            if not one_at_a_time():
                return self._mean(variables, choices, batches, key, resolution)
            return of_each(lambda subnet, _: self._mean(variables, subnet, batches, key, resolution), choices, count)

        return self._programs.pmap(function, (None, None, None, 0, None), None)

    def _mean(self, variables, choices, batches, key, resolution):
        """The mean of the statistics over the batches of all devices; the arguments are those of one device."""

        def statistics(batch):
            index, is_batch, images = batch
            keys = jax.random.split(jax.random.fold_in(key, index), len(images))
            images = augment.train_images(images, keys, resolution, self._augmentation, self._normalisation)
            _, updated = self._net.apply(
                variables, images, choices, train=True, all_exits=True, mutable=["batch_stats"]
            )
            if self._places.size == len(self.indices):
                return updated["batch_stats"]
            return jax.tree.map(lambda v: jnp.where(is_batch, v, 0), updated["batch_stats"])

        def add_batch(total, batch):
            return jax.tree.map(jnp.add, total, statistics(batch)), None

        shapes = jax.eval_shape(statistics, jax.tree.map(lambda v: v[0], batches))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total = lax.scan(add_batch, zeros, batches)[0]
        if len(self._programs.devices) > 1:
            total = lax.psum(total, AXIS)
        return jax.tree.map(lambda v: v / len(self.indices), total)
