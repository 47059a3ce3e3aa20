"""Counts the subnets that are tested in a minute, BN recalibration included, beside the same loop in PyTorch.

python -m benchmarks.evaluate [--images=1000] [--recalibration_images=1000] [--resolution=64] [--rounds=3] [--json=FILE]

Ours tests four trunks of EE_D at a time, each of which gives five subnets, one for each height; the baseline network
is compared with the package `ofa` (extra `bench`).
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time

import jax

from benchmarks import pytorch
from benchmarks.ours import NUM_IMAGES, Ours, images, machine
from benchmarks.train_step import NETWORKS
from experiments.huge_pages import use_huge_pages
from ofav2_jax.evaluate import Evaluation, Evaluator

BATCH_SIZE = 100
TRUNKS = 4


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help=f"tested on, at most {NUM_IMAGES}")
    parser.add_argument("--recalibration_images", type=int, default=1000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    for name in ("images", "recalibration_images"):
        if not BATCH_SIZE <= getattr(args, name) <= NUM_IMAGES or getattr(args, name) % BATCH_SIZE:
            parser.error(f"--{name} must be a multiple of {BATCH_SIZE}, at most {NUM_IMAGES}")

    dataset = images(args.images)
    candidates = {network: _ours(network, args, dataset) for network in NETWORKS}
    torch, torch_version = pytorch.beside(jax.default_backend(), BATCH_SIZE, args.resolution)
    if torch:
        batches = args.recalibration_images // BATCH_SIZE, args.images // BATCH_SIZE
        candidates["torch"] = (lambda number: torch.test(number, *batches)), 1
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(args.rounds + 1):
        for name, (test, num_subnets) in candidates.items():
            started = time.perf_counter()
            test(number)
            if number:  # the first one compiles
                seconds[name].append((time.perf_counter() - started) / num_subnets)
    results = {
        "machine": machine(),
        "setting": {**vars(args), "torch": torch_version},
        "seconds_per_subnet": {name: statistics.median(values) for name, values in seconds.items()},
    }
    per_subnet = results["seconds_per_subnet"]
    if torch:
        results["ratio"] = per_subnet["ofa_mbv3"] / per_subnet["torch"]
    for name, value in (results["machine"] | results["setting"]).items():
        print(f"{name:<21} {value}")
    print(f"\n{'network':<10}{'s/subnet':>10}{'min':>9}{'max':>9}{'subnets/min':>13}")
    for name, value in per_subnet.items():
        spread = f"{min(seconds[name]):>9.3f}{max(seconds[name]):>9.3f}"
        print(f"{name:<10}{value:>10.3f}{spread}{60 / value:>13.1f}")
    if torch:
        print(f"ratio, ofa_mbv3 / torch: {results['ratio']:.2f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


def _ours(network, args, dataset):
    ours = Ours(network, BATCH_SIZE, args.resolution)
    evaluation = Evaluation(args.recalibration_images, BATCH_SIZE, BATCH_SIZE, TRUNKS)
    evaluator = Evaluator(ours.steps, evaluation, dataset, ours.source, seed=0)
    trunks = list(ours.spaces["width2"].restrict(height=(5,)).uniform_subnets())
    heights = ours.spaces["width2"].height

    def test(number):
        chosen = itertools.islice(itertools.cycle(trunks), TRUNKS * number, TRUNKS * (number + 1))
        subnets = [dataclasses.replace(subnet, height=height) for subnet in chosen for height in heights]
        evaluator.score(ours.state.params, subnets, args.resolution, "test")

    return test, TRUNKS * len(heights)


if __name__ == "__main__":
    use_huge_pages()
    main()
