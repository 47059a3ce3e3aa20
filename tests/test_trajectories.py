"""Whole trajectories of the authors' PyTorch training, replayed step by step in float64.

A trajectory is six or seven phases of a network, with sampled subnets, summed gradients, the progressive teacher, the
choice of the best epoch, channel sorting, and momentum that starts anew in each phase. The recorded numbers lie in
`../shared/reference/trajectories`; without them these tests are skipped.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ofav2_jax import Choices, Dataset, Settings, Subnet, SuperNet
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.model.torch_weights import load_torch, to_torch
from ofav2_jax.run.assembly import assemble
from ofav2_jax.run.progress import Progress, arrays_at_start
from ofav2_jax.runtime.feed import Images
from ofav2_jax.runtime.sharding import replicate, shard
from ofav2_jax.settings.recipe import Evaluation, Recipe
from ofav2_jax.train import step as train_step
from ofav2_jax.train.step import StepInputs
from tests.helpers.programs import masked, masked_recalibrate
from tests.helpers.reference import FULL, assert_close, name_of

_RECORDED = FULL / "trajectories"
_RESOLUTION = 48
# Relative to a parameter's norm. The replay that was run when the numbers were recorded agreed to 4e-14.
_TOLERANCE = 1e-9


class Replay:
    """Replays the training of one network from its recorded start, and compares it with the recorded numbers."""

    def __init__(self, network, engine="masked"):
        self.told = json.loads((_RECORDED / f"{network}.json").read_text())
        self.sums = dict(np.load(_RECORDED / f"{network}.npz"))
        self.inputs = dict(np.load(_RECORDED / "inputs.npz"))
        self.net = SuperNet(network, 0.25, 10, dtype=jnp.float64)
        self.devices = jax.devices()[:1]
        settings = Settings.paper(
            network,
            batch_size=8,
            resolutions=(_RESOLUTION,),
            engine=engine,
            recipe=Recipe(dropout_full=0.0, dropout_rate=0.0),
            evaluation=Evaluation(recalibration_images=8, recalibration_batch_size=8),
        )
        labels = self.inputs["labels"]
        splits = dict(zip(("train", "validation", "test"), np.arange(3 * len(labels)).reshape(3, -1)))
        neutral = Normalisation((0.0,) * 3, (1.0,) * 3)
        # The data set's images are not used: the recorded ones are normalised already, see `_as_they_are`.
        unused = np.zeros((3 * len(labels), 48, 48, 3), np.uint8)
        dataset = Dataset("recorded", unused, np.tile(labels, 3), splits, 10, neutral)
        parts = assemble(settings, dataset, self.devices, net=self.net)
        self.recipe, self.step_of, self.unpack = settings.recipe, parts.engine, jax.jit(parts.step.packing.unpack)
        weights = load_file(_RECORDED.parent / f"{name_of(network)}.safetensors")
        self.params = load_torch({name: v.astype(np.float64) for name, v in weights.items()}, self.net)["params"]
        self.images = replicate(Images.of(self.inputs["images"].astype(np.float64), labels), self.devices)

    def start(self, params, width_phase):
        arrays = arrays_at_start(params, self.net, self.recipe, width_phase)
        return Progress.at_start(0, replicate(arrays, self.devices)).state

    def step(self, state, teacher, recorded):
        subnets = recorded["subnets"]
        choices = None if subnets is None else Choices.stack([Subnet.parse(text) for text in subnets])
        inputs = StepInputs(
            images=self.images,
            indices=shard(np.array(recorded["batch"], np.int32)[None], self.devices),
            key=jax.random.key(0),
            learning_rate=jnp.float32(recorded["rate"]),
            teacher=None if choices is None else teacher,
            choices=choices,
        )
        return self.step_of(state, inputs, _RESOLUTION)

    def compare(self, params, key):
        """Compares sum, norm and an inner product of every parameter with the recorded ones."""
        state = to_torch({"params": params}, self.net)
        for name, (total, norm, inner) in zip(self.sums["names"], self.sums[key], strict=True):
            value = state[str(name)].ravel()
            ours = [value.sum(), np.linalg.norm(value), value @ np.cos(np.arange(1, value.size + 1))]
            error = np.abs(np.array(ours) - [total, norm, inner]).max() / norm
            assert error < _TOLERANCE, f"{key}, {name}: {error:.1e}"

    def train_phase(self, index, first_step):
        """Trains one phase from `self.params`, sets that to its best epoch, and returns the number of its steps."""
        phase = self.told["phases"][index]
        teacher = replicate(jax.tree.map(jnp.array, self.params), self.devices)
        state = self.start(self.params, phase["width_phase"])
        if index:
            self.compare(self.unpack(state.params), f"start{index:02d}")
        recorded = [step for step in self.told["steps"] if step["phase"] == phase["name"]]
        epochs = phase["epochs"] + phase["warmup_epochs"]
        scores = self.told["validation_scores"].get(phase["name"], list(range(epochs)))
        of_epoch = {}
        for number, step in enumerate(recorded):
            state, metrics = self.step(state, teacher, step)
            np.testing.assert_allclose(metrics["loss"], step["losses"], rtol=_TOLERANCE)
            params = self.unpack(state.params)
            self.compare(params, f"step{first_step + number:03d}")
            epoch, last = divmod(number + 1, len(recorded) // epochs)
            if not last:
                of_epoch[epoch - 1] = params
        # If scores are equal, the earlier epoch is the best one.
        self.params = of_epoch[int(np.argmax(scores[:epochs]))]
        self.last = params
        return len(recorded)


def _as_they_are(images, keys, resolution, augmentation, normalisation):
    """Replaces `train_images`, because the recorded images are cropped and normalised already."""
    return images


@pytest.mark.skipif(not _RECORDED.is_dir(), reason=f"no recorded trajectories at ../{'/'.join(_RECORDED.parts[-3:])}")
@pytest.mark.parametrize(
    "network", ["ee_d", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ee_dp", "ofa_mbv3"))]
)
def test_training_goes_the_way_of_the_reference(network, monkeypatch):
    monkeypatch.setattr(train_step.augment, "train_images", _as_they_are)
    with jax.enable_x64(True):
        replay, num_steps = Replay(network), 0
        for index in range(len(replay.told["phases"])):
            num_steps += replay.train_phase(index, num_steps)
        assert num_steps == len(replay.told["steps"])
        if network == "ee_d":
            # Recalibrated logits take as long to compile as all of the training; test_parity.py compares them too.
            return
        choices = Choices.stack([Subnet.parse(text) for text in replay.told["final_subnets"]])
        batches = [replay.inputs["recal"][part].astype(np.float64) for part in (slice(8), slice(8, 13), slice(13, 16))]
        variables = masked_recalibrate(replay.net, {"params": replay.last}, batches, choices)
        logits = masked(replay.net, variables, replay.inputs["test"].astype(np.float64), choices)
        for i, row in enumerate(logits):
            assert_close(row, replay.sums[f"logits{i}"], _TOLERANCE, f"{network}, final subnet {i}")


@pytest.mark.slow
@pytest.mark.skipif(not _RECORDED.is_dir(), reason=f"no recorded trajectories at ../{'/'.join(_RECORDED.parts[-3:])}")
def test_the_static_engine_goes_the_same_way(monkeypatch):
    """Of the same subnets, which are not uniform ones: each of the 48 is a program of its own."""
    monkeypatch.setattr(train_step.augment, "train_images", _as_they_are)
    with jax.enable_x64(True):
        replay, num_steps = Replay("ee_d", "static"), 0
        for index in range(len(replay.told["phases"])):
            num_steps += replay.train_phase(index, num_steps)
        assert num_steps == len(replay.told["steps"])
