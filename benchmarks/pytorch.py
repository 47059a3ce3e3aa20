"""The work of a step and of a test in PyTorch: the package `ofa` of Once-For-All's authors, for comparison."""

import contextlib
import importlib.machinery
import itertools
import os
import random
import resource
import sys
import types
from typing import Any

import numpy as np

from benchmarks.apart import Apart


def stand_in_for_torchvision() -> None:
    """Empty modules: `ofa` imports torchvision's transforms and data sets, which nothing here uses."""

    def module(name: str, **contents: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__dict__.update(contents)
        sys.modules[name] = made
        return made

    placeholder = type("Placeholder", (), {})
    functional = module("torchvision.transforms.functional")
    transforms = module(
        "torchvision.transforms", functional=functional, RandomResizedCrop=placeholder, Compose=placeholder
    )
    datasets = module("torchvision.datasets", ImageFolder=placeholder)
    module("torchvision", transforms=transforms, datasets=datasets)


class Once:
    """`OFAMobileNetV3`, its maximal network as the teacher, and one batch that is already where it is needed.

    Args:
        batch_size: images per step.
        resolution: of the images.
        num_threads: threads of PyTorch.
        num_classes: classes.

    Raises:
        ImportError: without the extra `bench`.
    """

    def __init__(self, batch_size: int, resolution: int, num_threads: int, num_classes: int = 200):
        stand_in_for_torchvision()
        import torch
        from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

        self.torch = torch
        torch.set_num_threads(num_threads)
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.choices = dict(ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6], depth_list=[2, 3, 4])
        self.net, self.teacher = (OFAMobileNetV3(n_classes=num_classes, **self.choices) for _ in range(2))
        self.net.to(self.device).train()
        self.teacher.to(self.device).train()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=3e-5)
        self.images = torch.randn(batch_size, 3, resolution, resolution, device=self.device)
        self.labels = torch.randint(0, num_classes, (batch_size,), device=self.device)

    def step(self, phase: str, num_subnets: int, seed: int, bfloat16: bool = False) -> None:
        """One optimiser step: "full" trains the maximal network; the others sample subnets."""
        torch, functional = self.torch, self.torch.nn.functional
        random.seed(seed)
        cast = torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        self.optimizer.zero_grad()
        with cast:
            if num_subnets:
                with torch.no_grad():
                    targets = functional.softmax(self.teacher(self.images), dim=1)
            for _ in range(num_subnets or 1):
                self._choose(phase)
                logits = self.net(self.images)
                loss = functional.cross_entropy(logits, self.labels, label_smoothing=0.1)
                if num_subnets:
                    loss = loss - (targets * functional.log_softmax(logits, dim=1)).sum(1).mean()
                loss.backward()
        self.optimizer.step()
        self.wait()

    def _choose(self, phase: str) -> None:
        if phase == "full":
            self.net.set_max_net()
            return
        self.net.sample_active_subnet()
        if phase != "width2":
            self.net.set_active_subnet(e=6, d=4 if phase == "kernel" else None)

    def test(self, number: int, num_subnets: int, recalibration_batches: int, batches: int) -> None:
        """Recalibrates and tests the `number`-th so many uniform subnets, each on the one batch, over and over."""
        torch = self.torch
        from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics

        # In the order of `SearchSpace.uniform_subnets`.
        uniform = itertools.cycle(
            itertools.product(*(sorted(values, reverse=True) for values in self.choices.values()))
        )
        for ks, e, d in itertools.islice(uniform, number * num_subnets, (number + 1) * num_subnets):
            self.net.set_active_subnet(ks=ks, e=e, d=d)
            subnet = self.net.get_active_subnet().to(self.device)
            set_running_statistics(subnet, [(self.images, self.labels)] * recalibration_batches)
            subnet.eval()
            correct = 0
            with torch.no_grad():
                for _ in range(batches):
                    correct += int((subnet(self.images).argmax(1) == self.labels).sum())
        self.wait()

    def wait(self) -> None:
        """Returns once the device has done what it was told to do."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def device_type(self) -> str:
        """Of the device in use."""
        return self.device.type

    def peak_mib(self) -> float:
        """The most memory that this process, or the accelerator for it, has held so far."""
        if self.device.type == "cuda":
            return self.torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def versions(self) -> str:
        """Of what is compared with."""
        return f"torch {self.torch.__version__}, numpy {np.__version__}"


def beside(backend: str, batch_size: int, resolution: int) -> tuple[Apart | None, str]:
    """What JAX's backend is compared with, in a process of its own, and its versions; or None, and why not."""
    try:
        once = Apart(Once, batch_size, resolution, os.cpu_count() or 1)
    except ImportError as error:
        return None, f"not installed ({error}); pip install -e '.[bench]'"
    device = once("device_type")
    if device != {"gpu": "cuda"}.get(backend, backend):
        once.close()
        return None, f"left out: PyTorch has {device}, JAX {backend}"
    return once, once("versions")
