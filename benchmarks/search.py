"""Tries the predictor and the search on published accuracies of Once-For-All's subnets; nothing is trained.

python -m benchmarks.search --archive=DIR [--json=FILE] [--seeds=5]

DIR holds CSV files with the columns Sub-network, MACs, Model Parameters and Top-1 Acc (%), as published with
IntelLabs/DyNAS-T (notebooks/data). Needs the extra `search`.

First Kendall's tau between predicted and published accuracy of 250 subnets (of as many as are left, in a smaller
archive), over ten splits, with 100 and 300 others to learn from; beside it MACs alone, and LightGBM on plain integers
where that is installed. Then a simulated search: the truth is a Gaussian process fitted to the whole archive (to at
most 1,200 of it), measured with a noise of 0.05 points. Hypervolume is that of the true values of everything evaluated
so far, in GMACs x points.
"""

import argparse
import ast
import csv
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau

import ofav2_jax as ofa
from benchmarks.ours import machine, print_setting, write_json
from ofav2_jax.checks import refuse, shown
from ofav2_jax.nas.features import Features
from ofav2_jax.nas.genes import Designs, Genes
from ofav2_jax.nas.nsga import evolve, hypervolume
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.propose import ROUND, Proposer
from ofav2_jax.nas.records import Record
from ofav2_jax.runtime import cpu

_COLUMNS = ("Sub-network", "MACs", "Model Parameters", "Top-1 Acc (%)")
# ImageNet's validation images.
_IMAGES = 50_000
_TRAINED, _TESTED, _MIN_TESTED, _SPLITS = (100, 300), 250, 20, 10
_EVALUATIONS, _NOISE = (100, 200, 250), 0.05
_TRUTH, _POPULATION = 1200, 50


class Archive(NamedTuple):
    """Distinct subnets and their accuracies.

    Attributes:
        net: the supernet.
        records: one for each, with the mean where one was measured several times.
    """

    net: ofa.SuperNet
    records: list[Record]

    @property
    def designs(self) -> Designs:
        return Designs.stack([record.trunk for record in self.records])

    @property
    def top1(self) -> np.ndarray:
        return np.array([record.top1[(5,)] for record in self.records])


def read(directory: Path) -> Archive:
    """Reads all CSV files of a folder.

    Raises:
        ValueError: naming the file, the line and what is wrong.
    """
    measured: dict[ofa.Design, list[float]] = {}
    costs: dict[ofa.Design, tuple[int, int]] = {}
    for file in sorted(directory.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for line, row in enumerate(csv.DictReader(lines), 2):
                try:
                    design, cost, top1 = _parse(row)
                except (ValueError, SyntaxError, TypeError, KeyError) as error:
                    raise ValueError(f"{file}, line {line} cannot be read: {' '.join(str(error).split())}") from error
                measured.setdefault(design, []).append(top1)
                costs[design] = cost
    if not measured:
        raise ValueError(
            f"archive={shown(str(directory))} is not allowed: it must be a folder with CSV files of subnets"
        )
    records = [Record(design, {(5,): float(np.mean(values))}, _IMAGES) for design, values in measured.items()]
    return Archive(_network(costs), records)


def _parse(row: dict[str, str]) -> tuple[ofa.Design, tuple[int, int], float]:
    for name in _COLUMNS:
        if not row.get(name):
            raise ValueError(f"the column {name!r} is missing")
    subnet = ast.literal_eval(row["Sub-network"])
    (resolution,) = subnet.get("r") or (224,)
    design = ofa.Design(ofa.Subnet.from_json(subnet), resolution)
    top1 = float(row["Top-1 Acc (%)"])
    if not 0 <= top1 <= 100:
        refuse("Top-1 Acc (%)", top1, "a number >= 0 and <= 100")
    return design, (int(row["Model Parameters"]), int(row["MACs"])), top1


def _network(costs: dict[ofa.Design, tuple[int, int]]) -> ofa.SuperNet:
    """The baseline network of the width multiplier whose costs are those of the archive."""
    designs = Designs.stack(list(costs))
    for width_multiplier in (1.0, 1.2):
        net = ofa.SuperNet("ofa_mbv3", width_multiplier, 1000, exit_widths="ofa")
        counted = ofa.Costs(net)(designs.choices, designs.resolution)
        if np.array_equal(np.column_stack([counted.params, counted.macs]), list(costs.values())):
            return net
    raise ValueError(
        "the archive's parameters and MACs are not those of Once-For-All's MobileNetV3 with 1,000 classes, at width "
        "multiplier 1.0 or 1.2"
    )


def taus(
    archive: Archive, trained: Sequence[int] = _TRAINED, num_tested: int = _TESTED, splits: int = _SPLITS
) -> dict[str, dict[str, list[float]]]:
    """Kendall's tau for each number of training subnets and each method, in every split.

    Numbers that leave too few subnets to test are left out.
    """
    designs, top1 = archive.designs, archive.top1
    features = Features(archive.net, np.unique(designs.resolution).tolist())
    macs = ofa.Costs(archive.net)(designs.choices, designs.resolution).macs
    choices = designs.choices
    integers = np.column_stack([choices.kernel, choices.expand, choices.depth, designs.resolution])
    with_trees = importlib.util.find_spec("lightgbm") is not None
    found: dict[str, dict[str, list[float]]] = {}
    for number in (n for n in trained if len(top1) >= n + _MIN_TESTED):
        of_number = found[str(number)] = {"ours": [], "macs": [], **({"lightgbm": []} if with_trees else {})}
        for split in range(splits):
            order = np.random.default_rng(split).permutation(len(top1))
            learned, tested = order[:number], order[number : number + num_tested]
            predictor = Predictor.fit(features, [archive.records[i] for i in learned])
            predicted = {
                "ours": predictor.predict(Designs.stack([archive.records[i].trunk for i in tested]))[0],
                "macs": np.asarray(macs)[tested],
            }
            if with_trees:
                predicted["lightgbm"] = _trees(integers[learned], top1[learned], integers[tested])
            for name, values in predicted.items():
                of_number[name].append(float(kendalltau(values, top1[tested]).statistic))
    return found


def _trees(features: np.ndarray, targets: np.ndarray, tested: np.ndarray) -> np.ndarray:
    import lightgbm

    model = lightgbm.LGBMRegressor(objective="huber", min_child_samples=5, verbose=-1, n_jobs=1, random_state=0)
    return model.fit(features, targets).predict(tested)


class Simulation:
    """A search space whose accuracies are known: a Gaussian process of the published ones.

    Args:
        archive: the published accuracies.
    """

    def __init__(self, archive: Archive):
        designs = archive.designs
        resolutions = np.unique(designs.resolution).tolist()
        self.genes = Genes(archive.net, resolutions)
        self.proposer = Proposer(self.genes)
        some = np.random.default_rng(0).permutation(len(archive.records))[:_TRUTH]
        self._truth = Predictor.fit(Features(archive.net, resolutions), [archive.records[i] for i in some])
        largest = ofa.count(archive.net, self.genes.space.maximal(), resolutions[-1]).macs
        # The worst values that count: round numbers beyond those of all subnets.
        self.reference = (np.ceil(largest / 1e8) / 10, -5 * np.floor(archive.top1.min() / 5))

    def objectives(self, designs: Designs) -> np.ndarray:
        """GMACs, and the true top-1 accuracy with the sign changed: float64 [N, 2]."""
        return np.column_stack([self.proposer.costs(designs)[0] / 1e9, -self._truth.predict(designs)[0]])

    def measure(self, designs: Designs, rng: np.random.Generator) -> np.ndarray:
        """Top-1 accuracies in %, with noise: float64 [N]."""
        return -self.objectives(designs)[:, 1] + rng.normal(0, _NOISE, len(designs))

    def ours(self, seed: int, budget: int) -> np.ndarray:
        """What is evaluated, in order, by this package's search: objectives [budget, 2]."""
        rng = np.random.default_rng([seed, 1])
        trunks, archive = self.proposer.start(budget, seed), list[Record]()
        evaluated, round = list(trunks), 0
        while True:
            top1 = self.measure(Designs.stack(trunks), rng)
            archive += [Record(trunk, {(5,): float(value)}, _IMAGES) for trunk, value in zip(trunks, top1)]
            if len(archive) >= budget:
                return self.objectives(Designs.stack(evaluated))
            round += 1
            trunks = self.proposer.propose(archive, round, seed, min(ROUND, budget - len(archive)))
            evaluated += trunks

    def random(self, seed: int, budget: int) -> np.ndarray:
        """The same for random subnets, every choice drawn uniformly."""
        return self.objectives(self.genes.designs(self.genes.draw(np.random.default_rng([seed, 2]), budget)))

    def uniform(self, seed: int, budget: int) -> np.ndarray:
        """The same for all uniform subnets at the largest resolution, whatever seed and budget are."""
        return self.objectives(Designs.stack([ofa.Design(s, self.genes.resolutions[-1]) for s in self.genes.uniform()]))

    def nsga2(self, seed: int, budget: int) -> np.ndarray:
        """The same for NSGA-II that evaluates whatever it breeds, in a population of 50."""
        rng, evaluated = np.random.default_rng([seed, 3]), []

        def evaluate(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            designs = self.genes.designs(rows)
            evaluated.append(self.objectives(designs))
            cost, violation = self.proposer.costs(designs)
            return np.column_stack([-self.measure(designs, rng), cost]), violation

        generations = -(-budget // _POPULATION) - 1
        evolve(evaluate, self.genes.draw(rng, _POPULATION), self.genes.values, generations, rng)
        return np.concatenate(evaluated)[:budget]


def hypervolumes(
    simulation: Simulation, seeds: int, evaluations: Sequence[int] = _EVALUATIONS
) -> dict[str, dict[str, list[float]]]:
    """The hypervolume for each method and each number of evaluations, with every seed."""
    methods: dict[str, Callable[[int, int], np.ndarray]] = {
        name: getattr(simulation, name) for name in ("ours", "random", "uniform", "nsga2")
    }
    found: dict[str, dict[str, list[float]]] = {name: {str(n): [] for n in evaluations} for name in methods}
    for seed in range(seeds):
        for name, method in methods.items():
            points = method(seed, max(evaluations))
            for number in evaluations:
                found[name][str(number)].append(hypervolume(points[:number], simulation.reference))
    return found


def main() -> None:
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", required=True, type=Path, help="folder with CSV files")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    started = time.perf_counter()
    try:
        archive = read(args.archive)
        if args.seeds < 1:
            raise ValueError(f"seeds={args.seeds} is not allowed: it must be a positive int")
        if len(archive.records) < min(_TRAINED) + _MIN_TESTED:
            raise ValueError(
                f"archive={shown(str(args.archive))} has {len(archive.records)} distinct subnets: at least "
                f"{min(_TRAINED) + _MIN_TESTED} are needed"
            )
    except (ValueError, OSError) as error:
        sys.exit(_refused(error))
    results: dict[str, Any] = {
        "machine": machine(),
        "setting": {"subnets": len(archive.records), "width_multiplier": archive.net.width_multiplier},
    }
    print_setting(results)
    splits = taus(archive)
    results["tau"] = {n: {k: float(np.mean(v)) for k, v in by.items()} for n, by in splits.items()}
    results["tau_of_splits"] = splits
    _print_taus(splits)
    simulation = Simulation(archive)
    results["setting"]["reference"] = {"gmacs": simulation.reference[0], "top1": -simulation.reference[1]}
    results["hypervolume"] = hypervolumes(simulation, args.seeds)
    _print_hypervolumes(results["hypervolume"], len(simulation.genes.uniform()))
    results["seconds"] = time.perf_counter() - started
    print(f"\n{results['seconds']:.0f} s")
    write_json(args.json, results)


def _refused(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 2


def _print_taus(splits: dict[str, dict[str, list[float]]]) -> None:
    print(f"\nKendall's tau, mean and least of {_SPLITS} splits")
    for number, by_method in splits.items():
        cells = [f"{name} {np.mean(values):.3f} ({min(values):.3f})" for name, values in by_method.items()]
        print(f"{number:>5} subnets  {'   '.join(cells)}")
    for number in (n for n in _TRAINED if str(n) not in splits):
        print(f"{number:>5} subnets  not tried: fewer than {_MIN_TESTED} others are left in this archive")
    if "lightgbm" not in next(iter(splits.values())):
        print("LightGBM is not installed here, so it was not tried.")


def _print_hypervolumes(found: dict[str, dict[str, list[float]]], num_uniform: int) -> None:
    print(f"\nhypervolume, GMACs x points; uniform: all {num_uniform} of them, in every column")
    print(f"{'':<10}{'evaluations':>12}  of each seed")
    for name, by_number in found.items():
        for number, values in by_number.items():
            print(f"{name:<10}{number:>12}  {'  '.join(f'{value:.3f}' for value in values)}")


if __name__ == "__main__":
    cpu.prepare()
    main()
