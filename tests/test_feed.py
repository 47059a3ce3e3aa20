"""How images get to the devices: all of them or batch by batch, and subsets of classes without the others."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from ofav2_jax.data.digits import load_digits
from ofav2_jax.runtime import feed
from ofav2_jax.runtime.feed import ResidentImages, StreamedImages, image_feed, must_stream

DIGITS = load_digits(seed=0)


def first_classes(number):
    """The digits below a number, as a part of an array that holds all."""
    splits = {name: indices[DIGITS.labels[indices] < number] for name, indices in DIGITS.splits.items()}
    subset = np.flatnonzero(DIGITS.labels < number).astype(np.int32)
    names = DIGITS.class_names[:number]
    return dataclasses.replace(DIGITS, splits=splits, num_classes=number, class_names=names, subset=subset)


@pytest.mark.parametrize("kind", [ResidentImages, StreamedImages])
@pytest.mark.parametrize("dataset", [DIGITS, first_classes(3)])
def test_a_batch_has_the_images_at_its_indices(dataset, kind):
    devices = jax.devices()[:2]
    indices = dataset.splits["train"][:8].astype(np.int32).reshape(2, 4)
    images, places = kind(dataset, devices).batch(indices)
    for device in range(2):
        of_device = images if images.mapped_axis is None else jax.tree.map(lambda v, d=device: v[d], images)
        pixels, labels = of_device.batch(places[device])
        assert np.array_equal(pixels, dataset.images[indices[device]])
        assert np.array_equal(labels, dataset.labels[indices[device]])


def test_images_that_are_not_used_are_not_on_the_devices():
    dataset = first_classes(3)
    images, _ = ResidentImages(dataset, jax.devices()[:1]).batch(np.zeros((1, 1), np.int32))
    assert len(images.rows) == dataset.num_images == np.sum(DIGITS.labels < 3)
    assert len(dataset.images) == len(DIGITS.images) and dataset.images is DIGITS.images


def test_more_images_than_a_quarter_of_the_memory_are_streamed(monkeypatch):
    devices = jax.devices()[:2]
    assert not must_stream(DIGITS, devices)
    # Each of two devices of a CPU would hold a copy.
    pages = 4 * 2 * DIGITS.images.nbytes // os.sysconf("SC_PAGE_SIZE")
    sysconf = os.sysconf
    for number, kind in ((pages + 2, ResidentImages), (pages - 2, StreamedImages)):
        answers = {"SC_PHYS_PAGES": number, "SC_PAGE_SIZE": sysconf("SC_PAGE_SIZE")}
        monkeypatch.setattr(feed.os, "sysconf", answers.__getitem__)
        assert isinstance(image_feed(DIGITS, devices), kind)
    assert isinstance(image_feed(first_classes(3), devices), ResidentImages)
