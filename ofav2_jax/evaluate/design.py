"""Evaluating one design, in programs that contain it and nothing else."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.evaluate.evaluator import Evaluator, Score, label_rank
from ofav2_jax.model.cost import count
from ofav2_jax.model.design import Design
from ofav2_jax.model.packing import Params
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.runtime.feed import ImageFeed, prefetched
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS


class DesignEvaluator:
    """Evaluates a design, whose logits are the mean of those of its exits.

    Args:
        net: the supernet.
        design: what is evaluated.
        dataset: the images.
        feed: makes them available to the devices.
        programs: compiles programs and maps them over the devices.
        evaluator: gives batches of images and the size to which they are resized, and recalibrates.
    """

    def __init__(
        self,
        net: SuperNet,
        design: Design,
        dataset: Dataset,
        feed: ImageFeed,
        programs: Programs,
        evaluator: Evaluator,
    ):
        self._net = net.clone(axis_name=None)
        self._design = design
        self._dataset = dataset
        self._feed = feed
        self._programs = programs
        self._evaluator = evaluator
        self._cost = count(self._net, design.subnet, design.resolution, exits=design.exits)

    def score(self, params: Params, split: str) -> Score:
        """Recomputes the statistics of batch norm, as `Evaluator` does, and counts every image of a split once.

        Args:
            params: the supernet's parameters, as a tree.
            split: "validation" or "test".
        """
        design = self._design
        params = self._programs.replicate(params)
        stats = self._evaluator.recalibration.of_subnet(params, design.subnet, design.resolution)
        total = 0
        batches = list(self._evaluator.batches(split))
        feed = prefetched(self._feed, (indices for indices, _ in batches))
        for (images, places), (_, counted) in zip(feed, batches):
            program = self._programs.pmap(self._correct, (None, None, images.mapped_axis, 0, 0), None)
            shared = self._programs.shard(counted)
            total += self._programs.run_single(f"test {design}", program, params, stats, images, places, shared)
        of_class = self._dataset.class_counts(split)
        counts = np.asarray(total)
        top1, top5 = counts[:-1], counts[-1]
        present = of_class > 0
        return Score(
            subnet=design.subnet,
            resolution=design.resolution,
            ensemble=False,
            top1=float(100 * top1.sum() / of_class.sum()),
            top5=float(100 * top5 / of_class.sum()),
            mean_class_top1=float(100 * np.mean(top1[present] / of_class[present])),
            macs=self._cost.macs,
            params=self._cost.params,
        )

    def _correct(self, params, stats, images, indices, counted):
        """The correct predictions of one batch, int [classes + 1]: top-1 class by class, then top-5."""
        pixels, labels = images.batch(indices)
        resolution = self._design.resolution
        resized = self._evaluator.resized[resolution]
        pixels = augment.eval_images(pixels, resolution, self._dataset.normalisation, resized)
        variables = {"params": params, "batch_stats": stats}
        logits = self._net.apply(variables, pixels, self._design.subnet, all_exits=self._design.exits)
        rank = label_rank(jnp.mean(logits, 0), labels)
        top1 = jnp.zeros(logits.shape[-1], jnp.int32).at[labels].add((rank < 1) & counted)
        return lax.psum(jnp.append(top1, jnp.sum((rank < 5) & counted, dtype=jnp.int32)), AXIS)
