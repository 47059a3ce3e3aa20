"""From measured times to times of blocks within a network, and the fit of their sums to whole networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ofav2_jax.latency.blocks import POSITIONS
from ofav2_jax.latency.write import JOINTS, OVERHEAD, SMALLEST

# Candidates for the size of the caches.
_KNEES = 80
# What the maps of random designs take, those of the normalisation and within activations included.
_BYTES_PER_PIXEL = 750.0


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

    A block by itself finds its weights in the processor's caches. A whole network's weights share them with its maps;
    what is beyond the size of the caches is read from memory again in each run.

    Attributes:
        scale: factor of the sum.
        offset_us: microseconds that are added.
        cache_mb: megabytes of weights and maps without effect.
        us_per_mb: microseconds for each megabyte beyond them.
        bytes_per_pixel: bytes of maps for each pixel of the images.
    """

    scale: float
    offset_us: float
    cache_mb: float = 0.0
    us_per_mb: float = 0.0
    bytes_per_pixel: float = _BYTES_PER_PIXEL

    def __call__(self, sums: np.ndarray, weights_mb: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Times of whole networks in microseconds.

        Args:
            sums: over their blocks, microseconds.
            weights_mb: megabytes of their weights.
            pixels: of a batch of their images.
        """
        megabytes = weights_mb + 1e-6 * self.bytes_per_pixel * pixels
        return self.scale * sums + self.offset_us + self.us_per_mb * np.maximum(megabytes - self.cache_mb, 0)

    @classmethod
    def of(cls, sums: np.ndarray, weights_mb: np.ndarray, pixels: np.ndarray, measured: np.ndarray) -> "Fit":
        """The fit with the smallest squares of relative errors.

        Args:
            sums: as in `__call__`.
            weights_mb: as in `__call__`.
            pixels: as in `__call__`.
            measured: the times of the networks in microseconds.
        """
        columns = [sums, np.ones_like(sums)]
        fits = [cls(*_solve(columns, measured))]
        megabytes = weights_mb + 1e-6 * _BYTES_PER_PIXEL * pixels
        for knee in np.linspace(0, megabytes.max(), _KNEES, endpoint=False).tolist():
            scale, offset, slope = _solve([*columns, np.maximum(megabytes - knee, 0)], measured)
            if slope > 0:
                fits.append(cls(scale, offset, knee, slope))
        return min(fits, key=lambda fit: float(np.square(fit(sums, weights_mb, pixels) / measured - 1).sum()))


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

    off, noise = 100 * np.abs(predicted / measured - 1), 100 * np.abs(again[0] / again[1] - 1)
    return {
        "n": len(off),
        "median_pct": float(np.median(off)),
        "within_10pct": float(100 * np.mean(off <= 10)),
        "tau": float(kendalltau(predicted, measured)[0]),
        "repeat_noise_pct": float(np.median(noise)),
        "repeat_noise_max_pct": float(noise.max()),
    }
