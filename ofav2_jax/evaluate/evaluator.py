"""Testing subnets: batch-norm recalibration, then top-1 and top-5 on every image of a split, each counted once.

Subnets that differ in height only share a trunk: one recalibration and one forward pass score all their exits,
and the ensemble of the exits with them.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.model.channels import count
from ofav2_jax.model.space import Choices, SearchSpace, Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.runtime.feed import AXIS, ImageFeed, replicate, share
from ofav2_jax.train.step import Params, Steps

ENSEMBLE = "ensemble"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How subnets are tested. Hashable.

    Attributes:
        recalibration_images: training images from which BN statistics are recomputed (at most all there are).
        recalibration_batch_size: their batch size; it does not depend on the number of devices.
        batch_size: images per forward pass when testing, over all devices.
        subnets_per_pass: trunks tested side by side.
    """

    recalibration_images: int = 1000
    recalibration_batch_size: int = 100
    batch_size: int = 1000
    subnets_per_pass: int = 4


@dataclasses.dataclass(frozen=True)
class Score:
    """One tested subnet.

    Attributes:
        subnet: which; its height is ignored where `ensemble`.
        resolution: of the images.
        ensemble: whether the weighted ensemble of all exits was tested.
        top1, top5: in %.
        macs, params: of the standalone subnet.
    """

    subnet: Subnet
    resolution: int
    ensemble: bool
    top1: float
    top5: float
    macs: int
    params: int

    def as_json(self) -> dict[str, object]:
        """A flat record; a choice that is the same everywhere is one number."""

        def short(values):
            return values if isinstance(values, int) else values[0] if len(set(values)) == 1 else list(values)

        choices = {name: short(getattr(self.subnet, name)) for name in ("kernel", "expand", "depth", "level", "height")}
        if self.ensemble:
            choices["height"] = ENSEMBLE
        return {
            "resolution": self.resolution,
            **choices,
            "top1": self.top1,
            "top5": self.top5,
            "macs": self.macs,
            "params": self.params,
        }


class Evaluator:
    """Tests subnets of one supernet on one data set.

    Args:
        steps: network, recipe and devices of the run.
        evaluation: how to test.
        dataset: what on.
        feed: gets its images to the devices.
        seed: of the choice and augmentation of the recalibration images.

    Attributes:
        recalibration_indices: which images BN statistics are recomputed from, int32 [batches, batch size].
    """

    def __init__(self, steps: Steps, evaluation: Evaluation, dataset: Dataset, feed: ImageFeed, seed: int):
        self._steps = steps
        # Recalibration runs on every device by itself: it takes a tenth of the time of a test, and batches of
        # 100 cannot be spread evenly over any number of devices.
        self._net: SuperNet = steps.net.clone(axis_name=None)
        self._evaluation = evaluation
        self._dataset = dataset
        self._feed = feed
        train = dataset.splits["train"]
        size = evaluation.recalibration_batch_size
        wanted = min(evaluation.recalibration_images, len(train)) // size * size
        if not wanted:
            raise ValueError(
                f"evaluation.recalibration_batch_size={size} is not allowed: there are "
                f"{min(evaluation.recalibration_images, len(train))} images to recalibrate with"
            )
        chosen = np.random.default_rng([seed, 0x5EED]).permutation(train)[:wanted]
        self.recalibration_indices = chosen.reshape(-1, size).astype(np.int32)
        self._recalibration_images = replicate(dataset.images[self.recalibration_indices], steps.devices)
        self._key = jax.random.fold_in(jax.random.key(seed), 0x5EED)

    def score(
        self, params: Params, subnets: Iterable[Subnet], resolution: int, split: str, ensemble: bool = False
    ) -> list[Score]:
        """Tests subnets at one resolution.

        Args:
            params: of the supernet.
            subnets: which.
            resolution: of the images.
            split: "validation" or "test".
            ensemble: test the ensemble of each subnet's exits instead of its own exit.

        Returns:
            One Score each, in the order of `subnets`.
        """
        subnets = list(subnets)
        trunks = list(dict.fromkeys(dataclasses.replace(s, height=Subnet.uniform().height) for s in subnets))
        correct = {}
        per_pass = self._evaluation.subnets_per_pass
        for first in range(0, len(trunks), per_pass):
            group = trunks[first : first + per_pass]
            # A last group that is not full is filled up, so that one program serves all; the rest is discarded.
            top1, top5 = self._correct(params, group + group[-1:] * (per_pass - len(group)), resolution, split)
            for i, trunk in enumerate(group):
                correct[trunk] = top1[:, i], top5[:, i]
        exits = list(self._net.exit_stages)
        percent = 100 / len(self._dataset.splits[split])
        scores = []
        for subnet in subnets:
            trunk = dataclasses.replace(subnet, height=Subnet.uniform().height)
            # After the exits, the ensemble.
            row = len(exits) if ensemble else exits.index(subnet.height - 1)
            in_top1, in_top5 = (float(counts[row]) * percent for counts in correct[trunk])
            cost = count(self._net, subnet, resolution, all_exits=ensemble and self._net.spec.early_exits)
            scores.append(Score(subnet, resolution, ensemble, in_top1, in_top5, cost.macs, cost.params))
        return scores

    def _correct(
        self, params: Params, trunks: Sequence[Subnet], resolution: int, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correct answers of every exit, then of the ensemble: two ints [exits + 1, S]."""
        steps, choices = self._steps, Choices.stack(trunks)
        choices = replicate(choices, steps.devices)
        stats = steps.programs.run(
            f"recalibrate {len(trunks)}",
            resolution,
            self._recalibrate,
            *(params, choices, self._recalibration_images, self._key),
        )
        total = 0
        for indices, counted in self.batches(split):
            data, places = self._feed.batch(indices)
            axes = (None, None, None, data.mapped_axis, 0, 0)
            total += steps.programs.run(
                f"test {len(trunks)}",
                resolution,
                functools.partial(self._test, axes),
                *(params, stats, choices, data, places, share(counted, steps.devices)),
            )
        return tuple(np.asarray(total))

    def batches(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The images of a split in batches of one shape.

        Yields:
            Indices, int32 [devices, b], and which of them count, bool: the last batch is filled up.
        """
        indices = self._dataset.splits[split].astype(np.int32)
        num_devices = len(self._steps.devices)
        size = -(-self._evaluation.batch_size // num_devices) * num_devices
        for first in range(0, len(indices), size):
            batch = indices[first : first + size]
            counted = np.arange(size) < len(batch)
            batch = np.concatenate([batch, np.repeat(batch[:1], size - len(batch))])
            yield batch.reshape(num_devices, -1), counted.reshape(num_devices, -1)

    def _recalibrate(self, resolution):
        net, recipe, normalisation = self._net, self._steps.recipe, self._dataset.normalisation

        def function(params, choices, batches, key):
            def statistics(batch):
                index, images = batch
                keys = jax.random.split(jax.random.fold_in(key, index), len(images))
                images = augment.train_images(images, keys, resolution, recipe.augmentation, normalisation)
                _, updated = net.apply(
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

    def _test(self, in_axes, resolution):
        net, steps, normalisation = self._net, self._steps, self._dataset.normalisation

        def function(params, stats, choices, data, indices, counted):
            images = augment.eval_images(data.images[indices], resolution, normalisation)
            logits = net.apply({"params": params, "batch_stats": stats}, images, choices, all_exits=True)
            logits = jnp.concatenate([logits, steps.ensemble(logits)[None]])
            rank = label_rank(logits, data.labels[indices])
            return lax.psum(jnp.stack([jnp.sum((rank < k) & counted, axis=-1) for k in (1, 5)]), AXIS)

        return steps.pmap(function, in_axes, None)


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the true one; classes with equal logits come in their order.

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


def uniform_scores(
    evaluator: Evaluator, params: Params, space: SearchSpace, resolutions: Sequence[int], ensemble: bool
) -> list[Score]:
    """Tests every combination of the values in `space`, each held constant over the network, at each resolution.

    Args:
        evaluator: what tests.
        params: of the supernet.
        space: what is unlocked.
        resolutions: of the images.
        ensemble: score the maximal network by the ensemble of its exits (phase full).
    """
    subnets = [space.maximal()] if ensemble else list(space.uniform_subnets())
    return [
        score for resolution in resolutions for score in evaluator.score(params, subnets, resolution, "test", ensemble)
    ]
