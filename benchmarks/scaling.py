"""Times a step of phase width 2 on 1, 2, 4 and 8 devices, with one batch shared out among them.

python -m benchmarks.scaling [--network=ee_d] [--batch_size=64] [--resolution=64] [--steps=4] [--json=FILE]

Without several accelerators the devices are virtual ones of this machine's CPU, which do the same work with the same
cores: what a step takes longer than on one of them is the overhead of splitting it, not a speed-up. What is sent
between the devices is read off the compiled program.
"""

import argparse
import os
import re
import statistics
from typing import Any

from benchmarks.apart import Apart
from benchmarks.ours import Ours, machine, print_setting, write_json
from ofav2_jax.runtime import cpu

_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
_COUNTS = (1, 2, 4, 8)
_NUM_SUBNETS = 4


class Spread(Ours):
    """A network on several devices."""

    def all_reduced(self) -> dict[str, int]:
        """Operations that sum over the devices in the programs so far, and the bytes of their results."""
        results = [
            result
            for program in self.parts.programs.compiled()
            for result in re.findall(r" = (.*?) all-reduce(?:-start)?\(", program.as_text() or "")
        ]
        arrays = [array for result in results for array in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", result)]
        return {
            "operations": len(results),
            "bytes": sum(_BYTES[dtype] * _product(map(int, filter(None, dims.split(",")))) for dtype, dims in arrays),
        }


def _product(values: Any) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ee_d")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()

    rows = {}
    for count in _COUNTS:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(count)
        spread = Apart(Spread, args.network, args.batch_size, args.resolution, "float32", count)
        seconds = [spread.seconds("step", "width2", _NUM_SUBNETS, number) for number in range(args.steps + 1)][1:]
        rows[count] = {"median_s": statistics.median(seconds), **spread("all_reduced")}
        spread.close()
    results = {"machine": machine(), "setting": vars(args), "devices": rows}
    print_setting(results)
    print(f"\n{'devices':>7}{'s/step':>9}{'of one':>9}{'all-reduces':>13}{'MB':>8}")
    for count, row in rows.items():
        ratio = row["median_s"] / rows[1]["median_s"]
        print(f"{count:>7}{row['median_s']:>9.3f}{ratio:>9.2f}{row['operations']:>13}{row['bytes'] / 1e6:>8.2f}")
    write_json(args.json, results)


if __name__ == "__main__":
    cpu.prepare()
    main()
