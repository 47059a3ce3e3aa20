"""Testing subnets: against the static path, image by image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import SearchSpace, Subnet, SuperNet, forward, recalibrate
from ofav2_jax.data import augment
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.evaluator import Evaluation, Evaluator, label_rank, uniform_scores
from ofav2_jax.run.run import initial_params
from ofav2_jax.runtime.feed import ResidentImages, StreamedImages
from ofav2_jax.runtime.programs import Programs
from ofav2_jax.settings.recipe import Augmentation
from ofav2_jax.train.step import Recipe, Steps

NET = SuperNet("ee_d", width_multiplier=0.1, num_classes=10)
# No crop at random, so that recalibration can be repeated outside.
RECIPE = Recipe(augmentation=Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False))
DIGITS = load_digits(seed=0)
RESOLUTION = 16


@pytest.fixture(scope="module")
def params():
    return initial_params(NET, 0)


def evaluator(num_devices, num_test=70, batch_size=32, source=ResidentImages):
    devices = jax.devices()[:num_devices]
    dataset = dataclasses.replace(DIGITS, splits=DIGITS.splits | {"test": DIGITS.splits["test"][:num_test]})
    steps = Steps(NET, RECIPE, dataset.normalisation, devices, Programs([RESOLUTION]))
    return Evaluator(steps, Evaluation(60, 30, batch_size, 2), dataset, source(dataset, devices), seed=0)


SUBNETS = [
    *(Subnet.uniform(kernel=3, expand=4, depth=3, height=height) for height in (1, 2, 5)),
    Subnet.uniform(),
    Subnet.uniform(expand=3, depth=2, height=4),
]


@pytest.fixture(scope="module")
def scores(params):
    return evaluator(1).score(params, SUBNETS, RESOLUTION, "test")


def test_scores_equal_those_of_static_subnets(params, scores):
    tested = evaluator(1)
    batches = [
        augment.train_images(
            jnp.asarray(DIGITS.images[indices]),
            jax.random.split(jax.random.key(0), len(indices)),
            RESOLUTION,
            RECIPE.augmentation,
            DIGITS.normalisation,
        )
        for indices in tested.recalibration_indices
    ]
    test = DIGITS.splits["test"][:70]
    images = augment.eval_images(jnp.asarray(DIGITS.images[test]), RESOLUTION, DIGITS.normalisation)
    shapes = jax.eval_shape(lambda: NET.init(jax.random.key(0), images[:1], Subnet.uniform()))["batch_stats"]
    variables = {"params": params, "batch_stats": jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)}
    for i in (1, 4):
        logits = forward(NET, recalibrate(NET, variables, batches, SUBNETS[i]), images, SUBNETS[i])
        # Untrained logits may tie within rounding: one image of 70 may differ.
        assert abs(scores[i].top1 - 100 * np.mean(np.argmax(logits, -1) == DIGITS.labels[test])) < 1.5
        top5 = np.argsort(-np.asarray(logits), -1)[:, :5]
        assert abs(scores[i].top5 - 100 * np.mean((top5 == DIGITS.labels[test][:, None]).any(-1))) < 1.5


def test_every_image_counts_once_on_any_number_of_devices(params, scores):
    # 70 images: in batches of 32 on 1 device, and of 48 on 4, whose last batch is mostly filling.
    four = evaluator(4, batch_size=46).score(params, SUBNETS, RESOLUTION, "test")
    for one, other in zip(scores, four):
        np.testing.assert_allclose((other.top1, other.top5), (one.top1, one.top5), atol=1.5)
        assert (one.top1 * 0.7).is_integer() or abs(one.top1 * 0.7 - round(one.top1 * 0.7)) < 1e-6
    batches = list(evaluator(4, batch_size=46).batches("test"))
    counted = np.concatenate([indices[kept] for indices, kept in batches])
    assert sorted(counted) == sorted(DIGITS.splits["test"][:70])
    assert {indices.shape for indices, _ in batches} == {(4, 12)}


def test_streamed_images_score_the_same(params, scores):
    streamed = evaluator(2, source=StreamedImages).score(params, SUBNETS, RESOLUTION, "test")
    resident = evaluator(2).score(params, SUBNETS, RESOLUTION, "test")
    assert streamed == resident


def test_ensemble_is_the_weighted_sum_of_the_exits(params):
    tested = evaluator(1)
    (score,) = uniform_scores(tested, params, SearchSpace(NET), [RESOLUTION], ensemble=True)
    assert score.ensemble and score.as_json()["height"] == "ensemble"
    assert score.macs > evaluator(1).score(params, [Subnet.uniform()], RESOLUTION, "test")[0].macs


@pytest.mark.parametrize("label", range(3))
def test_label_rank(label):
    logits = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5], [jnp.nan, jnp.nan, jnp.nan]])
    ranks = label_rank(logits, jnp.full(3, label))
    assert ranks.tolist() == [[2, 0, 1][label], label, 3]


def test_too_few_images_to_recalibrate_are_refused():
    dataset = dataclasses.replace(DIGITS, splits=DIGITS.splits | {"train": DIGITS.splits["train"][:50]})
    steps = Steps(NET, RECIPE, dataset.normalisation, jax.devices()[:1], Programs([RESOLUTION]))
    with pytest.raises(ValueError, match=r"recalibration_batch_size=100 is not allowed: there are 50 images"):
        Evaluator(steps, Evaluation(), dataset, ResidentImages(dataset, steps.devices), seed=0)
