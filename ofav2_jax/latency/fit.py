"""From measured times to times of blocks within a network, and the fit of their sums to whole networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ofav2_jax.latency.blocks import POSITIONS
from ofav2_jax.latency.write import JOINTS, OVERHEAD, SMALLEST

# Candidates for the size of the caches.
_KNEES = 80


def within_network(times: Mapping[str, float]) -> dict[str, float]:
    """What blocks take within a network.

    A block that is measured by itself also pays for a call of the runtime, and for the conversion of its maps from and
    to the layout that convolutions compute in. Two blocks as one pay once: so the difference is known for each border
    between two blocks.

    Args:
        times: of one resolution, by name, `JOINTS` and `OVERHEAD` included; microseconds.

    Returns:
        The times of the blocks, microseconds.
    """
    first, other = (f"{{}}/{position}/{SMALLEST}" for position in POSITIONS)
    borders = [times["stem"] + times[first.format(1)] - times[JOINTS[0]]]
    borders += [2 * times[other.format(stage)] - times[name] for stage, name in enumerate(JOINTS[1:], 1)]
    found = {}
    for name, time in times.items():
        stage, _, kind = name.partition("/")
        if name == "stem":
            # The call that every network pays for.
            found[name] = time
        elif stage.isdigit():
            # Without a convolution no maps are converted.
            plain = kind.startswith(("add", f"{POSITIONS[1]}/light"))
            found[name] = time - (times[OVERHEAD] if plain else borders[int(stage) - kind.startswith(POSITIONS[0])])
        elif stage == "ensemble":
            found[name] = time - times[OVERHEAD]
    return found


@dataclasses.dataclass(frozen=True)
class Fit:
    """What makes times of whole networks of sums over blocks.

    A block by itself finds its weights in the processor's caches. Of a whole network's weights those beyond the size of
    the caches are read from memory again in each run.

    Attributes:
        scale: factor of the sum.
        offset_us: microseconds that are added.
        cache_mb: megabytes of weights without effect.
        us_per_mb: microseconds for each megabyte beyond them.
    """

    scale: float
    offset_us: float
    cache_mb: float
    us_per_mb: float

    def __call__(self, sums: np.ndarray, megabytes: np.ndarray) -> np.ndarray:
        """Times of whole networks in microseconds.

        Args:
            sums: over their blocks, microseconds.
            megabytes: of their weights.
        """
        return self.scale * sums + self.offset_us + self.us_per_mb * np.maximum(megabytes - self.cache_mb, 0)

    @classmethod
    def of(cls, sums: np.ndarray, megabytes: np.ndarray, measured: np.ndarray) -> "Fit":
        """The fit with the smallest squares of relative errors.

        Args:
            sums: as in `__call__`.
            megabytes: as in `__call__`.
            measured: the times of the networks in microseconds.
        """
        scale, offset = _solve([sums, np.ones_like(sums)], measured)
        fits = [cls(scale, offset, 0.0, 0.0)]
        for knee in np.linspace(0, megabytes.max(), _KNEES, endpoint=False):
            beyond = np.maximum(megabytes - knee, 0)
            scale, offset, slope = _solve([sums, np.ones_like(sums), beyond], measured)
            if slope > 0:
                fits.append(cls(scale, offset, float(knee), slope))
        return min(fits, key=lambda fit: float(np.square(fit(sums, megabytes) / measured - 1).sum()))


def _solve(columns: list[np.ndarray], measured: np.ndarray) -> list[float]:
    """Coefficients of the columns, with the smallest squares of relative errors."""
    matrix = np.column_stack(columns) / measured[:, None]
    return np.linalg.lstsq(matrix, np.ones(len(measured)), rcond=None)[0].tolist()


def errors(predicted: np.ndarray, measured: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """How good predictions are.

    Args:
        predicted: times.
        measured: those of the same networks as measured.
        again: [2, N], measured in two halves of the time.
    """
    from scipy.stats import kendalltau

    off = 100 * np.abs(predicted / measured - 1)
    return {
        "n": len(off),
        "median_pct": float(np.median(off)),
        "within_10pct": float(100 * np.mean(off <= 10)),
        "tau": float(kendalltau(predicted, measured)[0]),
        "repeat_noise_pct": float(np.median(100 * np.abs(again[0] / again[1] - 1))),
    }
