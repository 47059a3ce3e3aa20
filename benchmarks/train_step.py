"""Times one optimiser step of a phase: a teacher forward, S sampled subnets forward and backward, an update.

python -m benchmarks.train_step [--network=ee_d] [--subnets=4] [--batch_size=64] [--resolution=64] [--steps=10]
"""

import argparse
import statistics
import time

import jax
import numpy as np

from ofav2_jax import SearchSpace, SuperNet
from ofav2_jax.data.augment import Normalisation
from ofav2_jax.programs import Programs
from ofav2_jax.step import Images, MaskedEngine, Recipe, Steps, TrainState, replicate
from ofav2_jax.train import initial_params


def main() -> None:
    """Prints compile seconds, and the median and spread of the seconds per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="ee_d")
    parser.add_argument("--width_multiplier", type=float, default=1.0)
    parser.add_argument("--subnets", type=int, default=4, help="0: phase full")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    devices = jax.devices()[:1]
    net = SuperNet(args.network, args.width_multiplier, num_classes=200)
    programs = Programs([args.resolution])
    steps = Steps(net, Recipe(), Normalisation((0.5,) * 3, (0.25,) * 3), devices, programs)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000, 64, 64, 3)).astype(np.uint8)
    data = replicate(Images(images, rng.integers(0, 200, 1000).astype(np.int32)), devices)
    params = initial_params(net, 0)
    state = replicate(TrainState(params, Recipe().optimizer().init(params)), devices)
    teacher = replicate(initial_params(net, 1), devices)
    engine, space = MaskedEngine(steps), SearchSpace(net)

    seconds = []
    for step in range(args.steps + 1):
        key = jax.random.fold_in(jax.random.key(0), step)
        indices = rng.integers(0, 1000, (1, args.batch_size)).astype(np.int32)
        start = time.perf_counter()
        if args.subnets:
            choices = engine.draw(key, space, args.subnets)
            state, metrics = engine.step(state, teacher, data, choices, indices, key, 1e-3, args.resolution)
        else:
            state, metrics = steps.full_step(state, data, indices, key, 1e-3, args.resolution)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]  # the first one compiled
    median = statistics.median(seconds)
    print(f"{args.network}, {args.subnets or 'full'} subnets, batch {args.batch_size}, resolution {args.resolution}")
    print(f"compile {programs.seconds:.1f} s")
    print(f"step median {median:.3f} s, min {min(seconds):.3f} s, max {max(seconds):.3f} s")
    rate = args.batch_size / median
    print(f"{rate:.1f} images/s, {rate * max(args.subnets, 1):.1f} subnet-images/s")


if __name__ == "__main__":
    main()
