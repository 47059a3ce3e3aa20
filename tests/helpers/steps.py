"""Some training steps and an evaluation, on any number of devices in one process or in several.

python -m tests.helpers.steps COORDINATOR NUM_PROCESSES INDEX DEVICES_PER_PROCESS OUT
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax import Choices, Settings, Subnet, SuperNet
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.digits import load_digits
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.runtime import processes, programs
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.settings.recipe import Augmentation, Evaluation, Recipe
from ofav2_jax.train.step import StepInputs

RATE = 1e-3
RESOLUTION = 32
# Images are mirrored at random, but not cropped; for the reason see `Exact`.
RECIPE = Recipe(augmentation=Augmentation(area=(1, 1), aspect=(1, 1)))
EVALUATION = Evaluation(60, 30, 46, 2)
SMALL, MIXED = Subnet.uniform(kernel=3, expand=3, depth=2), Subnet.uniform(kernel=5, expand=6, depth=3)
# The subnets of each step; None stands for a step of phase full.
TWO = [[SMALL, MIXED], [SMALL, MIXED]]
TEN = [None] * 3 + [[SMALL], [MIXED], [SMALL]] + [[SMALL, MIXED]] * 4


class Exact(Normalisation):
    """A normalisation without rounding errors in float32.

    If a pixel differs by 1e-8, some of millions of activations move across the kink of a ReLU. The gradient then
    differs by far more than 1e-8, and more so with every step.
    """

    def __call__(self, pixels):
        return pixels / 256 - 0.5


def inputs_of(parts, first, number, key, rate, subnets=None, teacher=None):
    """Inputs of a step on `number` training images from the `first` on; without subnets it is a step of phase full."""
    indices = np.roll(parts.dataset.splits["train"].astype(np.int32), first)[:number]
    images, places = parts.feed.batch(indices.reshape(len(parts.devices), -1))
    choices = None if subnets is None else Choices.stack(subnets)
    return StepInputs(images, places, key, jnp.float32(rate), None if subnets is None else teacher, choices)


def train(network: str, engine: str, devices: list[jax.Device], subnets_of_step: list) -> dict[str, np.ndarray]:
    """Trains and evaluates in float64, because rounding in float32 moves activations across kinks, see `Exact`.

    Returns:
        Parameters by name, losses of all steps, and accuracies of an evaluation.
    """
    digits = load_digits(seed=0)
    digits = dataclasses.replace(digits, normalisation=Exact(*digits.normalisation))
    net = SuperNet(network, width_multiplier=0.1, num_classes=10, dtype=jnp.float64)
    settings = Settings.paper(
        network, batch_size=64, resolutions=(RESOLUTION,), engine=engine, recipe=RECIPE, evaluation=EVALUATION
    )
    parts = assemble(settings, digits, devices, net=net)
    start, teacher = (jax.tree.map(lambda p: jnp.array(p, jnp.float64), initial_params(net, seed)) for seed in (0, 1))
    state = replicate(parts.step.init_state(start), devices)
    teacher = replicate(teacher, devices)
    losses = []
    for number, subnets in enumerate(subnets_of_step):
        key = jax.random.fold_in(jax.random.key(5), number)
        inputs = inputs_of(parts, 16 * number, 64, key, RATE, subnets, teacher)
        # Collectives of several steps must not be in flight together on virtual devices.
        state, metrics = jax.block_until_ready(parts.engine(state, inputs, RESOLUTION))
        losses.append(float(jnp.mean(metrics["loss"])))
    params = jax.jit(parts.step.packing.unpack)(state.params)
    scores = parts.evaluator.score(params, [Subnet.uniform(), SMALL, MIXED], RESOLUTION, "test")
    return {
        "losses": np.array(losses),
        "top1": np.array([score.top1 for score in scores]),
        **{jax.tree_util.keystr(path): np.asarray(p) for path, p in jax.tree_util.tree_leaves_with_path(params)},
    }


if __name__ == "__main__":
    coordinator, num_processes, index, num_devices, out = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(num_devices))
    jax.config.update("jax_enable_x64", True)
    programs.compile_quickly()
    processes.connect(coordinator, int(num_processes), int(index))
    np.savez(f"{out}-{index}.npz", **train("ofa_mbv3", "masked", jax.devices(), TWO))
