"""Some steps of training and a test, on any number of devices of one process or of several.

python -m tests.helpers.steps COORDINATOR NUM_PROCESSES INDEX DEVICES_PER_PROCESS OUT
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from ofav2_jax import Subnet, SuperNet
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.evaluator import Evaluation, Evaluator
from ofav2_jax.model.choices import Choices
from ofav2_jax.run.run import initial_params
from ofav2_jax.runtime import processes, programs
from ofav2_jax.runtime.feed import image_feed
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.runtime.sharding import replicate
from ofav2_jax.runtime.trace_cache import Traces
from ofav2_jax.settings.recipe import Augmentation
from ofav2_jax.train.step import ENGINES, Recipe, Steps

RATE = 1e-3
RESOLUTION = 32
# Images are mirrored, by draws of their own, but not cropped, see `Exact`.
RECIPE = Recipe(augmentation=Augmentation(area=(1, 1), aspect=(1, 1)))
SMALL, MIXED = Subnet.uniform(kernel=3, expand=3, depth=2), Subnet.uniform(kernel=5, expand=6, depth=3)
# The subnets of each step; None stands for a step of phase full.
FOUR = [None, None, [SMALL, MIXED], [SMALL, MIXED]]
TEN = [None] * 3 + [[SMALL], [MIXED], [SMALL]] + [[SMALL, MIXED]] * 4


class Exact(Normalisation):
    """Without rounding in float32.

    A pixel that differs by 1e-8 moves some of millions of activations across the kink of a ReLU; the gradient then
    differs by far more than that, and more so with every step.
    """

    def __call__(self, pixels):
        return pixels / 256 - 0.5


def train(
    network: str,
    engine_name: str,
    devices: list[jax.Device],
    subnets_of_step: list,
    traces: Traces | None = None,
) -> dict[str, np.ndarray]:
    """In float64: what float32 rounds away crosses kinks of ReLUs, see `Exact`.

    Returns:
        Parameters by name, losses of all steps, and right answers in a test.
    """
    digits = load_digits(seed=0)
    net = SuperNet(network, width_multiplier=0.1, num_classes=10, dtype=jnp.float64)
    steps = Steps(net, RECIPE, Exact(*digits.normalisation), devices, Programs([RESOLUTION], traces))
    feed, engine = image_feed(digits, devices), ENGINES[engine_name](steps)
    start, teacher = (jax.tree.map(lambda p: jnp.array(p, jnp.float64), initial_params(net, seed)) for seed in (0, 1))
    state = replicate(steps.init_state(start), devices)
    teacher = replicate(teacher, devices)
    indices, losses = digits.splits["train"].astype(np.int32), []
    for step, subnets in enumerate(subnets_of_step):
        data, places = feed.batch(np.roll(indices, 16 * step)[:64].reshape(len(devices), -1))
        key = jax.random.fold_in(jax.random.key(5), step)
        if subnets is None:
            result = steps.full_step(state, data, places, key, RATE, RESOLUTION)
        else:
            choices = Choices.stack(subnets)
            result = engine.step(state, teacher, data, choices, places, key, RATE, RESOLUTION)
        # Collectives of virtual devices must not be in flight together.
        state, metrics = jax.block_until_ready(result)
        losses.append(float(jnp.mean(metrics["loss"])))
    params = jax.jit(steps.packing.unpack)(state.params)
    evaluator = Evaluator(steps, Evaluation(60, 30, 46, 2), digits, feed, seed=0)
    scores = evaluator.score(params, [Subnet.uniform(), SMALL, MIXED], RESOLUTION, "test")
    return {
        "losses": np.array(losses),
        "top1": np.array([score.top1 for score in scores]),
        **{jax.tree_util.keystr(path): np.asarray(p) for path, p in jax.tree_util.tree_leaves_with_path(params)},
    }


if __name__ == "__main__":
    coordinator, num_processes, index, num_devices, out = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(num_devices))
    jax.config.update("jax_enable_x64", True)
    programs.compiler_options = programs.quick_compiler_options
    processes.connect(coordinator, int(num_processes), int(index))
    np.savez(f"{out}-{index}.npz", **train("ofa_mbv3", "masked", jax.devices(), FOUR))
