"""Searches on made-up accuracies: networks whose accuracy is a known function of their choices.

    python -m tests.helpers.searches DIR

goes on with a search there, which can be killed at any moment.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import numpy as np

import ofav2_jax as ofa
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.exits import ExitScores
from ofav2_jax.model.design import exit_sets
from ofav2_jax.nas.genes import Designs, Genes, at_height, used
from ofav2_jax.nas.records import Record, designs_of
from ofav2_jax.nas.settings import SearchSettings
from ofav2_jax.run.search.search import Search
from ofav2_jax.run.search.source import source_of_net

IMAGES = 1000


def genes(network="ee_dp", exits="any", resolutions=(48, 64)):
    return Genes(ofa.SuperNet(network, 0.5, 10), resolutions, exits)


def top1(designs):
    """Accuracies in %: larger choices are better, less and less so; every exit of a set counts."""
    total = np.zeros(len(designs))
    for height in range(1, 6):
        cut = at_height(designs.choices, np.minimum(height, designs.choices.height))
        masks = used(cut)
        size = (masks["kernel"] * (np.asarray(cut.kernel) + 2 * np.asarray(cut.expand))).sum(1)
        size = size + 5 * (masks["level"] * np.isin(cut.level, (1, 2, 3, 5, 6, 7))).sum(1)
        total += designs.exits[:, height - 1] * np.log1p(size * designs.resolution / 64)
    return 20 + 10 * total / designs.exits.sum(1)


def evaluate(of_genes, trunks):
    """Records of trunks, with all exit sets."""
    many, scores = Designs.stack(trunks), []
    for exits in of_genes.exit_sets:
        mask = np.tile(np.isin(np.arange(1, 6), exits), (len(trunks), 1))
        cut = at_height(many.choices, exits[-1])
        scores.append(top1(dataclasses.replace(many, choices=cut, exits=mask)))
    return [
        Record(trunk, {exits: float(of[i]) for exits, of in zip(of_genes.exit_sets, scores)}, IMAGES)
        for i, trunk in enumerate(trunks)
    ]


def archive(of_genes, number, seed=0):
    """Records of random trunks."""
    rows = of_genes.draw(np.random.default_rng(seed), number)
    return evaluate(of_genes, [of_genes.trunk(row) for row in rows])


class MadeUp:
    """Scores trunks as `Evaluator.score_exits` does, in no time.

    Attributes:
        seen: the trunks and the images of every call.
    """

    seconds_compiling = 0.0

    def __init__(self, net, dataset, pause_s=0.0):
        self._net, self._dataset, self._pause_s = net, dataset, pause_s
        self.seen = []

    def score_exits(self, params, trunks, resolution, images):
        time.sleep(self._pause_s)
        self.seen.append((len(trunks), images if isinstance(images, str) else len(images)))
        number = len(self._dataset.splits[images] if isinstance(images, str) else images)
        sets = tuple(exit_sets(self._net))
        share = top1(designs_of([ofa.Design(trunk, resolution) for trunk in trunks], sets)).reshape(len(trunks), -1).T
        correct = np.minimum(number, share / 100 * number).astype(int)
        halves = np.stack([(correct + 1) // 2, correct // 2])
        singles = [i for i, exits in enumerate(sets) if len(exits) == 1]
        return ExitScores(sets, halves, 3 - share[singles] / 50, number)


@functools.cache
def digits():
    return load_digits(seed=0)


def source(network="ofa_mbv3", resolutions=(16, 24), seed=0, pause_s=0.0, params=0.0):
    """A supernet of digits with made-up accuracies."""
    net, dataset = ofa.SuperNet(network, 0.1, 10), digits()
    settings = ofa.Settings.paper(network, resolutions=resolutions, seed=seed)
    parts = ("stem_conv", "stem_bn", "stem_block", *(f"stage_{i}" for i in range(1, 6)))
    parts += tuple(f"exit_{stage + 1}" for stage in net.exit_stages)
    variables = {"params": {part: np.full(1, params) for part in parts}}
    found = source_of_net(net, variables, dataset, settings)
    return dataclasses.replace(found, make_evaluator=lambda: MadeUp(net, dataset, pause_s))


def search(directory, of=None, table=None, **settings):
    """A search of made-up accuracies."""
    return Search(source() if of is None else of, SearchSettings(**{"budget": 26, **settings}), Path(directory), table)


def files(directory):
    """The content of a search's files by name."""
    paths = sorted(path for path in Path(directory).rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    search(sys.argv[1], source(pause_s=0.05), images=100).run()
