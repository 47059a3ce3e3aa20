"""Searches on made-up accuracies: networks whose accuracy is a known function of their choices."""

import dataclasses

import numpy as np

import ofav2_jax as ofa
from ofav2_jax.nas.genes import Designs, Genes, at_height, used
from ofav2_jax.nas.records import Record

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
