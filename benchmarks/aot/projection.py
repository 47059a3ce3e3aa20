"""Projects the steps of a whole run of Extended Progressive Shrinking on a TPU or GPU that is not there.

python -m benchmarks.aot.projection --target=v5e|v6e|h100|h200 [--network=ee_d] [--resolutions=48,56,64] [--json=FILE]

Phases, epochs, subnets per batch and the batch size are the paper's; each resolution is drawn equally often. The times
are the compilers' estimates, see benchmarks.aot; those of a TPU are averages over the subnets that are drawn in each
phase. Steps alone: neither evaluation, nor compilation, nor reading the data set.

For a TPU two programs are compiled for each resolution, one for phase full and one for all others; for a GPU one for
each number of subnets per batch.
"""

import argparse
import os
from typing import Any

# Before JAX looks for devices: the only one is this machine's CPU.
os.environ["JAX_PLATFORMS"] = "cpu"

from benchmarks.aot import drawn
from benchmarks.aot.costs import COSTS
from benchmarks.aot.hlo import Module
from benchmarks.aot.lowering import Setting, compile_for, lower
from benchmarks.aot.targets import TARGETS, Target
from benchmarks.aot.traffic import operations
from benchmarks.ours import write_json
from benchmarks.train_step import NUM_SUBNETS
from ofav2_jax import Settings
from ofav2_jax.model.network import NETWORKS
from ofav2_jax.ops.backend import one_at_a_time, traced_for
from ofav2_jax.settings.phases import Phase

# Tiny ImageNet has 100,000, of which 15 % validate.
NUM_TRAIN_IMAGES = 85_000

# For the name of a phase and a resolution the estimates of a step, milliseconds.
Estimates = dict[tuple[str, int], dict[str, float]]


def main() -> None:
    """Prints the estimates as they come, then the table, and writes both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--network", choices=NETWORKS, default="ee_d")
    parser.add_argument("--resolutions", help="some of the paper's; then all steps count as if they had these")
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()
    target = TARGETS[args.target]
    if target.missing:
        parser.error(target.missing)
    settings = Settings.paper(args.network)
    resolutions = tuple(int(each) for each in args.resolutions.split(",")) if args.resolutions else settings.resolutions
    if not set(resolutions) <= set(settings.resolutions):
        parser.error(f"--resolutions={args.resolutions} is not allowed: the run's are {settings.resolutions}")

    estimates: Estimates = {}
    for resolution in resolutions:
        for program, phases in programs_of(settings, target).items():
            setting = Setting(args.network, batch_size=settings.batch_size, resolution=resolution)
            estimates |= estimate(setting, settings, target, program, phases)
    results = {
        "setting": {"target": args.target, "network": args.network, "resolutions": resolutions},
        **project(settings, estimates, resolutions),
    }
    print_table(results, set(settings.resolutions) - set(resolutions))
    write_json(args.json, results)


def programs_of(settings: Settings, target: Target) -> dict[str, list[int]]:
    """The programs that take the steps of a run: names in `lowering.PHASES`, and the indices of their phases."""
    with traced_for(target.platform):
        serves_all = one_at_a_time()
    most = max(phase.num_subnets for phase in settings.phases)
    names = {count: name for name, count in NUM_SUBNETS.items()}
    found: dict[str, list[int]] = {}
    for index, phase in enumerate(settings.phases):
        count = most if serves_all and not phase.is_full else phase.num_subnets
        found.setdefault(names[count], []).append(index)
    return found


def estimate(setting: Setting, settings: Settings, target: Target, program: str, phases: list[int]) -> Estimates:
    """Compiles a program, and prints and returns what its steps take in each of the phases that it serves."""
    compiled, seconds = compile_for(target, lower(setting, program, target)[0])
    module, cost = Module(compiled.as_text() or ""), COSTS[target.platform]
    print(f"\n{program} at {setting.resolution} px, compiled in {seconds:.0f} s of processor time", flush=True)
    found: Estimates = {}
    for index in phases:
        phase = settings.phases[index]
        executed, unknown = operations(module, drawn.in_phase(setting.network, settings.phases, index))
        figures = cost.estimate(executed, target)
        found[phase.name, setting.resolution] = {name: figures[name] for name in cost.ESTIMATES}
        columns = "".join(f"{name} {figures[name]:.2f}  " for name in cost.ESTIMATES)
        print(f"  {phase.name:<10}{columns}", flush=True)
        if unknown.loops or unknown.conditionals:
            print(f"  NOTE: counted with unknown frequency: {', '.join((*unknown.loops, *unknown.conditionals))}")
    return found


def project(settings: Settings, estimates: Estimates, resolutions: tuple[int, ...]) -> dict[str, Any]:
    """Steps, milliseconds a step and hours of each phase and of all."""

    def row(phase: Phase) -> dict[str, Any]:
        steps = phase.total_epochs * (NUM_TRAIN_IMAGES // settings.batch_size)
        at_each = {resolution: estimates[phase.name, resolution] for resolution in resolutions}
        names = at_each[resolutions[0]]
        mean = {name: sum(of_one[name] for of_one in at_each.values()) / len(at_each) for name in names}
        hours = {name: steps * ms / 3.6e6 for name, ms in mean.items()}
        common = {"phase": phase.name, "num_subnets": phase.num_subnets, "steps": steps}
        return {**common, "ms": mean, "ms_at_resolution": at_each, "hours": hours}

    rows = [row(phase) for phase in settings.phases]
    hours = {name: sum(row["hours"][name] for row in rows) for name in rows[0]["hours"]}
    return {"phases": rows, "steps": sum(row["steps"] for row in rows), "hours": hours}


def print_table(results: dict[str, Any], missing: set[int]) -> None:
    """One line for each phase, and the sum."""
    names = list(results["hours"])
    print(f"\n{'phase':<10}{'subnets':>8}{'steps':>11}" + "".join(f"{name:>14}{'hours':>9}" for name in names))
    for row in results["phases"]:
        columns = "".join(f"{row['ms'][name]:>14.2f}{row['hours'][name]:>9.2f}" for name in names)
        print(f"{row['phase']:<10}{row['num_subnets'] or '-':>8}{row['steps']:>11,}{columns}")
    total = "".join(f"{'':>14}{results['hours'][name]:>9.2f}" for name in names)
    print(f"{'all':<10}{'':>8}{results['steps']:>11,}{total}")
    if missing:
        computed, others = (", ".join(map(str, sorted(each))) for each in (results["setting"]["resolutions"], missing))
        print(f"NOTE: all steps count as if they had {computed} px; a run draws {others} px as often, too")


if __name__ == "__main__":
    main()
