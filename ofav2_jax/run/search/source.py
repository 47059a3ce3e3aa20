"""What is searched: a supernet with its weights and the images on which its subnets are scored."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ofav2_jax.checks import refuse
from ofav2_jax.data.dataset import Dataset, fingerprint
from ofav2_jax.evaluate.evaluator import Evaluator
from ofav2_jax.model.packing import Params
from ofav2_jax.model.space import SearchSpace
from ofav2_jax.model.supernet import SuperNet, check_params
from ofav2_jax.run import checkpoint
from ofav2_jax.run.opened import OpenedRun
from ofav2_jax.runtime.feed import image_feed
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.trace_cache import beside_compiled_programs
from ofav2_jax.settings.phases import unlocked_values
from ofav2_jax.settings.settings import Settings


@dataclasses.dataclass(frozen=True)
class Source:
    """A supernet under search.

    Attributes:
        net: the supernet.
        params: its parameters, as a tree.
        dataset: the images.
        settings: give the resolutions, the recalibration and the seed.
        space: the subnets to choose from.
        about: the name of the run, the phase, and the digest of the parameters.
        make_evaluator: makes what scores subnets.
    """

    net: SuperNet
    params: Params
    dataset: Dataset
    settings: Settings
    space: SearchSpace
    about: Mapping[str, Any]
    make_evaluator: Callable[[], Evaluator]

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Scores subnets; made when it is first used."""
        return self.make_evaluator()

    @property
    def recalibration(self) -> dict[str, int]:
        """The images from which statistics of batch norm are recomputed, as in a design's record."""
        evaluation, available = self.settings.evaluation, len(self.dataset.splits["train"])
        size = evaluation.recalibration_batch_size
        images = min(evaluation.recalibration_images, available) // size * size
        return {"images": images, "batch_size": size, "seed": self.settings.seed}

    def identity(self) -> dict[str, Any]:
        """All that scores depend on, as JSON."""
        found = fingerprint(self.dataset)
        # Only where it is on, because searches of older versions do not have it.
        interpolated = {"interpolate": True} if self.settings.evaluation.interpolate else {}
        return {
            "network": self.net.network,
            "width_multiplier": self.net.width_multiplier,
            "exit_widths": self.net.exit_widths,
            "num_classes": self.net.num_classes,
            "dtype": str(np.dtype(self.net.dtype)),
            "resolutions": list(self.settings.resolutions),
            "space": {name: list(getattr(self.space, name)) for name in vars(self.space) if name[0] != "_"},
            "run": dict(self.about),
            "data": {name: found[name] for name in found if name == "name" or name.endswith("sha256")},
            "recalibration": self.recalibration,
            "augmentation": list(self.settings.recipe.augmentation),
            **interpolated,
        }

    def images(self, number: int) -> np.ndarray:
        """Validation images to score with: as many of each class as possible, the same ones for every search.

        Args:
            number: how many; all if there are fewer.

        Returns:
            Their places in the data set, int [N], class by class, so that every other one is a balanced half.
        """
        rng = np.random.default_rng([self.settings.seed, 0x5EA2C4])
        indices = rng.permutation(self.dataset.splits["validation"])
        labels = self.dataset.labels[indices]
        place = np.zeros(len(indices), int)
        for label in np.unique(labels):
            of_class = labels == label
            place[of_class] = np.arange(of_class.sum())
        # The first of each class, then the second of each, and so on.
        chosen = np.argsort(place, kind="stable")[:number]
        return indices[chosen[np.argsort(labels[chosen], kind="stable")]]


def source_of_run(run: OpenedRun, phase: str | None = None) -> Source:
    """A run's supernet as a phase left it, with the choices that are unlocked by then.

    Raises:
        ValueError: for a run that has fine-tuned a design, and a phase that it does not have, or that has not ended.
    """
    run.require_supernet()
    params = run.params(phase)
    name = run.phases[-1] if phase is None else phase
    index = [each.name for each in run.settings.phases].index(name)
    space = run.space.restrict(**unlocked_values(run.settings.phases, index))
    about = {"name": run.settings.name, "phase": name, "params_sha256": checkpoint.digest(params)}
    return Source(run.net, params, run.dataset, run.settings, space, about, lambda: run.evaluator)


def source_of_net(net: SuperNet, variables: Mapping[str, Any], dataset: Dataset, settings: Settings | None) -> Source:
    """A supernet from elsewhere, with all of its choices.

    Args:
        net: the supernet.
        variables: {"params", ...}, as `load_torch` returns them; statistics of batch norm are recomputed.
        dataset: the images, in three splits.
        settings: give the resolutions, the recalibration, the augmentation and the seed; None: the paper's.

    Raises:
        ValueError: for parameters or images of another network.
    """
    check_params(net, variables)
    if not isinstance(dataset, Dataset):
        refuse("dataset", dataset, "a Dataset")
    if dataset.num_classes != net.num_classes:
        raise ValueError(
            f"dataset has {dataset.num_classes} classes, which is not allowed: the network has {net.num_classes}"
        )
    if settings is None:
        settings = Settings.paper(net.network, width_multiplier=net.width_multiplier)
    if not isinstance(settings, Settings):
        refuse("settings", settings, "a Settings")
    if settings.network != net.network:
        refuse("settings.network", settings.network, repr(net.network))
    params, devices = variables["params"], jax.devices()
    about = {"name": None, "phase": None, "params_sha256": checkpoint.digest(params)}

    def evaluator() -> Evaluator:
        described = net, settings.recipe, dataset.normalisation, settings.evaluation.interpolate
        traces = beside_compiled_programs(devices, *described)
        programs = Programs(devices, settings.resolutions, traces)
        return Evaluator(net, settings, dataset, image_feed(dataset, devices), programs)

    return Source(net, params, dataset, settings, SearchSpace(net), about, evaluator)
