"""What is searched: images to score with, supernets from elsewhere, what is refused of them."""

import dataclasses

import numpy as np
import pytest

import ofav2_jax as ofa
from ofav2_jax.run.search.source import source_of_net
from tests.helpers import searches


def test_images_are_balanced_and_so_are_their_halves():
    of = searches.source()
    labels = of.dataset.labels
    for number in (50, 100, 10_000):
        images = of.images(number)
        assert len(images) == len(set(images)) == min(number, len(of.dataset.splits["validation"]))
        assert set(images) <= set(of.dataset.splits["validation"])
        assert np.array_equal(images, of.images(number))
        halves = [np.bincount(labels[half], minlength=10) for half in (images[::2], images[1::2])]
        assert np.abs(halves[0] - halves[1]).max() <= 1
        if number <= 100:
            counts = np.bincount(labels[images], minlength=10)
            assert counts.max() - counts.min() <= 1


def test_phase_without_choices_is_refused(tmp_path):
    of = searches.source()
    of = dataclasses.replace(of, space=of.space.restrict(kernel=[7], expand=[6], depth=[4]))
    with pytest.raises(ValueError, match="leaves nothing to search"):
        searches.search(tmp_path / "search", of)


def test_supernets_from_elsewhere(tmp_path):
    of = searches.source()
    real = source_of_net(of.net, {"params": of.params}, of.dataset, of.settings)
    recalibration = real.evaluator.recalibration.indices
    assert recalibration.size == real.recalibration["images"] == 1000 and recalibration.shape[1] == 100
    assert real.identity() == of.identity()
    variables, other = {"params": of.params}, ofa.Settings.paper("ee_d")
    many = dataclasses.replace(of.net, num_classes=11)
    for args, kwargs, told in (
        (("run",), {}, "source is a str, which is not allowed"),
        ((of.net, {"params": {}}, of.dataset, tmp_path), {}, "are not those of network='ofa_mbv3'"),
        ((of.net, variables, "digits", tmp_path), {}, "dataset='digits' is not allowed"),
        ((many, variables, of.dataset, tmp_path), {}, "dataset has 10 classes, which is not allowed"),
        ((of.net, variables, of.dataset, "gs://bucket"), {}, "local file system"),
        ((of.net, variables, of.dataset, tmp_path), {"settings": 3}, "settings=3 is not allowed"),
        (
            (of.net, variables, of.dataset, tmp_path),
            {"settings": other},
            "settings.network='ee_d'",
        ),
        ((of.net, variables, of.dataset, tmp_path), {"constraints": "macs<=3M"}, "constraints='macs<=3M'"),
        ((of.net, variables, of.dataset, tmp_path), {"budget": "x"}, "budget='x' is not allowed"),
    ):
        with pytest.raises(ValueError, match=r"not allowed|local file system|not those of") as error:
            ofa.search(*args, **kwargs)
        assert told in str(error.value)
    assert not list(tmp_path.iterdir())
