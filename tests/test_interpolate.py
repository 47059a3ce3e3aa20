"""Test images of the very size to which they are resized are interpolated everywhere with `evaluation.interpolate`.

Digits have 8 pixels, and 8 is ceil(7 / 0.875). The labels here are what a network says of the interpolated images, so
that it classifies all of them correctly, and few of those that are not.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from PIL import Image

import ofav2_jax as ofa
from ofav2_jax.data.augment import eval_images
from ofav2_jax.deploy.classify import Classifier
from ofav2_jax.run import assembly, opened
from ofav2_jax.run.cascade import prepared
from ofav2_jax.run.run_directory import DifferentRunError
from ofav2_jax.run.search import source
from tests.helpers import searches, supernets

RESOLUTION, OWN_SIZE = 7, 8
SETTINGS = {"resolutions": (RESOLUTION,), "interpolate": True}
DESIGN = ofa.Design.parse(f"k3-e3-d2-l7-h1@{RESOLUTION}")


def logits(alone, pixels, resized):
    return np.asarray(alone.apply(eval_images(np.asarray(pixels), RESOLUTION, alone.normalisation, resized)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the option, and with such labels."""
    directory = supernets.write_supernet(tmp_path_factory.mktemp("run"), **SETTINGS)
    assemble = functools.partial(assembly.assemble, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "assemble", assemble)
        first, again = ofa.open_run(directory), ofa.open_run(directory)
        stats = first.evaluator.recalibration.of_subnet(first.params(), DESIGN.subnet, RESOLUTION)
        variables, digits = {"params": first.params(), "batch_stats": stats}, first.dataset
        alone = ofa.extract(first.net, variables, DESIGN, normalisation=digits.normalisation)
        places = np.concatenate([digits.splits[name] for name in ("validation", "test")])
        right, wrong = (logits(alone, digits.images[places], size).argmax(-1) for size in (OWN_SIZE + 1, OWN_SIZE))
        assert np.mean(right == wrong) < 0.9
        labels = digits.labels.copy()
        labels[places] = right
        patch.setattr(opened, "assemble", functools.partial(assemble, programs=first._parts.programs))
        again.dataset = dataclasses.replace(digits, labels=labels)
        yield again


@pytest.fixture(scope="module")
def alone(run):
    return ofa.extract(run, DESIGN)


def nearly_all(top1):
    # Rounding may decide an image or two whose largest logits are nearly equal.
    return top1 == pytest.approx(100, abs=0.6)


def test_of_subnets(run):
    (score,) = run.evaluator.score(run.params(), [DESIGN.subnet], RESOLUTION, "test")
    assert nearly_all(score.top1)


def test_of_sets_of_exits(run):
    scores = run.evaluator.score_exits(run.params(), [DESIGN.subnet], RESOLUTION, "test")
    assert nearly_all(100 * scores.correct[scores.exit_sets.index((1,)), 0] / scores.images)


def test_of_a_design(run):
    parts = dataclasses.replace(run._parts, design=DESIGN)
    for split in ("validation", "test"):
        assert nearly_all(parts.design_evaluator.score(run.params(), split).top1)


def test_of_a_network_that_is_taken_out(alone):
    assert all(nearly_all(alone.about["accuracy"][split]["top1"]) for split in ("validation", "test"))


def test_a_file_says_so_and_is_run_so(run, alone, tmp_path):
    pytest.importorskip("onnx", reason="the extra export is not installed")
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    assert alone.resized == OWN_SIZE + 1 and alone.header()["preprocessing"]["resize"] == OWN_SIZE + 1
    alone.save(tmp_path / "net.safetensors")
    ofa.to_onnx(alone, tmp_path / "net.onnx")
    loaded = ofa.Standalone.load(tmp_path / "net.safetensors")
    assert loaded.resized == alone.resized and loaded.header() == alone.header()
    images = np.asarray(run.dataset.images)
    right, wrong = (logits(alone, images, size) for size in (OWN_SIZE + 1, OWN_SIZE))
    np.testing.assert_allclose(loaded.predict(images), right, rtol=1e-4, atol=1e-4)
    # The image of which an ONNX file, whose images are rounded, says most surely whether it was interpolated.
    margins = np.minimum(*(np.subtract(*np.sort(each)[:, :-3:-1].T) for each in (right, wrong)))
    place = int(np.argmax(np.where(right.argmax(-1) == wrong.argmax(-1), 0, margins)))
    Image.fromarray(images[place]).save(tmp_path / "digit.png")
    for file in ("net.safetensors", "net.onnx"):
        (((name, _),),) = Classifier(tmp_path / file).classify([tmp_path / "digit.png"], top=1)
        assert name == str(right[place].argmax())


def test_cascades_prepare_images_as_the_file_says(run, alone):
    pixels = np.asarray(run.dataset.images[run.dataset.splits["test"]])
    for size in (OWN_SIZE + 1, OWN_SIZE):
        found = np.concatenate(list(prepared(run, dataclasses.replace(alone, resized=size), "test", "float")))
        expected = eval_images(pixels, RESOLUTION, run.dataset.normalisation, size)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_traced_programs_are_kept_apart(monkeypatch):
    described = []
    for module in (assembly, source):
        kept = lambda devices, *rest: described.append([*map(repr, rest)])  # noqa: E731
        monkeypatch.setattr(module, "beside_compiled_programs", kept)
    of = searches.source("ee_d")
    for interpolate in (False, True):
        of_run = supernets.settings(**{**SETTINGS, "interpolate": interpolate})
        assert assembly.assemble(of_run, of.dataset, jax.devices()[:1]).evaluator
        assert source.source_of_net(of.net, {"params": of.params}, of.dataset, of_run).evaluator
    assert len(described) == 4 and described[0] != described[2] and described[1] != described[3]


def test_searches_are_kept_apart(tmp_path):
    def of(interpolate):
        found = searches.source()
        evaluation = dataclasses.replace(found.settings.evaluation, interpolate=interpolate)
        return dataclasses.replace(found, settings=dataclasses.replace(found.settings, evaluation=evaluation))

    # Directories of older versions do not name it.
    assert "interpolate" not in of(False).identity()
    for name, first in (("without", False), ("with", True)):
        search = searches.search(tmp_path / name, of(first))
        search._directory.claim(search._identity)
        search._directory.release()
        with pytest.raises(DifferentRunError, match=r"is another search, .* interpolate is "):
            searches.search(tmp_path / name, of(not first))
