"""Evaluating subnets: batch-norm recalibration, then top-1 and top-5 on every image of a split, each counted once.

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

from ofav2_jax.checks import plain, require_among, shown
from ofav2_jax.data import augment
from ofav2_jax.data.dataset import Dataset
from ofav2_jax.evaluate.exits import Batch, ExitCounter, ExitScores, batches_of, label_rank
from ofav2_jax.evaluate.recalibrate import Recalibration
from ofav2_jax.model.choices import Choices, of_each
from ofav2_jax.model.cost import count
from ofav2_jax.model.network import CHOICES
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.subnet import ENSEMBLE, Subnet
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.ops.backend import one_at_a_time
from ofav2_jax.ops.ensemble import weighted_sum
from ofav2_jax.runtime.feed import ImageFeed, prefetched
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import AXIS
from ofav2_jax.settings.exit_weights import ensemble_weights
from ofav2_jax.settings.settings import Settings

_MAX_HEIGHT = CHOICES["height"].values[0]


@dataclasses.dataclass(frozen=True)
class Score:
    """One evaluated subnet.

    Attributes:
        subnet: the subnet; its height is ignored if `ensemble`.
        resolution: height and width of the images, pixels.
        ensemble: whether the weighted ensemble of all exits was evaluated.
        top1, top5: accuracies in %.
        mean_class_top1: mean of the top-1 of each class, in %, over the classes that the split has images of. Unlike
            `top1` it does not hide a class of few images.
        macs, params: cost of the subnet by itself, see `cost.Cost`; with all its exits if `ensemble`.
    """

    subnet: Subnet
    resolution: int
    ensemble: bool
    top1: float
    top5: float
    mean_class_top1: float
    macs: int
    params: int

    def as_json(self) -> dict[str, object]:
        """A flat record; a choice with the same value in the whole network is one number."""
        choices: dict[str, object] = {**self.subnet.as_json()}
        if self.ensemble:
            choices["height"] = ENSEMBLE
        measured = {name: getattr(self, name) for name in ("top1", "top5", "mean_class_top1", "macs", "params")}
        return {"resolution": self.resolution, **choices, **measured}


class Evaluator:
    """Evaluates subnets of one supernet on one data set.

    Args:
        net: the supernet.
        settings: the run's settings, for evaluation, weights of the ensemble, augmentation, seed and resolutions.
        dataset: the images.
        feed: makes them available to the devices.
        programs: compiles programs and maps them over the devices.

    Attributes:
        recalibration: recomputes BN statistics.
        resized: by resolution, the size to which test images are resized before the centre crop, pixels.

    Raises:
        ValueError: if there are too few training images to recalibrate with.
    """

    def __init__(self, net: SuperNet, settings: Settings, dataset: Dataset, feed: ImageFeed, programs: Programs):
        self._net = net.clone(axis_name=None)
        self._settings = settings
        self._dataset = dataset
        self._feed = feed
        self._programs = programs
        self._output_weights = ensemble_weights(settings.recipe.exit_weights, len(net.exit_stages))[1]
        recipe, evaluation = settings.recipe, settings.evaluation
        common = (self._net, dataset, evaluation, recipe.augmentation, programs, settings.seed)
        self.recalibration = Recalibration(*common)
        own_size = dataset.images.shape[1] if evaluation.interpolate else None
        self.resized = {each: augment.resized_size(each, own_size) for each in settings.resolutions}
        self._exits = ExitCounter(self._net, dataset, feed, programs, self.recalibration, self.resized)

    @property
    def seconds_compiling(self) -> float:
        """Seconds that were spent compiling so far."""
        return self._programs.seconds

    def score(
        self, params: Params, subnets: Iterable[Subnet], resolution: int, split: str, ensemble: bool = False
    ) -> list[Score]:
        """Evaluates subnets at one resolution.

        Args:
            params: the supernet's parameters, as a tree.
            subnets: the subnets.
            resolution: one of the run's resolutions, pixels.
            split: "validation" or "test".
            ensemble: evaluate the ensemble of all exits instead of each subnet's own exit.

        Returns:
            One Score for each subnet, in the order of `subnets`.

        Raises:
            ValueError: for a subnet that the network does not hold, a resolution that the run does not have, an
                unknown split, or `subnets` that are a single Subnet or str.
        """
        resolution = plain(resolution)
        require_among("split", split, tuple(self._dataset.splits))
        subnets = self._required(subnets, resolution)
        params = self._programs.replicate(params)
        trunks = list(dict.fromkeys(dataclasses.replace(s, height=_MAX_HEIGHT) for s in subnets))
        correct = {}
        # A single trunk, as in all of phase full, has a program of its own where the others would be computed in vain.
        is_single = len(trunks) == 1 and not one_at_a_time()
        per_pass = 1 if is_single else self._settings.evaluation.subnets_per_pass
        for group, padded in _passes(trunks, per_pass):
            top1, top5 = self._correct(params, padded, len(group), resolution, split)
            for i, trunk in enumerate(group):
                correct[trunk] = top1[..., i], top5[:, i]
        exits = list(self._net.exit_stages)
        of_class = self._dataset.class_counts(split)
        percent = 100 / of_class.sum()
        scores = []
        for subnet in subnets:
            # The row of the ensemble comes after those of the exits.
            row = len(exits) if ensemble else exits.index(subnet.height - 1)
            top1, top5 = (counts[..., row] for counts in correct[dataclasses.replace(subnet, height=_MAX_HEIGHT)])
            cost = count(self._net, subnet, resolution, all_exits=ensemble and self._net.spec.early_exits)
            scores.append(
                Score(
                    subnet=subnet,
                    resolution=resolution,
                    ensemble=ensemble,
                    top1=float(top1.sum() * percent),
                    top5=float(top5 * percent),
                    mean_class_top1=float(100 * np.mean(top1[of_class > 0] / of_class[of_class > 0])),
                    macs=cost.macs,
                    params=cost.params,
                )
            )
        return scores

    def _required(self, subnets, resolution):
        if isinstance(subnets, Subnet | str):
            raise ValueError(f"subnets={str(subnets)!r} is not allowed: it must be a list of Subnets")
        subnets, space = list(subnets), SearchSpace(self._net)
        for subnet in subnets:
            space.check(subnet)
        if resolution not in self._settings.resolutions:
            allowed = ", ".join(map(str, self._settings.resolutions))
            raise ValueError(f"resolution={shown(resolution)} is not allowed: the run's are {allowed}")
        return subnets

    def _correct(
        self, params: Params, trunks: Sequence[Subnet], num_counted: int, resolution: int, split: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts the correct predictions, the ensemble in the last row of exits.

        Top-1 is counted class by class, int [classes, exits + 1, S]; top-5 is not, int [exits + 1, S]. Only the first
        `num_counted` trunks need to be counted.
        """
        choices, count = self._programs.replicate((Choices.stack(trunks), np.int32(num_counted)))
        stats = self.recalibration(params, choices, count, resolution)
        total = 0
        batches = list(self.batches(split))
        feed = prefetched(self._feed, (indices for indices, _ in batches))
        for (images, places), (_, counted) in zip(feed, batches):
            axes = (None, None, None, None, images.mapped_axis, 0, 0)
            total += self._programs.run(
                f"test {choices.num_subnets}",
                resolution,
                functools.partial(self._program, axes),
                *(params, stats, choices, count, images, places, self._programs.shard(counted)),
            )
        counts = np.asarray(total)
        return counts[:-1], counts[-1]

    def score_exits(
        self, params: Params, trunks: Iterable[Subnet], resolution: int, images: str | np.ndarray
    ) -> ExitScores:
        """Evaluates trunks with every set of their exits; the logits of a set are the mean of those of its exits.

        One program serves all trunks. It costs what `score` costs, whatever the number of sets.

        Args:
            params: the supernet's parameters, as a tree.
            trunks: the subnets, whose height is ignored.
            resolution: one of the run's resolutions, pixels.
            images: "validation" or "test", or the places of images in the data set, int [N].

        Returns:
            The scores, in the order of `trunks`. The batch-norm statistics are those of `score`.

        Raises:
            ValueError: as in `score`, and for no trunk or no image.
        """
        resolution = plain(resolution)
        trunks = [dataclasses.replace(s, height=_MAX_HEIGHT) for s in self._required(trunks, resolution)]
        indices = self._indices(images)
        if not trunks or not len(indices):
            raise ValueError("there must be at least one trunk and one image to score")
        params = self._programs.replicate(params)
        batches = list(self.batches(indices))
        parts = [
            self._exits(params, padded, len(group), resolution, batches)
            for group, padded in _passes(trunks, self._settings.evaluation.subnets_per_pass)
        ]
        return ExitScores.concatenate(parts)

    def _indices(self, images: str | np.ndarray) -> np.ndarray:
        if isinstance(images, str):
            require_among("images", images, tuple(self._dataset.splits))
            return self._dataset.splits[images].astype(np.int32)
        return np.asarray(images, np.int32)

    def batches(self, images: str | np.ndarray) -> Iterator[Batch]:
        """The images of a split, or of places in the data set, in batches of one shape; see `batches_of`."""
        return batches_of(self._indices(images), self._settings.evaluation.batch_size, len(self._programs.devices))

    def _program(self, in_axes, resolution):
        def function(params, stats, choices, count, images, indices, counted):
            pixels, labels = images.batch(indices)
            pixels = augment.eval_images(pixels, resolution, self._dataset.normalisation, self.resized[resolution])

            def correct(choices, stats):
                logits = self._net.apply({"params": params, "batch_stats": stats}, pixels, choices, all_exits=True)
                logits = jnp.concatenate([logits, weighted_sum(self._output_weights, logits)[None]])
                rank = label_rank(logits, labels)
                is_class = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
                # A product of zeros and ones, which is exact in any precision.
                top1 = jnp.einsum("...b,bc->c...", ((rank < 1) & counted).astype(jnp.float32), is_class)
                top5 = jnp.sum((rank < 5) & counted, axis=-1)
                return jnp.concatenate([top1.astype(top5.dtype), top5[None]])

            def correct_of_one(choices, place):
                return correct(choices, jax.tree.map(lambda values: values[place], stats))[..., 0]

            if one_at_a_time():
                total = jnp.moveaxis(of_each(correct_of_one, choices, count), 0, -1)
            else:
                total = correct(choices, stats)
            return lax.psum(total, AXIS)

        return self._programs.pmap(function, in_axes, None)


def _passes(trunks: Sequence[Subnet], per_pass: int) -> Iterator[tuple[Sequence[Subnet], list[Subnet]]]:
    """Groups of so many trunks; an incomplete last one also padded, so that one program serves all groups."""
    for first in range(0, len(trunks), per_pass):
        group = trunks[first : first + per_pass]
        yield group, [*group, *[group[-1]] * (per_pass - len(group))]


def uniform_scores(
    evaluator: Evaluator, params: Params, space: SearchSpace, resolutions: Sequence[int], ensemble: bool
) -> list[Score]:
    """Evaluates every uniform subnet of `space` on the test split.

    Args:
        evaluator: evaluates the subnets.
        params: the supernet's parameters, as a tree.
        space: the unlocked subnets.
        resolutions: resolutions in pixels, at each of which every subnet is evaluated.
        ensemble: evaluate instead the maximal network only, by the ensemble of its exits (phase full).

    Returns:
        The scores, by resolution, then in the order of `SearchSpace.uniform_subnets`.
    """
    subnets = [space.maximal()] if ensemble else list(space.uniform_subnets())
    return [
        score for resolution in resolutions for score in evaluator.score(params, subnets, resolution, "test", ensemble)
    ]


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Mean ("avg") and maximum ("best") of top-1 in %, as Tables IV and V have them."""
    top1 = [score.top1 for score in scores]
    return {"avg": float(np.mean(top1)), "best": float(np.max(top1))}
