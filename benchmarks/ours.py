"""The work of a step and of a test in this project, on made-up images; and what every benchmark says about itself."""

import dataclasses
import datetime
import functools
import itertools
import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax import Dataset, Settings
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.recipe import Evaluation
from ofav2_jax.train.step import StepInputs

NUM_CLASSES = 200
NUM_IMAGES = 10_000


@functools.cache
def images() -> Dataset:
    """Noise of the size of Tiny ImageNet's images."""
    rng = np.random.default_rng(0)
    indices = np.arange(NUM_IMAGES, dtype=np.int32)
    return Dataset(
        name="noise",
        images=rng.integers(0, 256, (NUM_IMAGES, 64, 64, 3), dtype=np.uint8),
        labels=rng.integers(0, NUM_CLASSES, NUM_IMAGES).astype(np.int32),
        splits={"train": indices[4000:], "validation": indices[:2000], "test": indices[2000:4000]},
        num_classes=NUM_CLASSES,
        normalisation=Normalisation((0.5,) * 3, (0.25,) * 3),
    )


class Ours:
    """One network with a teacher, in the masked engine.

    Args:
        network: of Table II.
        batch_size: images per step.
        resolution: of the images.
        dtype: of the activations.
        num_devices: that share the batch.
        evaluation: how subnets are evaluated; None: as in the paper.

    Attributes:
        parts: all objects of a run.
        teacher: parameters of the teacher.
        spaces: what is unlocked in some phases.
    """

    def __init__(
        self,
        network: str,
        batch_size: int,
        resolution: int,
        dtype: str = "float32",
        num_devices: int = 1,
        evaluation: Evaluation | None = None,
    ):
        self.network, self.batch_size, self.resolution = network, batch_size, resolution
        settings = Settings.paper(
            network,
            batch_size=batch_size,
            resolutions=(resolution,),
            dtype=dtype,
            evaluation=evaluation or Evaluation(),
        )
        self.parts = assemble(settings, images(), jax.devices()[:num_devices])
        net, devices = self.parts.net, self.parts.devices
        self.state = replicate(self.parts.step.init_state(initial_params(net, 0)), devices)
        self.teacher = replicate(initial_params(net, 1), devices)
        whole = self.parts.space
        self.spaces = {
            "kernel": whole.restrict(expand=(6,), depth=(4,), height=(5,)),
            "depth2": whole.restrict(expand=(6,)),
            "width2": whole,
        }

    def step(self, phase: str, num_subnets: int, seed: int) -> None:
        """One optimiser step, augmentation included."""
        inputs = self._inputs(seed)
        if phase != "full":
            choices = self.parts.engine.draw(inputs.key, self.spaces[phase], num_subnets)
            inputs = inputs.replace(teacher=self.teacher, choices=choices)
        self.state, metrics = self.parts.engine(self.state, inputs, self.resolution)
        jax.block_until_ready((self.state, metrics))

    def epoch(self, phase: str) -> int:
        """The steps of an epoch, as a run takes them; returns their number."""
        specs, epochs = self.parts.settings.phases, self.parts.epochs
        (place,) = (i for i, spec in enumerate(specs) if spec.key.replace("_", "") == phase)
        teacher, space = (None, self.parts.space) if phase == "full" else (self.teacher, self.spaces[phase])
        for taken in epochs.steps(place, 0, self.state, teacher, space):
            self.state, metrics = taken.state, taken.metrics
        jax.block_until_ready((self.state, metrics))
        return epochs.steps_per_epoch

    def read(self, seed: int) -> None:
        """The input of a step alone: which images, gathering and augmenting them."""
        inputs, step, programs = self._inputs(seed), self.parts.step, self.parts.programs

        def function(inputs, *, resolution):
            keys, _ = step.keys(inputs.key, len(inputs.indices), jnp.arange(0))
            return step.load(inputs, keys, resolution)

        axes = inputs.mapped_axes()
        make = lambda r: programs.pmap(functools.partial(function, resolution=r), (axes,), 0)  # noqa: E731
        jax.block_until_ready(programs.run("input", self.resolution, make, inputs))

    def _inputs(self, seed):
        rng = np.random.default_rng(seed)
        shape = len(self.parts.devices), self.batch_size // len(self.parts.devices)
        data, places = self.parts.feed.batch(rng.integers(0, NUM_IMAGES, shape).astype(np.int32))
        return StepInputs(data, places, jax.random.fold_in(jax.random.key(0), seed), jnp.float32(1e-3))

    def compile_seconds(self) -> float:
        """Spent on tracing and compiling so far."""
        return self.parts.programs.seconds

    def peak_mib(self) -> float:
        """The most memory that this process, or the accelerator for it, has held so far."""
        if jax.default_backend() != "cpu":
            return self.parts.devices[0].memory_stats()["peak_bytes_in_use"] / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class OurTest:
    """The test of EE_D's or the baseline's subnets, four trunks at a time, which each have every height.

    Args:
        network: of Table II.
        batch_size: images per forward pass.
        resolution: of the images.
        num_images: tested on.
        num_recalibration_images: from which BN statistics are recomputed, in batches of `batch_size`.
    """

    num_trunks = 4

    def __init__(self, network: str, batch_size: int, resolution: int, num_images: int, num_recalibration_images: int):
        evaluation = Evaluation(num_recalibration_images, batch_size, batch_size, self.num_trunks)
        self._ours = Ours(network, batch_size, resolution, evaluation=evaluation)
        dataset = images()
        splits = {**dataset.splits, "test": dataset.splits["test"][:num_images]}
        parts = dataclasses.replace(self._ours.parts, dataset=dataclasses.replace(dataset, splits=splits))
        self._evaluator = parts.evaluator
        space = self._ours.spaces["width2"]
        self._heights = space.height
        self._trunks = list(space.restrict(height=(5,)).uniform_subnets())

    def num_subnets(self) -> int:
        """Tested in one call of `test`."""
        return self.num_trunks * len(self._heights)

    def test(self, number: int) -> None:
        """Recalibrates and tests the `number`-th four trunks."""
        chosen = itertools.islice(
            itertools.cycle(self._trunks), self.num_trunks * number, self.num_trunks * (number + 1)
        )
        subnets = [dataclasses.replace(subnet, height=height) for subnet in chosen for height in self._heights]
        self._evaluator.score(self._ours.teacher, subnets, self._ours.resolution, "test")


def machine() -> dict[str, Any]:
    """Where and when a figure was measured."""
    cpu = [
        line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("model name")
    ]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "cpu": f"{os.cpu_count()} x {cpu[0].split(':')[1].strip() if cpu else platform.processor()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "huge_pages": "hugetlb" in os.environ.get("GLIBC_TUNABLES", ""),
    }


def print_setting(results: dict[str, Any]) -> None:
    """Where and how these figures were measured."""
    settings = results["machine"] | results["setting"]
    width = max(map(len, settings))
    for name, value in settings.items():
        print(f"{name:<{width}} {value}")


def write_json(path: str | None, results: dict[str, Any]) -> None:
    """Writes the figures to a file, if one is asked for."""
    if path:
        Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
