"""Times one optimiser step of the phases full, kernel and width 2, side by side with the same work in PyTorch.

python -m benchmarks.train_step [--batch_size=64] [--resolution=64] [--steps=8] [--phases=full,kernel,width2]
                                [--dtype=float32] [--json=FILE]

The baseline network is compared with the package `ofa` (extra `bench`; without it that line is missing), step by
step in alternation, each in a process of its own; EE_D stands beside. Our step includes gathering and augmenting the
images, whose share is given; PyTorch's starts from a batch that is ready. Memory is the most that a process has held,
its programs included.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from typing import Any

import jax

from benchmarks import pytorch
from benchmarks.apart import Apart
from benchmarks.ours import Ours, machine, print_setting, write_json
from ofav2_jax.runtime import cpu

# Subnets per step, as in Table III; phase full trains the maximal network itself.
NUM_SUBNETS = {"full": 0, "kernel": 1, "depth2": 2, "width2": 4}
_STEPS_PER_TURN = 2
NETWORKS = ("ofa_mbv3", "ee_d")


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="of each kind, two at a time")
    parser.add_argument("--phases", default="full,kernel,width2", help=f"any of {', '.join(NUM_SUBNETS)}")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of activations")
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()
    phases = args.phases.split(",")
    for phase in phases:
        if phase not in NUM_SUBNETS:
            parser.error(f"--phases={phase} is not allowed: it must be any of {', '.join(NUM_SUBNETS)}")

    if args.steps < _STEPS_PER_TURN:
        parser.error(f"--steps={args.steps} is not allowed: it must be at least {_STEPS_PER_TURN}")

    results = measure(args.batch_size, args.resolution, phases, args.steps, args.dtype)
    print_table(results)
    write_json(args.json, results)


def measure(batch_size: int, resolution: int, phases: list[str], num_steps: int, dtype: str) -> dict[str, Any]:
    """Times every phase.

    Returns:
        "machine", "setting", and for each phase its rows by name and `ratio`, our time over PyTorch's.
    """

    def start(network: str, phase: str) -> tuple[Apart, float]:
        ours = Apart(Ours, network, batch_size, resolution, dtype)
        ours("step", phase, NUM_SUBNETS[phase], 0)
        return ours, ours("compile_seconds")

    with tempfile.TemporaryDirectory() as cache:
        # Processes that are started from here on keep their programs there.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        compile_s = {}
        for phase, network in itertools.product(phases, NETWORKS):
            # By itself, before the others are there: a virtual machine has to find memory for what is idle, too.
            ours, compile_s[phase, network] = start(network, phase)
            ours.close()
        torch, torch_version = pytorch.beside(jax.default_backend(), batch_size, resolution)
        results: dict[str, Any] = {
            "machine": machine(),
            "setting": {"batch_size": batch_size, "resolution": resolution, "dtype": dtype, "torch": torch_version},
            "phases": {},
        }
        for phase in phases:
            rows: dict[str, Any] = {}
            candidates: dict[str, tuple[Apart, tuple[Any, ...]]] = {}
            for network in NETWORKS:
                ours, cached_s = start(network, phase)
                rows[network] = {"compile_s": compile_s[phase, network], "compile_cached_s": cached_s}
                candidates[network] = ours, ()
            if torch:
                rows["torch"] = {}
                candidates["torch"] = torch, (dtype == "bfloat16",)
            _time(candidates, rows, num_steps, batch_size, phase)
            for network in NETWORKS:
                ours = candidates[network][0]
                ours("read", 0)
                taken = statistics.median(ours.seconds("read", step) for step in range(num_steps))
                rows[network]["input_share"] = taken / rows[network]["median_s"]
            results["phases"][phase] = {"rows": rows}
            if torch:
                results["phases"][phase]["ratio"] = rows["ofa_mbv3"]["median_s"] / rows["torch"]["median_s"]
            for network in NETWORKS:
                candidates[network][0].close()
    return results


def _time(candidates, rows, num_steps, batch_size, phase):
    """Fills in the rows; the candidates take turns, so that what disturbs the machine disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(num_steps // _STEPS_PER_TURN):
        for name, (candidate, further) in candidates.items():
            # The first step of a turn is not counted: training does not pause, and a virtual machine takes back the
            # memory of a process that does.
            for step in range(_STEPS_PER_TURN + 1):
                taken = candidate.seconds("step", phase, NUM_SUBNETS[phase], 100 * turn + step, *further)
                if step:
                    seconds[name].append(taken)
    for name, values in seconds.items():
        median = statistics.median(values)
        rows[name] |= {
            "median_s": median,
            "min_s": min(values),
            "max_s": max(values),
            "images_per_s": batch_size / median,
            "subnet_images_per_s": batch_size * max(NUM_SUBNETS[phase], 1) / median,
            "peak_mib": candidates[name][0]("peak_mib"),
        }


def print_table(results: dict[str, Any]) -> None:
    """One line for each phase and candidate."""
    print_setting(results)
    print(
        f"\n{'phase':<8}{'network':<10}{'median':>9}{'min':>9}{'max':>9}{'images/s':>11}{'subnet-im./s':>14}"
        f"{'input':>8}{'compile':>9}{'cached':>8}{'peak MiB':>10}"
    )
    for phase, result in results["phases"].items():
        for name, row in result["rows"].items():
            share = f"{row['input_share']:>8.1%}" if "input_share" in row else " " * 8
            compiled = "".join(
                f"{row[key]:>{width}.1f}" if key in row else " " * width
                for key, width in (("compile_s", 9), ("compile_cached_s", 8))
            )
            print(
                f"{phase:<8}{name:<10}{row['median_s']:>9.4f}{row['min_s']:>9.4f}{row['max_s']:>9.4f}"
                f"{row['images_per_s']:>11,.1f}{row['subnet_images_per_s']:>14,.1f}"
                f"{share}{compiled}{row['peak_mib']:>10,.0f}"
            )
        if "ratio" in result:
            print(f"{phase:<8}ratio, ofa_mbv3 / torch: {result['ratio']:.2f}")


if __name__ == "__main__":
    cpu.prepare()
    main()
