"""Weights of the exits in the ensembles of early-exit networks (AEP, ENS-KD)."""

from collections.abc import Sequence

import numpy as np

from ofav2_jax.checks import did_you_mean, is_number, plain, shown

EXIT_SCHEMES = ("desc", "asc", "unif")
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def exit_weights(scheme: str, num_exits: int) -> np.ndarray:
    """Weights of the exits of an early-exit network, from the first exit to the last; they add up to 1.

    With s = n (n + 1) / 2: `desc` is n/s ... 1/s, as the code of the AEP paper defines it, `asc` the reverse,
    `unif` 1/n each.

    Args:
        scheme: "desc", "asc" or "unif".
        num_exits: n, at least 1.

    Returns:
        float32 [n].

    Raises:
        ValueError: for an unknown scheme or a number of exits below 1.
    """
    num_exits = plain(num_exits)
    if type(num_exits) is not int or num_exits < 1:
        raise ValueError(f"num_exits={shown(num_exits)} is not allowed: it must be a positive int")
    ranks = np.arange(1, num_exits + 1, dtype=np.float32)
    shapes = {"desc": ranks[::-1], "asc": ranks, "unif": np.ones_like(ranks)}
    if not isinstance(scheme, str) or scheme not in shapes:
        raise ValueError(f"exit weights {shown(scheme)} are unknown; choose one of {', '.join(EXIT_SCHEMES)}")
    return shapes[scheme] / shapes[scheme].sum()


def ensemble_weights(scheme: str | Sequence[float], num_exits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the exits' losses and of their outputs.

    Args:
        scheme: a scheme of `exit_weights`, used for both; or "mix", desc for the losses and asc for the outputs;
            or numbers, first exit first, used for both; they are divided by their sum.
        num_exits: n; a single-exit network has 1.

    Returns:
        Weights of the losses and weights of the outputs, each float32 [n]; each add up to 1.

    Raises:
        ValueError: for an unknown scheme, or numbers that are negative, not finite, too few or too many.
    """
    if scheme == "mix":
        return exit_weights("desc", num_exits), exit_weights("asc", num_exits)
    if isinstance(scheme, str):
        if scheme not in EXIT_SCHEMES:
            names = (*EXIT_SCHEMES, "mix")
            hint = did_you_mean(scheme, names)
            raise ValueError(f"exit_weights={scheme!r} is unknown; choose one of {', '.join(names)}{hint}")
        weights = exit_weights(scheme, num_exits)
    else:
        scheme = tuple(map(plain, scheme)) if isinstance(scheme, Sequence | np.ndarray) else scheme
        allowed = isinstance(scheme, tuple) and all(is_number(weight) and weight >= 0 for weight in scheme)
        if not allowed or not 0 < sum(map(float, scheme)) <= _FLOAT32_MAX or num_exits not in (1, len(scheme)):
            raise ValueError(f"exit_weights={shown(scheme)} is not allowed: give {num_exits} numbers >= 0, not all 0")
        numbers = np.asarray(scheme if num_exits > 1 else (1,), np.float64)
        weights = (numbers / numbers.sum()).astype(np.float32)
    return weights, weights
