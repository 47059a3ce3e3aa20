"""Cascades beside the best static designs of the same run, by test top-1.

python -m benchmarks.cascade --run=RUN DIR... [--data_dir=DIR] [--archive=FILE] [--json=FILE]

DIR is what `experiments.cascade` wrote. For each of its constraints on multiply-accumulates a static design of at most
that cost is chosen by validation top-1, the cheapest of the equally good: among the network's own exits and their
mean, and among these and all uniform subnets at the network's resolution. Test top-1 is what is compared.
"""

import argparse
from pathlib import Path
from typing import Any

import ofav2_jax as ofa
from benchmarks.ours import write_json
from ofav2_jax import files
from ofav2_jax.deploy.cascade_files import RECORD
from ofav2_jax.nas.costs import Constraint
from ofav2_jax.runtime import cpu

SPLITS = ("validation", "test")


def main() -> None:
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("cascades", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--data_dir", help="where the run's data set is, if the run was told so")
    parser.add_argument("--archive", help="the archive of Tiny ImageNet, if the run was given one")
    args = parser.parse_args()
    run = ofa.open_run(args.run, data_dir=args.data_dir, archive=args.archive)
    run.require_supernet()
    results: dict[str, Any] = {"rows": []}
    uniform: dict[int, list[dict[str, Any]]] = {}
    print(
        f"{'network':<16}{'limit, M':>9}{'cascade':>9}{'M MACs':>8}  {'best own exit':<24}{'best uniform or own':<34}"
    )
    for directory in args.cascades:
        record = files.read_json(directory / RECORD)
        resolution = record["design"]["resolution"]
        if resolution not in uniform:
            uniform[resolution] = _uniform(run, resolution)
        for cascade in record["cascades"]:
            constraint = Constraint.parse(cascade["constraint"])
            if constraint.cost == "macs":
                row = _row(record, cascade, constraint.limit, uniform[resolution])
                results["rows"].append(row)
                print(_line(row), flush=True)
    write_json(args.json, results)


def _uniform(run: Any, resolution: int) -> list[dict[str, Any]]:
    """The uniform subnets, tested on both splits, as `static` in a cascade's record."""
    subnets, params = list(run.space.uniform_subnets()), run.params()
    of_splits = [run.evaluator.score(params, subnets, resolution, split) for split in SPLITS]
    return [
        {"name": str(one.subnet), "macs": one.macs, "validation": {"top1": one.top1}, "test": {"top1": other.top1}}
        for one, other in zip(*of_splits, strict=True)
    ]


def _row(record: Any, cascade: Any, limit: float, uniform: list[dict[str, Any]]) -> dict[str, Any]:
    own = [{**each, "name": f"exit {'+'.join(map(str, each['exits']))}"} for each in record["static"]]

    def best(designs: list[dict[str, Any]]) -> dict[str, Any]:
        possible = [each for each in designs if each["macs"] <= limit]
        return max(possible, key=lambda each: (each["validation"]["top1"], -each["macs"]))

    return {
        "network": str(ofa.Design.from_json(record["design"])).partition("@")[0],
        "limit": limit,
        "cascade": cascade,
        "own": best(own),
        "uniform": best([*own, *uniform]),
    }


def _line(row: dict[str, Any]) -> str:
    def told(each: dict[str, Any]) -> str:
        return f"{each['test']['top1']:.2f} {each['name']} ({each['macs'] / 1e6:.2f} M)"

    test = row["cascade"]["test"]
    costs = f"{row['limit'] / 1e6:>9.2f}{test['top1']:>9.2f}{test['mean']['macs'] / 1e6:>8.2f}"
    return f"{row['network']:<16}{costs}  {told(row['own']):<24}{told(row['uniform']):<34}"


if __name__ == "__main__":
    cpu.prepare()
    main()
