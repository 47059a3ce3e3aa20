"""Counts the subnets that are tested in a minute, BN recalibration included, beside the same loop in PyTorch.

python -m benchmarks.evaluate [--images=1000] [--recalibration_images=1000] [--resolution=64] [--rounds=3] [--json=FILE]

Ours tests four trunks of EE_D at a time, each of which gives five subnets, one for each height; the baseline network
is compared with the package `ofa` (extra `bench`), which tests the same subnets. Seven rounds test all 27 of them.
"""

import argparse
import os
import statistics
from typing import Any

import jax

from benchmarks import pytorch
from benchmarks.apart import Apart
from benchmarks.ours import NUM_IMAGES, OurTest, machine, print_setting, write_json
from benchmarks.train_step import NETWORKS
from ofav2_jax.runtime import cpu

BATCH_SIZE = 100


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help=f"tested on, at most {NUM_IMAGES}")
    parser.add_argument("--recalibration_images", type=int, default=1000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()
    for name in ("images", "recalibration_images"):
        if not BATCH_SIZE <= getattr(args, name) <= NUM_IMAGES or getattr(args, name) % BATCH_SIZE:
            parser.error(f"--{name} must be a multiple of {BATCH_SIZE}, at most {NUM_IMAGES}")

    ours = (BATCH_SIZE, args.resolution, args.images, args.recalibration_images)
    candidates: dict[str, Any] = {network: (Apart(OurTest, network, *ours), ()) for network in NETWORKS}
    torch, torch_version = pytorch.beside(jax.default_backend(), BATCH_SIZE, args.resolution)
    if torch:
        further = args.recalibration_images // BATCH_SIZE, args.images // BATCH_SIZE
        candidates["torch"] = torch, (OurTest.num_trunks, *further)
    num_subnets = {
        name: OurTest.num_trunks if name == "torch" else test("num_subnets") for name, (test, _) in candidates.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(args.rounds + 1):
        for name, (test, further) in candidates.items():
            taken = test.seconds("test", number, *further) / num_subnets[name]
            if number:  # the first one compiles
                seconds[name].append(taken)
    results = {
        "machine": machine(),
        "setting": {**vars(args), "torch": torch_version},
        "seconds_per_subnet": {name: statistics.median(values) for name, values in seconds.items()},
    }
    per_subnet = results["seconds_per_subnet"]
    if torch:
        results["ratio"] = per_subnet["ofa_mbv3"] / per_subnet["torch"]
    print_setting(results)
    print(f"\n{'network':<10}{'s/subnet':>10}{'min':>9}{'max':>9}{'subnets/min':>13}")
    for name, value in per_subnet.items():
        spread = f"{min(seconds[name]):>9.3f}{max(seconds[name]):>9.3f}"
        print(f"{name:<10}{value:>10.3f}{spread}{60 / value:>13.1f}")
    if torch:
        print(f"ratio, ofa_mbv3 / torch: {results['ratio']:.2f}")
    write_json(args.json, results)


if __name__ == "__main__":
    cpu.prepare()
    main()
