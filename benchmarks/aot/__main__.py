"""Compiles a program of the project for a TPU or GPU that is not there, and says what the compiler makes of it.

python -m benchmarks.aot --target=v5e|v6e|h100|h200 [--phase=full|kernel|depth2|width2|recalibrate|test]
                         [--network=ee_d] [--width_multiplier=1.0] [--batch_size=200] [--resolution=64]
                         [--top=20] [--hlo=FILE] [--json=FILE] [--against=FILE]

Activations are bfloat16. `full`, `kernel`, `depth2` and `width2` are steps: of the maximal network, and of one, two and
four subnets with a teacher. Recalibration and test have the batch sizes of the settings. The data set is 110,000 images
of 64x64. Nothing is run: the times are the compilers' estimates, and benchmarks/README.md says how far they can be
trusted. The extra `aot` installs the compilers.

Programs for TPUs skip what a subnet does not contain. What such a program executes is counted on average over the
subnets that are drawn in the phase.
"""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

# Before JAX looks for devices: the only one is this machine's CPU.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from benchmarks.aot import tables
from benchmarks.aot.costs import COSTS
from benchmarks.aot.drawn import Drawn, in_program
from benchmarks.aot.hlo import Module
from benchmarks.aot.lowering import PHASES, Setting, compile_for, lower
from benchmarks.aot.targets import TARGETS, Target
from benchmarks.aot.traffic import operations
from benchmarks.ours import write_json
from benchmarks.train_step import NUM_SUBNETS


def main() -> None:
    """Prints the figures, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--phase", choices=PHASES, default="full")
    parser.add_argument("--network", default="ee_d")
    parser.add_argument("--width_multiplier", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--top", type=int, default=20, help="how many operations are listed")
    parser.add_argument("--hlo", type=os.path.expanduser, help="file to write the compiled program to")
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    parser.add_argument("--against", type=os.path.expanduser, help="file of earlier figures to compare with")
    args = parser.parse_args()
    target = TARGETS[args.target]
    if target.missing:
        parser.error(target.missing)
    # Read first: a compilation may take a quarter of an hour.
    earlier = json.loads(Path(args.against).read_text(encoding="utf-8")) if args.against else None

    setting = Setting(args.network, args.width_multiplier, args.batch_size, args.resolution)
    lowered, trace_s = lower(setting, args.phase, target)
    compiled, compile_s = compile_for(target, lowered)
    text = compiled.as_text() or ""
    if args.hlo:
        Path(args.hlo).write_text(text, encoding="utf-8")
    results = {
        "setting": {key: value for key, value in vars(args).items() if key not in ("json", "against", "hlo", "top")},
        "jax": jax.__version__,
        "trace_processor_s": trace_s,
        "compile_processor_s": compile_s,
        **memory(compiled),
        **analysis(text, target, args.top, NUM_SUBNETS.get(args.phase, 0) > 0, in_program(setting, args.phase)),
    }
    print_results(results, target)
    if earlier:
        print(f"\nthis divided by {args.against}")
        if earlier["setting"] != results["setting"]:
            print(f"  NOTE: its setting differs: {earlier['setting']}")
        for name, ratio in tables.ratios(results, earlier).items():
            print(f"  {name:<24}{ratio:>8.3f}")
    write_json(args.json, results)


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of the device's memory that the program needs."""
    sizes: Any = compiled.memory_analysis()
    return {
        "argument_bytes": sizes.argument_size_in_bytes,
        "temporary_bytes": sizes.temp_size_in_bytes,
        "new_result_bytes": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
    }


def analysis(text: str, target: Target, top: int, has_teacher: bool, drawn: Drawn | None = None) -> dict[str, Any]:
    """The figures and tables of a compiled program; see `operations` for the subnets that are drawn."""
    module, cost = Module(text), COSTS[target.platform]
    executed, unknown = operations(module, drawn)
    figures = cost.estimate(executed, target)
    largest = cost.estimate(operations(module, drawn and drawn.largest)[0], target)
    return {
        **figures,
        **{f"{estimate}_largest": largest[estimate] for estimate in cost.ESTIMATES},
        "bytes": round(sum(operation.num_bytes * operation.times for operation in executed)),
        "operations": len(executed),
        "launches": round(sum(operation.times for operation in executed)),
        "drawn": drawn and dataclasses.asdict(drawn),
        "loops_of_unknown_length": unknown.loops,
        "conditionals_of_unknown_frequency": unknown.conditionals,
        "parts": tables.by_part(executed, has_teacher),
        "most_expensive": {
            estimate: tables.most_expensive(executed, estimate, top, has_teacher) for estimate in cost.ESTIMATES
        },
    }


def print_results(results: dict[str, Any], target: Target) -> None:
    """All figures and tables."""
    for name, value in results["setting"].items():
        print(f"{name:<28}{value}")
    print()
    for name, value in results.items():
        if isinstance(value, float | int):
            print(f"{name:<28}{value:>18,.2f}" if isinstance(value, float) else f"{name:<28}{value:>18,}")
    needed = results["argument_bytes"] + results["temporary_bytes"] + results["new_result_bytes"]
    print(f"{'share of memory needed':<28}{needed / target.memory:>18.1%}")
    if any(results[f"{estimate}_largest"] != results[estimate] for estimate in results["most_expensive"]):
        print("figures are averages over the subnets that are drawn; _largest is an upper bound, as if each of them")
        print("computed all levels, stages and exits that any can have")
    if results["loops_of_unknown_length"]:
        print(f"counted once: the loops {', '.join(results['loops_of_unknown_length'])}")
    if results["conditionals_of_unknown_frequency"]:
        print(f"counted with one branch: the conditionals {', '.join(results['conditionals_of_unknown_frequency'])}")
    for estimate, rows in results["most_expensive"].items():
        tables.print_parts(results["parts"], estimate)
        tables.print_most_expensive(rows, estimate, results[estimate])


if __name__ == "__main__":
    main()
