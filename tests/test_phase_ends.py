"""What each phase of a run starts from, learns from, and hands on.

The run starts with zeros, and a step adds 1 to every parameter, as weight decay changes all of them: the value of a
parameter is the number of epochs that it has been trained for.
"""

import dataclasses

import jax
import numpy as np
import pytest

from ofav2_jax import Settings, SuperNet
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.evaluator import Evaluator, Score
from ofav2_jax.model.supernet import variable_shapes
from ofav2_jax.run import assembly, checkpoint
from ofav2_jax.run.run import Run
from ofav2_jax.settings.phases import paper_phases
from ofav2_jax.settings.recipe import Recipe
from ofav2_jax.train.epoch import EpochRunner, TakenSteps

NET = SuperNet("ee_b", 0.1, 10)
SHAPES = variable_shapes(NET)["params"]
# Names of parameters: of the stem, a kernel matrix of stage 1, and the classifiers of the last two exits and the first.
MATRIX = next(
    tuple(entry.key for entry in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(SHAPES)
    if path[-1].key == "matrix_7to5"
)
WATCHED = (("stem_conv", "kernel"), MATRIX, *((f"exit_{height}", "classifier", "kernel") for height in (5, 4, 1)))


def values(params):
    """The value of each of the watched parameters, which is the same in all of its entries."""
    leaves = {tuple(entry.key for entry in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return [int(np.unique(np.asarray(leaves[name])).item()) for name in WATCHED]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains as said above; returns the values of each phase's teacher, or None, and those with which it ended."""
    teachers = []

    def steps(runner, phase, first_step, state, teacher, space):
        teachers.append(None if teacher is None else values(teacher))
        state = state.replace(params=jax.tree.map(lambda v: v + 1, state.params))
        number = first_step + runner.steps_per_epoch
        metrics = {"loss": np.ones((runner.steps_per_epoch, 1)), "top1": np.ones(runner.steps_per_epoch)}
        yield TakenSteps(number, runner.steps_per_epoch, state, None, metrics, 0.1)

    def score(evaluator, params, subnets, resolution, split, ensemble=False):
        # The first epoch is the best one.
        top1 = 50.0 - values(params)[0] if split == "validation" else 50.0
        return [Score(subnet, resolution, ensemble, top1, 60.0, top1, 1, 1) for subnet in subnets]

    monkeypatch.setattr(EpochRunner, "steps", steps)
    monkeypatch.setattr(Evaluator, "score", score)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), SHAPES)
    monkeypatch.setattr(assembly, "_jitted_init", lambda: lambda net, key: zeros)

    def train(**changes):
        phases = tuple(
            dataclasses.replace(phase, epochs=epochs, warmup_epochs=0)
            for phase, epochs in zip(paper_phases("ee_b"), (2, 1, 1))
        )
        settings = Settings.paper("ee_b", phases=phases, width_multiplier=0.1, batch_size=8, **changes)
        Run(settings, load_digits(0), tmp_path, jax.devices()[:1]).execute()
        ended = [f"{index:02d}-{phase.name}" for index, phase in enumerate(phases)]
        return teachers, [values(checkpoint.load_tree(tmp_path / "phases" / name / "params", SHAPES)) for name in ended]

    return train


def test_each_phase_starts_and_learns_from_the_best_epoch_of_the_one_before(run):
    teachers, ended = run()
    # Phase full has two epochs, of which the first is the best one.
    assert ended == [[1] * 5, [2] * 5, [3] * 5]
    assert teachers == [None, None, [1] * 5, [2] * 5]


def test_a_fixed_teacher_is_that_of_phase_full(run):
    teachers, ended = run(teacher="fixed")
    assert ended == [[1] * 5, [2] * 5, [3] * 5]
    assert teachers == [None, None, [1] * 5, [1] * 5]


def test_what_a_phase_does_not_reach_ends_as_it_started(run):
    teachers, ended = run(recipe=Recipe(decay_unreached=False))
    # Phase full trains all exits but no kernel matrices, phase kernel one exit, height-1 two.
    assert ended == [[1, 0, 1, 1, 1], [2, 1, 2, 1, 1], [3, 2, 3, 2, 1]]
    assert teachers == [None, None, *ended[:2]]
