"""Test data: results of the authors' PyTorch implementation.

`golden/` holds a part of them. Where `shared/reference` lies beside the repository, all of them are used instead.
"""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ofav2_jax import Subnet, SuperNet
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.model.torch_weights import load_torch

_TESTS = pathlib.Path(__file__).parents[1]
FULL = _TESTS.parents[1] / "shared" / "reference"
DIRECTORY = FULL if FULL.is_dir() else _TESTS / "golden"

# Whether everything is tested for every network, with a static program for every case; this takes half an hour.
EXHAUSTIVE = os.environ.get("OFAV2_EXHAUSTIVE") == "1"

EARLY_EXIT_NETWORKS = tuple(name for name, spec in NETWORKS.items() if spec.early_exits)


def subnet_of(case: dict[str, Any]) -> Subnet:
    """The subnet of a case: `nd` is its height, `nw` its level codes, each absent where there is no choice."""
    choices = (tuple(case[name]) for name in ("ks", "e", "d"))
    return Subnet(*choices, level=tuple(case.get("nw", (7,) * 20)), height=case.get("nd", 5))


@functools.cache
def _inputs() -> dict[str, np.ndarray]:
    with np.load(DIRECTORY / "inputs.npz") as arrays:
        return {name: np.moveaxis(images, 1, -1) for name, images in arrays.items()}


def images(name: str) -> np.ndarray:
    """Images [B, H, W, 3]; `[:3]` after the name takes the first three."""
    base, _, first = name.partition("[:")
    return _inputs()[base][: int(first[:-1]) if first else None]


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Weights and results of one network.

    Attributes:
        network: the network's name in Table II.
        state: weights by the reference's names.
        arrays: results by key.
        cases: descriptions of the computed cases.
        counts: parameters and multiply-accumulates.
    """

    network: str
    state: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    cases: list[dict[str, Any]]
    counts: dict[str, Any]

    def net(self, dtype: Any = jnp.float32) -> SuperNet:
        return SuperNet(self.network, width_multiplier=0.25, num_classes=10, dtype=dtype)

    def variables(self, dtype: Any = jnp.float32) -> dict[str, Any]:
        """Variables for `net`; float64 needs `jax.enable_x64`."""
        return load_torch({name: value.astype(dtype) for name, value in self.state.items()}, self.net())

    def select(self, kind: str, resolution: int | None = None) -> list[dict[str, Any]]:
        """The cases of a kind; skips the test if `golden/` holds none."""
        found = [c for c in self.cases if c["kind"] == kind and resolution in (None, c.get("resolution"))]
        if not found:
            pytest.skip(f"no case {kind!r} at resolution {resolution}: {_absent()}")
        return found

    def expected(self, key: str, dtype: Any = jnp.float32) -> np.ndarray:
        return self.arrays[f"{key}@f64" if dtype == jnp.float64 else key]


def _absent() -> str:
    return f"the complete reference is not at ../{FULL.relative_to(_TESTS.parents[1])}"


def name_of(network: str) -> str:
    """The reference's spelling of a network of Table II."""
    return network.upper()


@functools.cache
def load(network: str) -> Reference:
    """Reads one network's data; skips the test if `golden/` does not hold it."""
    path = DIRECTORY / name_of(network)
    if not path.with_suffix(".json").exists():
        pytest.skip(f"no data of {network}: {_absent()}")
    described = json.loads(path.with_suffix(".json").read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        return Reference(
            network=network,
            state=load_file(path.with_suffix(".safetensors")),
            arrays=dict(arrays.items()),
            cases=described["cases"],
            counts=described["counts"],
        )


def relative_error(actual: Any, expected: np.ndarray) -> float:
    """Largest difference over the largest expected absolute value."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def assert_close(actual: Any, expected: np.ndarray, tolerance: float, what: str) -> None:
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{what}: relative error {error:.1e}, allowed {tolerance:.0e}"
