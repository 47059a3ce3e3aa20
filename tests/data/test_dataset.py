"""The embedded digits, splits, and the order of training images."""

import numpy as np

from ofav2_jax.data.dataset import epoch_order, stratified_split
from ofav2_jax.data.digits import load_digits


def test_digits():
    digits = load_digits(seed=0)
    assert digits.images.shape == (1797, 8, 8, 3) and digits.images.dtype == np.uint8
    assert digits.images.max() == 255
    # The counts of the ten classes in scikit-learn's copy.
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    everything = np.concatenate(list(digits.splits.values()))
    assert sorted(everything) == list(range(1797))
    pixels = digits.images / 255
    np.testing.assert_allclose(pixels.mean(), digits.normalisation.mean[0], atol=1e-3)
    np.testing.assert_allclose(pixels.std(), digits.normalisation.std[0], atol=1e-3)


def test_seed_moves_validation_but_not_test():
    first, second = load_digits(seed=0).splits, load_digits(seed=1).splits
    np.testing.assert_array_equal(first["test"], second["test"])
    assert not np.array_equal(first["validation"], second["validation"])


def test_stratified_split_keeps_the_proportions():
    labels = np.repeat([0, 1, 2], [100, 40, 20])
    rest, part = stratified_split(labels, 0.15, seed=3)
    assert np.bincount(labels[part]).tolist() == [15, 6, 3]
    assert sorted([*rest, *part]) == list(range(160))


def test_epoch_order_is_a_function_of_seed_phase_and_epoch():
    indices = np.arange(10, 60)
    order = epoch_order(indices, seed=1, phase=2, epoch=3)
    assert sorted(order) == list(indices)
    np.testing.assert_array_equal(order, epoch_order(indices, 1, 2, 3))
    assert not np.array_equal(order, epoch_order(indices, 1, 2, 4))
    assert not np.array_equal(order, epoch_order(indices, 1, 3, 3))
