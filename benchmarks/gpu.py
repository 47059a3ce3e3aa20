"""Every figure of a GPU in one call: steps in both precisions beside PyTorch, testing, and what that makes of a run.

python -m benchmarks.gpu [--batch_size=200] [--json=FILE]

Projects the whole Extended Progressive Shrinking of EE_D (Table III on 85,000 images) from the measured steps at all
three resolutions.
"""

import argparse
import os
import time
from typing import Any

from benchmarks.ours import Ours, machine, write_json
from benchmarks.train_step import NUM_SUBNETS, measure, print_table
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Evaluation

TRAIN_IMAGES = 85_000
RESOLUTIONS = (48, 56, 64)


def main() -> None:
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()

    results: dict[str, Any] = {"machine": machine(), "steps": {}}

    def steps(dtype):
        results["steps"][dtype] = measure(args.batch_size, 64, ["full", "width2"], args.steps, dtype)
        print_table(results["steps"][dtype])
        write_json(args.json, results)

    def figures(name, values):
        results[name] = values
        print(f"\n{name}")
        for key, value in values.items():
            print(f"  {key:<34}{value:,.4g}")
        write_json(args.json, results)

    # What matters most first, and each part written at once: a call that is cut short has not been for nothing.
    steps("bfloat16")
    figures("testing", test_width_2(args.batch_size))
    figures("projection", project(args.batch_size, args.steps))
    steps("float32")


def project(batch_size: int, num_steps: int) -> dict[str, float]:
    """Minutes of training of the whole of EE_D's phases, from the time of each kind of step in bfloat16."""
    seconds = {}
    for resolution in RESOLUTIONS:
        ours = Ours("ee_d", batch_size, resolution, "bfloat16")
        for phase, num_subnets in NUM_SUBNETS.items():
            ours.step(phase, num_subnets, 0)
            started = time.perf_counter()
            for step in range(num_steps):
                ours.step(phase, num_subnets, 1 + step)
            seconds[num_subnets, resolution] = (time.perf_counter() - started) / num_steps
    per_epoch = TRAIN_IMAGES // batch_size
    total = sum(
        phase.total_epochs
        * per_epoch
        * sum(seconds[phase.num_subnets, resolution] for resolution in RESOLUTIONS)
        / len(RESOLUTIONS)
        for phase in paper_phases("ee_d")
    )
    steps = {
        f"s/step, {num_subnets or 'full'}, {resolution} px": value
        for (num_subnets, resolution), value in seconds.items()
    }
    return {**steps, "minutes of training in all": total / 60}


def test_width_2(batch_size: int) -> dict[str, float]:
    """Seconds to recalibrate and test EE_D's 405 subnets on 10,000 images each, from a part of them at 64 px."""
    ours = Ours("ee_d", batch_size, 64, "bfloat16", evaluation=Evaluation(batch_size=1000))
    evaluator = ours.parts.evaluator
    subnets = list(ours.spaces["width2"].uniform_subnets())
    part = subnets[:40]
    evaluator.score(ours.teacher, part, 64, "test")
    started = time.perf_counter()
    evaluator.score(ours.teacher, part, 64, "test")
    per_subnet = (time.perf_counter() - started) / len(part)
    return {"s/subnet": per_subnet, "s, 405 subnets": per_subnet * len(subnets) * len(RESOLUTIONS)}


if __name__ == "__main__":
    main()
