"""The embedded digits, splits, and the order of training images."""

import dataclasses

import numpy as np

from ofav2_jax.data.dataset import (
    TINY_IMAGENET_NORMALISATION,
    PixelDigest,
    completed_fingerprint,
    epoch_order,
    fingerprint,
    stratified_split,
)
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


def test_a_split_of_few_images_has_one_of_each_class_in_either_part():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 3, 3])
    for fraction in (0.01, 0.15, 0.99):
        rest, part = stratified_split(labels, fraction, seed=0)
        assert set(labels[part]) == {1, 2, 3} and set(labels[rest]) == {0, 1, 2, 3}


def test_a_known_digest_spares_reading_the_pixels_and_is_never_that_of_others():
    digits = load_digits(seed=0)
    known = dataclasses.replace(digits, pixel_digest=PixelDigest(digits.images, None, "known"))
    assert fingerprint(known)["pixels_sha256"] == "known"
    brighter = dataclasses.replace(known, images=digits.images | 1)
    fewer = dataclasses.replace(
        known,
        subset=np.arange(1000, dtype=np.int32),
        splits={name: indices[indices < 1000] for name, indices in digits.splits.items()},
    )
    digests = {fingerprint(dataset)["pixels_sha256"] for dataset in (known, digits, brighter, fewer)}
    assert len(digests) == 4


def test_fingerprints_of_older_versions_are_completed():
    found = fingerprint(load_digits(seed=0))
    old = {name: value for name, value in found.items() if name not in ("normalisation", "class_names")}
    assert completed_fingerprint(old, found) == found
    # Another set than the digits was normalised as Tiny ImageNet, which is no longer so.
    flowers = {**found, "name": "flowers", "normalisation": [[0.5] * 3, [0.2] * 3]}
    completed = completed_fingerprint({**old, "name": "flowers"}, flowers)
    assert completed["normalisation"] == [list(values) for values in TINY_IMAGENET_NORMALISATION]
