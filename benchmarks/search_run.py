"""How good searches of a trained supernet are, beside random subnets and uniform ones.

python -m benchmarks.search_run --run=RUN [--data_dir=DIR] [--archive=FILE] [--budget=200] [--seeds=3] [--images=5000]
    [--json=FILE]

Searches by MACs, kept in RUN/search/benchmark-SEED, beside as many random trunks, and beside all uniform trunks at the
largest resolution. Every trunk counts with each of its exits. *Hypervolume* is the area that designs dominate in MACs
and validation top-1, within the largest MACs and above the least accurate uniform design. *In reach* are the ratios to
random and to uniform trunks that the best designs would have if what the predictor learnt were the truth. Then, for
five limits of the MACs, the test top-1 of the search's best design beside that of the best uniform one, both chosen on
validation images.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import ofav2_jax as ofa
from benchmarks.ours import machine, write_json
from ofav2_jax.model.design import Design
from ofav2_jax.nas.costs import DesignCosts
from ofav2_jax.nas.features import Features
from ofav2_jax.nas.genes import Designs, Genes
from ofav2_jax.nas.nsga import evolve, hypervolume
from ofav2_jax.nas.predictor import Predictor
from ofav2_jax.nas.records import Record, designs_of
from ofav2_jax.nas.result import SearchResult
from ofav2_jax.run.search.source import Source, source_of_run

LIMITS = 5
# Ten times what a search affords for one of its rounds.
POPULATION, GENERATIONS = 400, 100


class Beside:
    """What a search is compared with, on the images that it scores with.

    Args:
        source: the supernet.
        images: how many validation images.
    """

    def __init__(self, source: Source, images: int):
        self._source, self._images = source, source.images(images)
        self.genes = Genes(source.net, source.settings.resolutions, "single", source.space)
        self.costs = DesignCosts(source.net)

    def points(self, trunks: Sequence[Design], top1: Sequence[Sequence[float]]) -> np.ndarray:
        """MACs and error in % of every exit of trunks: float64 [trunks x exits, 2]."""
        macs = self.costs("macs", designs_of(trunks, self.genes.exit_sets))
        return np.column_stack([macs, 100 - np.ravel(top1)])

    def evaluate(self, trunks: Sequence[Design]) -> np.ndarray:
        """Tests trunks; see `points`."""
        size, top1 = self._source.settings.evaluation.subnets_per_pass, {}
        for resolution in {trunk.resolution for trunk in trunks}:
            same = [trunk for trunk in trunks if trunk.resolution == resolution]
            for group in (same[i : i + size] for i in range(0, len(same), size)):
                subnets = [trunk.subnet for trunk in group]
                scores = self._source.evaluator.score_exits(self._source.params, subnets, resolution, self._images)
                rows = [scores.exit_sets.index(each) for each in self.genes.exit_sets]
                for trunk, counts in zip(group, scores.correct[rows].T):
                    top1[trunk] = 100 * counts / scores.images
        return self.points(trunks, [top1[trunk] for trunk in trunks])

    def uniform(self) -> list[Design]:
        """The uniform trunks at the largest resolution."""
        return [Design(subnet, max(self.genes.resolutions)) for subnet in self.genes.uniform()]

    def random(self, seed: int, number: int) -> list[Design]:
        """So many different trunks, every choice of which is drawn uniformly."""
        rng, trunks = np.random.default_rng([seed, 0xBA5E]), {}
        while len(trunks) < number:
            trunk = self.genes.trunk(self.genes.draw(rng, 1)[0])
            trunks[trunk] = None
        return list(trunks)


def main() -> None:
    """Prints the tables, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--data_dir", help="where the run's data set is, if the run was told so")
    parser.add_argument("--archive", help="the archive of Tiny ImageNet, if the run was given one")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--json", type=os.path.expanduser, help="file to write the figures to")
    args = parser.parse_args()
    run = ofa.open_run(args.run, data_dir=args.data_dir, archive=args.archive)
    beside = Beside(source_of_run(run), args.images)
    uniform = beside.evaluate(beside.uniform())
    reference = uniform.max(0)
    results: dict[str, Any] = {"machine": machine(), "setting": {k: str(v) for k, v in vars(args).items()}, "seeds": []}
    of_uniform = hypervolume(uniform, reference)
    results["uniform"] = {"trunks": len(uniform) // len(beside.genes.exit_sets), "hypervolume": of_uniform}
    print(f"{'seed':<6}{'search':>12}{'random':>12}{'uniform':>12}{'/ random':>10}{'/ uniform':>10}{'in reach':>16}")
    for seed in range(args.seeds):
        found = ofa.search(run, name=f"benchmark-{seed}", budget=args.budget, images=args.images, seed=seed)
        records = found.archive
        top1 = [[record.top1[each] for each in beside.genes.exit_sets] for record in records]
        random = beside.random(seed, args.budget)
        areas = {
            "search": hypervolume(beside.points([record.trunk for record in records], top1), reference),
            "random": hypervolume(beside.evaluate(random), reference),
        }
        row = {"seed": seed, **areas, "in_reach": in_reach(beside, records, random)}
        row["limits"] = at_limits(run, beside, seed, args)
        results["seeds"].append(row)
        print(
            f"{seed:<6}{areas['search'] / 1e6:>12.2f}{areas['random'] / 1e6:>12.2f}{of_uniform / 1e6:>12.2f}"
            f"{areas['search'] / areas['random']:>10.3f}{areas['search'] / of_uniform:>10.3f}"
            f"{row['in_reach']['random']:>10.3f}{row['in_reach']['uniform']:>6.3f}",
            flush=True,
        )
        write_json(args.json, results)
    print(f"{'seed':<6}{'limit':<18}{'search: validation, test':>26}{'uniform: validation, test':>28}")
    for row in results["seeds"]:
        for each in row["limits"]:
            print(
                f"{row['seed']:<6}{each['limit']:<18}"
                + "".join(f"{v:>13.2f}" for v in each["search"] + each["uniform"])
            )
    ours, theirs = (
        np.mean([each[name][1] for row in results["seeds"] for each in row["limits"]]) for name in ("search", "uniform")
    )
    print(f"mean test top-1: search {ours:.2f}, uniform {theirs:.2f}")


def in_reach(beside: Beside, records: Sequence[Record], random: Sequence[Design]) -> dict[str, float]:
    """The ratios to random and to uniform trunks that are in reach, if the predictor of all records is the truth."""
    genes = beside.genes
    predictor = Predictor.fit(Features(genes.net, genes.resolutions), records, genes.exit_sets)

    def points(designs: Designs) -> np.ndarray:
        return np.column_stack([beside.costs("macs", designs), 100 - predictor.predict(designs)[0]])

    def evaluate(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points(genes.designs(rows))[:, ::-1], np.zeros(len(rows))

    rng = np.random.default_rng(0)
    best = points(genes.designs(evolve(evaluate, genes.draw(rng, POPULATION), genes.values, GENERATIONS, rng)))
    of_uniform = points(designs_of(beside.uniform(), genes.exit_sets))
    known = {"random": points(designs_of(random, genes.exit_sets)), "uniform": of_uniform}
    reference = of_uniform.max(0)
    return {name: hypervolume(best, reference) / hypervolume(each, reference) for name, each in known.items()}


def at_limits(run: Any, beside: Beside, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Validation and test top-1 of the best designs at some limits, from what the search has evaluated."""
    uniform = designs_of(beside.uniform(), beside.genes.exit_sets)
    macs = beside.costs("macs", uniform)
    # Evenly spaced in log MACs, without the ends, where there is nothing to choose.
    limits = [f"macs<={value:.0f}" for value in np.geomspace(macs.min(), macs.max(), LIMITS + 2)[1:-1]]
    result: SearchResult = ofa.search(
        run, name=f"benchmark-{seed}", budget=args.budget, images=args.images, seed=seed, constraints=limits
    )
    rows = []
    for line in result.lines:
        if line.constraint is not None and line.uniform is not None:
            pair = {"search": line.found, "uniform": line.uniform}
            scores = {name: [each.validation.top1, each.test.top1] for name, each in pair.items()}
            rows.append({"limit": str(line.constraint), **scores})
    return rows


if __name__ == "__main__":
    main()
