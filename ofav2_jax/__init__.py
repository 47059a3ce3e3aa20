"""OFAv2 (Once-For-All v2) in JAX and Flax.

Each name below is imported when it is first used, so that settings, for instance, can be read without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofav2_jax.data.dataset import Dataset
    from ofav2_jax.data.sources import load_dataset
    from ofav2_jax.deploy.onnx_file import to_onnx
    from ofav2_jax.deploy.stablehlo import to_stablehlo
    from ofav2_jax.deploy.standalone import Standalone
    from ofav2_jax.latency.table import LatencyTable
    from ofav2_jax.model.apply import forward, forward_exits, forward_masked, recalibrate, recalibrate_masked
    from ofav2_jax.model.choices import Choices
    from ofav2_jax.model.cost import count
    from ofav2_jax.model.costs import Costs
    from ofav2_jax.model.design import Design
    from ofav2_jax.model.sorting import sort_channels
    from ofav2_jax.model.space import SearchSpace
    from ofav2_jax.model.subnet import Subnet
    from ofav2_jax.model.supernet import SuperNet
    from ofav2_jax.model.torch_weights import load_torch, save_torch
    from ofav2_jax.run.extract import extract
    from ofav2_jax.run.finetune import finetune
    from ofav2_jax.run.opened import open_run
    from ofav2_jax.run.run import Run
    from ofav2_jax.run.search.api import search
    from ofav2_jax.settings.exit_weights import exit_weights
    from ofav2_jax.settings.settings import Settings

__version__ = "0.1.0"

_MODULES = {
    "Choices": "model.choices",
    "Costs": "model.costs",
    "Dataset": "data.dataset",
    "Design": "model.design",
    "LatencyTable": "latency.table",
    "Run": "run.run",
    "SearchSpace": "model.space",
    "Settings": "settings.settings",
    "Subnet": "model.subnet",
    "Standalone": "deploy.standalone",
    "SuperNet": "model.supernet",
    "count": "model.cost",
    "exit_weights": "settings.exit_weights",
    "extract": "run.extract",
    "finetune": "run.finetune",
    "forward": "model.apply",
    "forward_exits": "model.apply",
    "forward_masked": "model.apply",
    "load_dataset": "data.sources",
    "load_torch": "model.torch_weights",
    "open_run": "run.opened",
    "recalibrate": "model.apply",
    "recalibrate_masked": "model.apply",
    "save_torch": "model.torch_weights",
    "search": "run.search.api",
    "sort_channels": "model.sorting",
    "to_onnx": "deploy.onnx_file",
    "to_stablehlo": "deploy.stablehlo",
}

__all__ = [
    "Choices",
    "Costs",
    "Dataset",
    "Design",
    "LatencyTable",
    "Run",
    "SearchSpace",
    "Settings",
    "Standalone",
    "Subnet",
    "SuperNet",
    "count",
    "exit_weights",
    "extract",
    "finetune",
    "forward",
    "forward_exits",
    "forward_masked",
    "load_dataset",
    "load_torch",
    "open_run",
    "recalibrate",
    "recalibrate_masked",
    "save_torch",
    "search",
    "sort_channels",
    "to_onnx",
    "to_stablehlo",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
