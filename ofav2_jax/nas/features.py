"""`Features`: what the predictor sees of a design."""

from collections.abc import Sequence

import numpy as np

from ofav2_jax.checks import refuse
from ofav2_jax.model.choices import Choices
from ofav2_jax.model.costs import Costs
from ofav2_jax.model.network import CHOICES, Block
from ofav2_jax.model.supernet import SuperNet
from ofav2_jax.nas.genes import at_height, used

# The last columns of the features are logarithms of costs.
NUM_COSTS = 2


class Features:
    """Designs as rows of numbers: equal networks have equal rows.

    Kernel sizes, expand ratios and depths are one-hot, level codes are their three bits, and all of them are zero where
    they have no effect. The resolution is one-hot, too. Logarithms of multiply-accumulates and of parameters follow,
    both with the exit of the height. Trained on real accuracies, masking and costs help more than the model does.

    Args:
        net: the supernet.
        resolutions: the resolutions that occur, pixels.
    """

    def __init__(self, net: SuperNet, resolutions: Sequence[int]):
        self._costs = Costs(net)
        self._resolutions = np.array(sorted(resolutions))

    def __call__(self, choices: Choices, resolution: np.ndarray, height: int | None = None) -> np.ndarray:
        """Computes the features.

        Args:
            choices: N subnets.
            resolution: int [N], pixels.
            height: the height to cut the subnets at. None: their own.

        Returns:
            float64 [N, F].

        Raises:
            ValueError: for a resolution that is none of `resolutions`, and for subnets that the network does not hold.
        """
        if height is not None:
            choices = at_height(choices, height)
        resolution = np.asarray(resolution)
        unknown = ~np.isin(resolution, self._resolutions)
        if unknown.any():
            refuse("resolution", int(resolution[unknown][0]), f"one of {self._resolutions.tolist()}")
        masks = used(choices)
        n = len(resolution)
        columns = []
        for name in ("kernel", "expand", "depth"):
            is_value = np.asarray(getattr(choices, name))[..., None] == np.array(CHOICES[name].values)
            columns.append((is_value & masks[name][..., None]).reshape(n, -1))
        bits = (np.asarray(choices.level)[..., None] & np.array(list(Block))) > 0
        columns.append((bits & masks["level"][..., None]).reshape(n, -1))
        columns.append(resolution[:, None] == self._resolutions)
        cost = self._costs(choices, resolution)
        columns.append(np.log(np.column_stack([cost.macs, cost.params])))
        return np.concatenate(columns, axis=1, dtype=np.float64)
