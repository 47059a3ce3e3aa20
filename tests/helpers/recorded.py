"""The small files of `golden/`: losses, learning rates and optimiser steps that PyTorch computed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

_GOLDEN = Path(__file__).parents[1] / "golden"


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """A JSON file and the arrays that it names, if any."""

    json: dict[str, Any]
    arrays: dict[str, np.ndarray]


def load(name: str) -> Recorded:
    """Loads golden/<name>.json and .npz."""
    arrays = _GOLDEN / f"{name}.npz"
    return Recorded(
        json.loads((_GOLDEN / f"{name}.json").read_text()), dict(np.load(arrays)) if arrays.exists() else {}
    )
