"""`Predictor`: the accuracy of designs that were not evaluated, and how sure that is."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofav2_jax.checks import require_package
from ofav2_jax.model.choices import Choices
from ofav2_jax.nas.features import NUM_COSTS, Features
from ofav2_jax.nas.genes import Designs
from ofav2_jax.nas.records import Record, top1_of

# Optimising the hyperparameters takes time that grows with the third power of the number of records.
_MAX_OPTIMISED = 200
# Costs say more than any single choice, so they get more weight in distances. Chosen on real accuracies, where weights
# of 3 to 10 are nearly as good.
_COST_WEIGHT = 6.0
# Two networks that differ in one choice are 1.4 apart. A shorter length scale would be another name for noise.
_LEAST_LENGTH = 4.0


@dataclasses.dataclass(frozen=True)
class _OfHeight:
    """The Gaussian process of the exit sets that end at one height."""

    process: Any
    exit_sets: tuple[tuple[int, ...], ...]
    mean: np.ndarray
    scale: np.ndarray

    def scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale


class Predictor:
    """Gaussian processes, one for each height, on the features of the trunk up to that height.

    A process has an output for each exit set that ends at its height, and all of them share the kernel: constant x RBF
    + constant x DotProduct + white noise. The target is the logit of the top-1 accuracy. Made by `fit`.
    """

    def __init__(self, features: Features, by_height: dict[int, _OfHeight]):
        self._features, self._by_height = features, by_height

    @classmethod
    def fit(
        cls, features: Features, records: Sequence[Record], exit_sets: Sequence[tuple[int, ...]] | None = None
    ) -> "Predictor":
        """Fits a predictor.

        The same records in the same order give the same predictor. Linear algebra runs in one thread, which is faster
        at this size, and rounds in the same way on machines with other numbers of cores.

        Args:
            features: the features of the network.
            records: at least two.
            exit_sets: the exit sets to predict. None: those of the first record.

        Raises:
            ValueError: for too few records, or one that lacks an exit set.
            ImportError: without the extra `search`, saying how to install it.
        """
        require_package("sklearn", "search", "scikit-learn")
        if len(records) < 2:
            raise ValueError(f"records has {len(records)} entries: at least 2 are needed")
        trunks = Choices.stack([record.trunk.subnet for record in records])
        resolution = np.array([record.trunk.resolution for record in records])
        images = np.array([[record.images] for record in records])
        wanted = tuple(records[0].top1) if exit_sets is None else exit_sets
        by_height = {}
        for height in sorted({exits[-1] for exits in wanted}):
            ending = tuple(exits for exits in wanted if exits[-1] == height)
            # As if there were one image more, half of it right: the logit of 0 or 100 % is infinite.
            right = top1_of(records, ending) / 100 * images + 0.5
            targets = np.log(right) - np.log(images + 1 - right)
            by_height[height] = _fit(ending, features(trunks, resolution, height), targets)
        return cls(features, by_height)

    def predict(self, designs: Designs) -> tuple[np.ndarray, np.ndarray]:
        """Predicts the accuracy of designs.

        Args:
            designs: N designs.

        Returns:
            The mean and the standard deviation of the top-1 accuracy in points, float64 [N] each. The deviation
            contains that of a measurement.

        Raises:
            ValueError: for an exit set that the predictor was not fitted to.
        """
        from threadpoolctl import threadpool_limits

        mean, std = (np.full(len(designs), np.nan) for _ in range(2))
        height = np.asarray(designs.choices.height)
        with threadpool_limits(1):
            for end in np.unique(height):
                (rows,) = np.nonzero(height == end)
                of_height, columns = self._columns(int(end), designs.exits[rows])
                features = of_height.scaled(self._features(_take(designs.choices, rows), designs.resolution[rows]))
                logits, deviations = of_height.process.predict(features, return_std=True)
                at = np.arange(len(rows)), columns
                share = 1 / (1 + np.exp(-logits.reshape(len(rows), -1)[at]))
                mean[rows] = 100 * share
                std[rows] = 100 * share * (1 - share) * deviations.reshape(len(rows), -1)[at]
        return mean, std

    def _columns(self, height: int, exits: np.ndarray) -> tuple[_OfHeight, np.ndarray]:
        """The process of a height, and for each row of bool [N, 5] the place of that exit set among its outputs."""
        known = {each: place for of in self._by_height.values() for place, each in enumerate(of.exit_sets)}
        sets = [tuple((np.flatnonzero(row) + 1).tolist()) for row in exits]
        for each in sets:
            if each not in known:
                raise ValueError(f"exits={each} is not allowed: the predictor was fitted to {list(known)}")
        return self._by_height[height], np.array([known[each] for each in sets])


def _once(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different networks, in the order in which they come, with the mean of what was measured of each."""
    _, first, of_row = np.unique(features, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    mean = np.zeros((len(first), targets.shape[1]))
    np.add.at(mean, of_row.ravel(), targets)
    return features[first[order]], (mean / np.bincount(of_row.ravel())[:, None])[order]


def _fit(exit_sets: tuple[tuple[int, ...], ...], features: np.ndarray, targets: np.ndarray) -> _OfHeight:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
    from threadpoolctl import threadpool_limits

    # Trunks with the same beginning are one network below their tops, and share what luck it had with the images. As
    # several points they would look as if there were no noise.
    features, targets = _once(features, targets)
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    costs = features[:, -NUM_COSTS:]
    spread = costs.std(0)
    mean[-NUM_COSTS:], scale[-NUM_COSTS:] = costs.mean(0), np.where(spread > 0, spread, 1) / _COST_WEIGHT
    scaled = (features - mean) / scale
    kernel = (
        ConstantKernel(1.0, (1e-3, 1e4)) * RBF(10.0, (_LEAST_LENGTH, 1e3))
        + ConstantKernel(1e-2, (1e-6, 1e3)) * DotProduct(1.0, (1e-1, 1e3))
        + WhiteKernel(0.1, (1e-5, 1.0))
    )
    settings: dict[str, Any] = {"normalize_y": True, "alpha": 1e-8}
    some = (
        np.unique(np.linspace(0, len(scaled) - 1, _MAX_OPTIMISED).astype(int)) if len(scaled) > _MAX_OPTIMISED else ...
    )
    with threadpool_limits(1), warnings.catch_warnings():
        # A hyperparameter at its bound is as good an answer as another one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process = GaussianProcessRegressor(kernel, **settings).fit(scaled[some], targets[some])
        if len(scaled) > _MAX_OPTIMISED:
            process = GaussianProcessRegressor(process.kernel_, optimizer=None, **settings).fit(scaled, targets)
    return _OfHeight(process, exit_sets, mean, scale)


def _take(choices: Choices, rows: np.ndarray) -> Choices:
    fields = {field.name: np.asarray(getattr(choices, field.name))[rows] for field in dataclasses.fields(choices)}
    return Choices(**fields)
