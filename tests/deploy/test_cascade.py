"""Thresholds of cascades: as good as what an exhaustive search finds, never above the limit, safe from rounding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofav2_jax.deploy.cascade import ALWAYS, NEVER, confidences, simulate, thresholds


def made_up(num_images=300, num_classes=5, skills=(1.0, 2.0, 3.0), seed=0):
    """Logits of exits of rising skill, which agree to a part, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    shared = rng.standard_normal((num_images, num_classes))
    own = rng.standard_normal((len(skills), num_images, num_classes))
    logits = 0.7 * shared + 0.7 * own + np.array(skills)[:, None, None] * np.eye(num_classes)[labels]
    return logits.astype(np.float32), labels


def exhaustive(logits, labels, costs, limit):
    """The best top-1 in % over all pairs of 50 quantiles of two exits, and always and never."""
    right = logits.argmax(-1) == labels
    tried = [[ALWAYS, *np.quantile(of_exit, np.linspace(0, 1, 50)), NEVER] for of_exit in confidences(logits)[:2]]
    best = 0.0
    for chosen in itertools.product(*tried):
        exits = simulate(logits, (*chosen, ALWAYS))
        if np.mean(np.array(costs)[exits]) <= limit:
            best = max(best, 100 * right[exits, np.arange(len(labels))].mean())
    return best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [1.2, 2.0, 3.1])
def test_as_good_as_an_exhaustive_search(seed, limit):
    logits, labels = made_up(seed=seed)
    costs = (1.0, 2.5, 4.0)
    found = thresholds(logits, labels, costs, limit).score(logits, labels)
    assert found.mean_cost <= limit
    # Two images, because the quantiles are not quite the same.
    assert found.top1 >= exhaustive(logits, labels, costs, limit) - 100 * 2.01 / len(labels)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    costs=st.lists(st.integers(1, 10**9), min_size=2, max_size=4, unique=True).map(sorted),
    share=st.floats(0, 1.2),
    num_images=st.integers(1, 120),
)
def test_within_the_limit_and_no_worse_than_one_exit(seed, costs, share, num_images):
    logits, labels = made_up(num_images, skills=np.linspace(0, 2, len(costs)), seed=seed)
    limit = costs[0] + share * (costs[-1] - costs[0])
    cascade = thresholds(logits, labels, costs, limit)
    found = cascade.score(logits, labels)
    assert found.mean_cost <= limit and cascade.costs == tuple(costs) and cascade.worst_cost >= found.mean_cost
    assert found.images == num_images and sum(found.shares) == pytest.approx(1)
    for exit, cost in enumerate(costs):
        if cost <= limit:
            assert found.top1 >= 100 * (logits[exit].argmax(-1) == labels).mean() - 1e-9
    assert thresholds(logits, labels, costs, limit) == cascade


def test_a_higher_limit_is_used_where_answers_get_surer():
    logits, labels = made_up(2000)
    found = [thresholds(logits, labels, (1, 2, 3), limit).score(logits, labels) for limit in (1.0, 1.5, 2.0, 3.0)]
    assert found[0].mean_cost == 1 and found[0].shares == (1, 0, 0)
    assert all(a.top1 < b.top1 and a.mean_cost < b.mean_cost for a, b in itertools.pairwise(found))


def test_of_equally_many_right_answers_the_surer_count():
    # Both exits know every image; the second one is sure of them.
    labels = np.arange(40) % 4
    weak, strong = np.eye(4)[labels] * np.linspace(1, 2, 40)[:, None], 9 * np.eye(4)[labels]
    found = thresholds(np.stack([weak, strong]), labels, (1, 2), 2).score(np.stack([weak, strong]), labels)
    assert found.top1 == 100 and found.shares == (0, 1)
    found = thresholds(np.stack([weak, strong]), labels, (1, 2), 1.5).score(np.stack([weak, strong]), labels)
    assert found.top1 == 100 and found.shares == (0.5, 0.5)


@pytest.mark.parametrize("scale", [1, 20])
def test_rounding_moves_no_image(scale):
    logits, labels = made_up(500)
    logits = scale * logits
    for limit in (1.3, 2.0, 2.7):
        chosen = thresholds(logits, labels, (1, 2, 3), limit).thresholds
        noise = np.random.default_rng(1).standard_normal(logits.shape)
        assert np.array_equal(simulate(logits, chosen), simulate(logits + 1e-5 * scale * noise, chosen))


def test_where_images_leave():
    logits = np.log([[[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]], [[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]]])
    np.testing.assert_allclose(confidences(logits), [[0.6, 0.5, 0.9], [0.7, 0.7, 0.7]])
    assert simulate(logits, (0.55, ALWAYS)).tolist() == [0, 1, 0]
    assert simulate(logits, (confidences(logits)[0, 0], ALWAYS)).tolist() == [0, 1, 0]
    assert simulate(logits, (ALWAYS, ALWAYS)).tolist() == [0, 0, 0]
    assert simulate(logits, (NEVER, NEVER)).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"thresholds=\(0\.5,\) is not allowed: one for each exit"):
        simulate(logits, (0.5,))
    # What is not a number is not sure.
    assert simulate(np.where(logits < -2, np.nan, logits), (0.55, ALWAYS)).tolist() == [0, 1, 1]


def test_worst_cost_is_that_of_the_exit_where_all_leave():
    logits, labels = made_up()
    assert thresholds(logits, labels, (1, 2, 3), 1).worst_cost == 1
    # The last exit is sure of the wrong class.
    logits[2] = 9 * np.eye(5)[(labels + 1) % 5]
    cascade = thresholds(logits, labels, (1, 2, 3), 9)
    assert cascade.thresholds[1] == ALWAYS and cascade.worst_cost == 2


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_equal_probabilities(value):
    labels = np.arange(30) % 3
    logits = np.stack([value * np.eye(3)[np.zeros(30, int)], value * np.eye(3)[labels]])
    found = thresholds(logits, labels, (1, 2), 1.9).score(logits, labels)
    assert found.mean_cost <= 1.9


LOGITS, LABELS = made_up(20)


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((LOGITS[0], LABELS, (1, 2, 3), 2), r"logits have shape \(20, 5\)"),
        ((LOGITS[:1], LABELS, (1,), 2), r"exits >= 2"),
        ((LOGITS[:, :0], LABELS[:0], (1, 2, 3), 2), r"\(3, 0, 5\)"),
        ((np.where(LOGITS > 2, np.inf, LOGITS), LABELS, (1, 2, 3), 2), "not finite"),
        ((LOGITS, LABELS[:5], (1, 2, 3), 2), "labels="),
        ((LOGITS, LABELS / 2, (1, 2, 3), 2), "labels="),
        ((LOGITS, LABELS + 9, (1, 2, 3), 2), "label 13"),
        ((LOGITS, LABELS, (1, 2), 2), "one for each of 3 exits"),
        ((LOGITS, LABELS, (1, 3, 3), 2), "rising"),
        ((LOGITS, LABELS, (1, 2, np.nan), 2), "rising"),
        ((LOGITS, LABELS, (5, 6, 7), 4.5), r"limit=4.5 is not allowed: it must be at least 5"),
        ((LOGITS, LABELS, (5, 6, 7), np.nan), "limit=nan"),
    ],
)
def test_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        thresholds(*arguments)
