"""Device-side augmentation against torchvision's semantics, re-implemented in NumPy, and against Pillow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ofav2_jax.data.augment import CROP_DRAWS, Normalisation, eval_images, random_crop_box, resized_size, train_images
from ofav2_jax.runtime.programs import quick_compiler_options
from ofav2_jax.settings.recipe import Augmentation

IDENTITY = Normalisation((0.0,) * 3, (1 / 255,) * 3)  # leaves pixels in [0, 255]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
KEYS = jax.random.split(jax.random.key(1), len(IMAGES))
_ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (64, 64))
RAMP = np.stack([_ramp, _ramp.T, _ramp], -1)  # channel 0 grows downwards, channel 1 to the right
train = jax.jit(train_images, static_argnums=(2, 3, 4), compiler_options=quick_compiler_options())
evaluate = jax.jit(eval_images, static_argnums=(1, 2, 3), compiler_options=quick_compiler_options())


def reference_box(rng, height, width, area, aspect):
    """Draws top, left, height and width as torchvision.transforms.RandomResizedCrop.get_params does."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < aspect[0]:
        w, h = width, round(width / aspect[0])
    elif width / height > aspect[1]:
        w, h = round(height * aspect[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def boxes(count, height, width, augmentation):
    draws = jax.random.uniform(jax.random.key(0), (count, CROP_DRAWS))
    draw = jax.vmap(lambda of_one: jnp.stack(random_crop_box(of_one, height, width, augmentation)))
    return np.asarray(jax.jit(draw, compiler_options=quick_compiler_options())(draws))


def largest_gap(sample, other):
    """The scaled Kolmogorov-Smirnov statistic: if the distributions are equal, it exceeds 2 once in 1,500 times."""
    points = np.union1d(sample, other)
    gap = np.abs(
        np.searchsorted(np.sort(sample), points, "right") / len(sample)
        - np.searchsorted(np.sort(other), points, "right") / len(other)
    ).max()
    return gap * math.sqrt(len(sample) * len(other) / (len(sample) + len(other)))


@pytest.mark.parametrize("height, width", [(64, 64), (48, 60)])
@pytest.mark.parametrize("area", [(0.85, 1.0), (0.08, 1.0)])
def test_crops_are_distributed_like_torchvision(height, width, area):
    augmentation = Augmentation(area=area)
    ours = boxes(10_000, height, width, augmentation)
    rng = np.random.default_rng(0)
    theirs = np.array([reference_box(rng, height, width, area, augmentation.aspect) for _ in range(10_000)])
    assert (ours[:, 0] >= 0).all() and (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] >= 0).all() and (ours[:, 1] + ours[:, 3] <= width).all()
    measures = {
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "bottom": lambda box: height - box[:, 0] - box[:, 2],
        # The position of the box within the range that is left for it, and its dependence on the shape of the box.
        "top in room": lambda box: box[:, 0] / np.maximum(height - box[:, 2], 1),
        "left by aspect": lambda box: box[:, 1] * box[:, 3] / box[:, 2],
        "top by left": lambda box: box[:, 0] * box[:, 1],
    }
    for name, measure in measures.items():
        assert largest_gap(measure(ours), measure(theirs)) < 2, name


@pytest.mark.parametrize("height, width, aspect", [(64, 64, (2.0, 2.5)), (64, 64, (0.2, 0.5)), (30, 60, (0.9, 1.1))])
def test_fallback_is_the_centre_crop_of_torchvision(height, width, aspect):
    ours = boxes(20, height, width, Augmentation(area=(0.99, 1.0), aspect=aspect))
    theirs = reference_box(np.random.default_rng(0), height, width, (0.99, 1.0), aspect)
    assert np.array_equal(ours, np.broadcast_to(theirs, ours.shape))


def start_and_length(values, resolution):
    """Finds the pixels of a ramp that were resized to `values`, which away from the ends are a ramp too."""
    inner = np.arange(4, resolution - 4)
    scale, offset = np.polyfit(inner + 0.5, values[inner] + 0.5, 1)
    return round(offset), round(scale * resolution)


@pytest.mark.parametrize("resolution, area", [(48, (0.85, 1.0)), (64, (0.85, 1.0)), (48, (0.3, 0.5)), (80, (0.3, 0.5))])
def test_pixels_of_crops_are_those_of_pillow(resolution, area):
    augmentation = Augmentation(area=area, flip=False)
    ours = np.asarray(train(IMAGES, KEYS, resolution, augmentation, IDENTITY))
    ramps = np.asarray(train(np.stack([RAMP] * len(KEYS)), KEYS, resolution, augmentation, IDENTITY))
    for pixels, result, ramp in zip(IMAGES, ours, ramps):
        top, height = start_and_length(ramp[:, 0, 0], resolution)
        left, width = start_and_length(ramp[0, :, 1], resolution)
        crop = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        theirs = np.asarray(crop.resize((resolution, resolution), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(result - theirs).max() < 2


@pytest.mark.parametrize("resolution, resized", [(48, 55), (56, 64), (56, 65), (64, 74)])
def test_evaluation_resizes_and_crops_like_pillow(resolution, resized):
    papers = math.ceil(resolution / 0.875)
    ours = np.asarray(evaluate(IMAGES, resolution, IDENTITY, None if resized == papers else resized))
    first = round((resized - resolution) / 2)
    for pixels, result in zip(IMAGES, ours):
        whole = np.asarray(Image.fromarray(pixels).resize((resized, resized), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(result - whole[first : first + resolution, first : first + resolution]).max() < 2


def test_images_of_the_size_that_they_are_resized_to():
    assert [resized_size(resolution) for resolution in (48, 56, 64)] == [55, 64, 74]
    assert [resized_size(resolution, 64) for resolution in (48, 56, 64)] == [55, 65, 74]
    assert [resized_size(resolution, 63) for resolution in (48, 56, 64)] == [55, 64, 74]
    pixels = IMAGES[:1]
    whole, interpolated = (np.asarray(evaluate(pixels, 56, IDENTITY, size)) for size in (64, 65))
    np.testing.assert_allclose(whole, pixels[:, 4:60, 4:60], atol=1e-3)
    assert np.abs(interpolated - pixels[:, 4:60, 4:60]).mean() > 1


def test_about_half_of_the_images_are_mirrored_whatever_their_crop():
    keys = jax.random.split(jax.random.key(2), 1000)
    images = np.stack([RAMP] * len(keys))
    plain = np.asarray(train(images, keys, 16, Augmentation(flip=False), IDENTITY))
    ours = np.asarray(train(images, keys, 16, Augmentation(flip=True), IDENTITY))
    mirrored = ours[:, 0, 0, 1] > ours[:, 0, -1, 1]
    assert np.array_equal(np.where(mirrored[:, None, None, None], plain[:, :, ::-1], plain), ours)
    assert 0.45 < mirrored.mean() < 0.55
    heights, widths = np.ptp(plain[:, :, 0, 0], 1), np.ptp(plain[:, 0, :, 1], 1)
    for measure in (heights, widths, widths / heights, plain[:, 0, 0, 0], plain[:, 0, 0, 1]):
        assert largest_gap(measure[mirrored], measure[~mirrored]) < 2


def test_an_image_is_augmented_the_same_in_any_batch():
    ours = np.asarray(train(IMAGES, KEYS, 56, Augmentation(), IDENTITY))
    order = np.random.default_rng(0).permutation(len(IMAGES))
    moved = np.asarray(train(IMAGES[order], KEYS[order], 56, Augmentation(), IDENTITY))
    np.testing.assert_allclose(moved, ours[order], atol=1e-3)
    alike = np.asarray(train(np.stack([IMAGES[0]] * len(KEYS)), KEYS, 56, Augmentation(), IDENTITY))
    np.testing.assert_allclose(alike[0], ours[0], atol=1e-3)
    assert not any(np.allclose(alike[0], other) for other in alike[1:])


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation():
    normalisation = Normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    ours = np.asarray(evaluate(np.full((1, 64, 64, 3), 51, np.uint8), 48, normalisation))
    np.testing.assert_allclose(ours[0, 5, 5], [0.2, 0.0, -0.8], atol=1e-5)
