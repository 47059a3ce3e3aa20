"""Evaluating subnets: scores against those of the static path, and that each image counts once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ofav2_jax import SearchSpace, Settings, Subnet, SuperNet, forward, forward_exits, recalibrate
from ofav2_jax.data import augment
from ofav2_jax.data.digits import load_digits
from ofav2_jax.evaluate.evaluator import uniform_scores
from ofav2_jax.evaluate.exits import label_rank
from ofav2_jax.model.design import exit_sets
from ofav2_jax.run.assembly import assemble, initial_params
from ofav2_jax.runtime.feed import StreamedImages
from ofav2_jax.settings.recipe import Augmentation, Evaluation, Recipe

NET = SuperNet("ee_d", width_multiplier=0.1, num_classes=10)
# Without random crops and flips, so that the test can repeat the recalibration by itself.
RECIPE = Recipe(augmentation=Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False))
DIGITS = load_digits(seed=0)
RESOLUTION = 16


@pytest.fixture(scope="module")
def params():
    return initial_params(NET, 0)


@functools.cache
def assembled(num_devices, batch_size=32, num_train=None, evaluation=None):
    """The parts of a run; made once, because their programs take long to compile."""
    train = DIGITS.splits["train"][:num_train]
    dataset = dataclasses.replace(DIGITS, splits=DIGITS.splits | {"train": train, "test": DIGITS.splits["test"][:70]})
    settings = Settings.paper(
        "ee_d",
        batch_size=4 * num_devices,
        resolutions=(RESOLUTION,),
        recipe=RECIPE,
        evaluation=evaluation or Evaluation(60, 30, batch_size, 2),
    )
    return assemble(settings, dataset, jax.devices()[:num_devices], net=NET)


def evaluator(*args, **kwargs):
    return assembled(*args, **kwargs).evaluator


SUBNETS = [
    *(Subnet.uniform(kernel=3, expand=4, depth=3, height=height) for height in (1, 2, 5)),
    Subnet.uniform(),
    Subnet.uniform(expand=3, depth=2, height=4),
]


@pytest.fixture(scope="module")
def scores(params):
    return evaluator(1).score(params, SUBNETS, RESOLUTION, "test")


@pytest.fixture(scope="module")
def exit_scores(params):
    return evaluator(1).score_exits(params, SUBNETS, RESOLUTION, "test")


def test_scores_equal_those_of_static_subnets(params, scores, exit_scores):
    tested = evaluator(1)
    batches = [
        augment.train_images(
            jnp.asarray(DIGITS.images[indices]),
            jax.random.split(jax.random.key(0), len(indices)),
            RESOLUTION,
            RECIPE.augmentation,
            DIGITS.normalisation,
        )
        for indices in tested.recalibration.indices
    ]
    test = DIGITS.splits["test"][:70]
    images = augment.eval_images(jnp.asarray(DIGITS.images[test]), RESOLUTION, DIGITS.normalisation)
    shapes = jax.eval_shape(lambda: NET.init(jax.random.key(0), images[:1], Subnet.uniform()))["batch_stats"]
    variables = {"params": params, "batch_stats": jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)}
    for i in (1, 4):
        if i == 1:
            logits = forward(NET, recalibrate(NET, variables, batches, SUBNETS[i]), images, SUBNETS[i])
        else:
            # As `extract` does, which needs the statistics of every exit.
            stats = tested.recalibration.of_subnet(tested._programs.replicate(params), SUBNETS[i], RESOLUTION)
            of_exits = forward_exits(NET, {"params": params, "batch_stats": stats}, images, SUBNETS[i])
            logits = of_exits[SUBNETS[i].height - 1]
        # Untrained logits may tie within rounding: one image of 70 may differ.
        assert abs(scores[i].top1 - 100 * np.mean(np.argmax(logits, -1) == DIGITS.labels[test])) < 1.5
        is_correct = np.argmax(logits, -1) == DIGITS.labels[test]
        of_classes = [is_correct[DIGITS.labels[test] == label].mean() for label in range(10)]
        # A class has seven images or so.
        assert abs(scores[i].mean_class_top1 - 100 * np.mean(of_classes)) < 3
        top5 = np.argsort(-np.asarray(logits), -1)[:, :5]
        assert abs(scores[i].top5 - 100 * np.mean((top5 == DIGITS.labels[test][:, None]).any(-1))) < 1.5
    # Sets of exits: the mean of their logits.
    labels = DIGITS.labels[test]
    for exits in (each for each in exit_scores.exit_sets if each[-1] <= 4):
        of_set = np.argmax(of_exits[np.array(exits) - 1].mean(0), -1) == labels
        counted = exit_scores.halves[:, exit_scores.exit_sets.index(exits), 4]
        assert np.abs(counted - (of_set[::2].sum(), of_set[1::2].sum())).max() <= 1
    shares = jax.nn.log_softmax(of_exits)[:, np.arange(70), labels]
    np.testing.assert_allclose(exit_scores.loss[:4, 4], -shares.mean(-1)[:4], rtol=1e-4)


def test_all_sets_of_exits_at_once(params, scores, exit_scores):
    sets = exit_scores.exit_sets
    assert len(sets) == len(set(sets)) == 31 and exit_scores.halves.shape == (2, 31, len(SUBNETS))
    for i, score in enumerate(scores):
        counted = exit_scores.correct[sets.index((score.subnet.height,)), i]
        assert counted == pytest.approx(score.top1 * 0.7)
    # 70 images are batches of 32 on 1 device, and of 48 on 4.
    four = evaluator(4, batch_size=46).score_exits(params, SUBNETS, RESOLUTION, "test")
    assert four.images == exit_scores.images == 70
    assert np.abs(four.halves - exit_scores.halves).max() <= 1
    np.testing.assert_allclose(four.loss, exit_scores.loss, rtol=1e-4)
    # Any images, in any order; a trunk whatever is scored with it.
    some = DIGITS.splits["test"][:70][::-1][:40]
    part = evaluator(1).score_exits(params, SUBNETS[2:3], RESOLUTION, some)
    rest = evaluator(1).score_exits(params, SUBNETS[2:3], RESOLUTION, DIGITS.splits["test"][:30])
    assert (part.images, rest.images) == (40, 30)
    assert (part.correct + rest.correct)[:, 0].tolist() == exit_scores.correct[:, 2].tolist()
    np.testing.assert_allclose(part.loss * 40 + rest.loss * 30, exit_scores.loss[:, 2:3] * 70, rtol=1e-5)


def test_sets_of_exits_of_several_trunks():
    """Where all trunks run at once, as on a GPU; an exit that is not finite spoils its own sets only."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 2, 6, 10)).astype(np.float32)
    logits[3, 1, 2, 5] = np.nan
    labels, half = rng.integers(10, size=6), np.array([0, 1, 0, 1, 0, -1])
    counter = evaluator(1)._exits
    counted, loss = counter._count(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(half))
    assert counted.shape == (2, 31, 2) and loss.shape == (5, 2)
    for place, exits in enumerate(exit_sets(NET)):
        mean = logits[np.array(exits) - 1].mean(0)
        correct = (mean.argmax(-1) == labels) & np.isfinite(mean).all(-1)
        for which in (0, 1):
            assert counted[which, place].tolist() == correct[:, half == which].sum(-1).tolist()
    shares = np.asarray(jax.nn.log_softmax(logits))[:, :, np.arange(6), labels][..., :5]
    np.testing.assert_allclose(loss, -shares.sum(-1), rtol=1e-5)


def test_exit_scores_that_are_refused(params):
    tested = evaluator(1)
    for args, told in (
        (([], RESOLUTION, "test"), "at least one trunk and one image"),
        ((SUBNETS, RESOLUTION, np.zeros(0, int)), "at least one trunk and one image"),
        ((SUBNETS, RESOLUTION, "tset"), "images='tset'"),
        ((SUBNETS, 17, "test"), "resolution=17"),
        ((SUBNETS[0], RESOLUTION, "test"), "must be a list of Subnets"),
    ):
        with pytest.raises(ValueError, match=told):
            tested.score_exits(params, *args)


def test_every_image_counts_once_on_any_number_of_devices(params, scores):
    # 70 images are batches of 32 on 1 device, and batches of 48 on 4 devices, where the last one is mostly padding.
    four = evaluator(4, batch_size=46).score(params, SUBNETS, RESOLUTION, "test")
    for one, other in zip(scores, four):
        np.testing.assert_allclose((other.top1, other.top5), (one.top1, one.top5), atol=1.5)
        assert (one.top1 * 0.7).is_integer() or abs(one.top1 * 0.7 - round(one.top1 * 0.7)) < 1e-6
        np.testing.assert_allclose(other.mean_class_top1, one.mean_class_top1, atol=3)
    batches = list(evaluator(4, batch_size=46).batches("test"))
    counted = np.concatenate([indices[kept] for indices, kept in batches])
    assert sorted(counted) == sorted(DIGITS.splits["test"][:70])
    assert {indices.shape for indices, _ in batches} == {(4, 12)}


def test_a_rare_class_counts_as_much_as_a_frequent_one(params):
    """Whatever the predictions are: the mean over images is that over classes weighted by their sizes."""
    digits = DIGITS.splits["test"]
    parts = assembled(2)

    def scored(split):
        dataset = dataclasses.replace(parts.dataset, splits=parts.dataset.splits | {"test": split})
        (score,) = dataclasses.replace(parts, dataset=dataset).evaluator.score(
            params, [Subnet.uniform()], RESOLUTION, "test"
        )
        return score

    zeros, ones = (digits[DIGITS.labels[digits] == label] for label in (0, 1))
    of_zeros, of_ones, both = scored(zeros[:30]), scored(ones[:5]), scored(np.concatenate([zeros[:30], ones[:5]]))
    assert of_zeros.mean_class_top1 == pytest.approx(of_zeros.top1)
    assert both.mean_class_top1 == pytest.approx((of_zeros.top1 + of_ones.top1) / 2)
    assert both.top1 == pytest.approx((30 * of_zeros.top1 + 5 * of_ones.top1) / 35)
    assert both.as_json()["mean_class_top1"] == both.mean_class_top1


def test_streamed_images_score_the_same(params, scores):
    # With programs of its own: streamed images come in otherwise than resident ones.
    parts = assembled.__wrapped__(2)
    parts = dataclasses.replace(parts, feed=StreamedImages(parts.dataset, parts.devices))
    streamed = parts.evaluator.score(params, SUBNETS, RESOLUTION, "test")
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
    with pytest.raises(ValueError, match=r"recalibration_batch_size=100 is not allowed: there are 50 images"):
        assembled(1, num_train=50, evaluation=Evaluation())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"subnets": Subnet.uniform()}, "subnets='k7-e6-d4-l7-h5' is not allowed: it must be a list of Subnets"),
        ({"subnets": ["k7-e6-d4-l7-h5"]}, "subnet='k7-e6-d4-l7-h5' is not a Subnet"),
        ({"subnets": [Subnet.uniform(level=6)]}, "level=6 is outside the space: ee_d has no parallel blocks"),
        ({"resolution": 40}, "resolution=40 is not allowed: the run's are 16"),
        ({"split": "valid"}, "split='valid' is not allowed: it must be one of train, validation, test"),
    ],
)
def test_what_cannot_be_scored_is_refused(changed, message):
    arguments = {"params": {}, "subnets": [Subnet.uniform()], "resolution": RESOLUTION, "split": "test", **changed}
    with pytest.raises(ValueError, match=message):
        evaluator(1).score(**arguments)
