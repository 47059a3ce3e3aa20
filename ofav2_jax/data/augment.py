"""Cropping, resizing, flipping and normalising image batches on the device.

Crops are resized by products with two small matrices per image. The rows of these hold the triangle filter that Pillow
uses for "bilinear": a plain interpolation when enlarging, an average over the covered pixels when shrinking.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ofav2_jax.settings.recipe import Augmentation

# The number of tries after which torchvision's RandomResizedCrop falls back to a centre crop.
_TRIES = 10
# The random numbers of a crop: an area and an aspect ratio for each try, and two for the position.
CROP_DRAWS = 2 * _TRIES + 2


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels in [0, 1]. Hashable, static."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Normalises pixels in [0, 255], ints or floats."""
        if not jnp.issubdtype(pixels.dtype, jnp.floating):
            pixels = pixels.astype(jnp.float32)
        return (pixels / 255 - jnp.array(self.mean, pixels.dtype)) / jnp.array(self.std, pixels.dtype)


def as_normalisation(values: Sequence[Sequence[float]]) -> Normalisation:
    """A mean and a standard deviation, three numbers each."""
    (red, green, blue), (red_std, green_std, blue_std) = values
    return Normalisation((red, green, blue), (red_std, green_std, blue_std))


def resize_weights(size: int, start: ArrayLike, length: ArrayLike, out_size: int) -> jax.Array:
    """The matrix that resizes pixels [start, start + length) of a row of `size` pixels to `out_size`.

    Args:
        size: pixels in the row.
        start: first pixel of the crop, an int or float scalar; nothing outside the crop is read.
        length: length of the crop, pixels.
        out_size: pixels in the resized row.

    Returns:
        float32 [out_size, size]; every row adds up to 1.
    """
    scale = length / out_size
    centres = start + (jnp.arange(out_size) + 0.5) * scale - 0.5
    pixels = jnp.arange(size)
    weights = jnp.maximum(0, 1 - jnp.abs(pixels - centres[:, None]) / jnp.maximum(scale, 1))
    weights = jnp.where((pixels >= start) & (pixels < start + length), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def _resize(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Resizes [B, H, W, C] to [B, H', W', C] with matrices [B, H', H] and [B, W', W], whose B may be 1."""
    rows = jnp.broadcast_to(rows, (len(images), *rows.shape[1:]))
    columns = jnp.broadcast_to(columns, (len(images), *columns.shape[1:]))
    images = images.astype(jnp.float32)
    return jnp.einsum("bpw,bowc->bopc", columns, jnp.einsum("boh,bhwc->bowc", rows, images))


def random_crop_box(draws: jax.Array, height: int, width: int, augmentation: Augmentation) -> tuple[jax.Array, ...]:
    """The box of torchvision's RandomResizedCrop.

    Args:
        draws: float [CROP_DRAWS], from uniform distributions over [0, 1).
        height: height of the image, pixels.
        width: width of the image, pixels.
        augmentation: the ranges of area and aspect ratio.

    Returns:
        top, left, height, width: int32 scalars.
    """

    def between(fractions, low, high):
        return low + fractions * (high - low)

    areas = between(draws[:_TRIES], *augmentation.area)
    aspects = jnp.exp(between(draws[_TRIES : 2 * _TRIES], *map(math.log, augmentation.aspect)))
    widths = jnp.round(jnp.sqrt(areas * height * width * aspects)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(areas * height * width / aspects)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    # The first try that fits; else the largest centre crop of an allowed aspect ratio.
    first = jnp.argmax(fits)
    ratio = width / height
    fallback_w = width if ratio <= augmentation.aspect[1] else round(height * augmentation.aspect[1])
    fallback_h = height if ratio >= augmentation.aspect[0] else round(width / augmentation.aspect[0])
    some = fits.any()
    crop_h = jnp.where(some, heights[first], fallback_h)
    crop_w = jnp.where(some, widths[first], fallback_w)
    top, left = (
        jnp.where(some, jnp.floor(fraction * (size - crop + 1)).astype(jnp.int32), (size - fallback) // 2)
        for fraction, size, crop, fallback in (
            (draws[-2], height, crop_h, fallback_h),
            (draws[-1], width, crop_w, fallback_w),
        )
    )
    return top, left, crop_h, crop_w


def train_images(
    images: jax.Array, keys: jax.Array, resolution: int, augmentation: Augmentation, normalisation: Normalisation
) -> jax.Array:
    """Random resized crops, flipped and normalised.

    Args:
        images: uint8 [B, H, W, 3].
        keys: typed PRNG keys [B], one per image.
        resolution: R, height and width of the result, pixels.
        augmentation: how to crop and flip.
        normalisation: mean to subtract and deviation to divide by.

    Returns:
        float32 [B, R, R, 3].
    """
    _, height, width, _ = images.shape

    def matrices(key):
        # One draw gives all numbers, because each further use of a key is another dozen operations to compile.
        draws = jax.random.uniform(key, (CROP_DRAWS + 1,))
        top, left, crop_h, crop_w = random_crop_box(draws[:CROP_DRAWS], height, width, augmentation)
        rows = resize_weights(height, top, crop_h, resolution)
        columns = resize_weights(width, left, crop_w, resolution)
        if augmentation.flip:
            columns = jnp.where(draws[CROP_DRAWS] < 0.5, columns[::-1], columns)
        return rows, columns

    return normalisation(_resize(images, *jax.vmap(matrices)(keys)))


def resized_size(resolution: int, own_size: int | None = None) -> int:
    """Height and width to which test images are resized before the centre crop, pixels.

    Args:
        resolution: R, height and width of the crop, pixels.
        own_size: height and width of the images, if they must be interpolated (`Evaluation.interpolate`): where the
            paper's size is their own, they are resized to one pixel more. None: the paper's size, ceil(R / 0.875).
    """
    size = math.ceil(resolution / 0.875)
    return size + 1 if size == own_size else size


def centre_crops(images: jax.Array, resolution: int, resized: int | None = None) -> jax.Array:
    """Resizes and crops the centre.

    Args:
        images: uint8 [B, H, W, 3].
        resolution: R, height and width of the result, pixels.
        resized: height and width before the crop, pixels, at least R; None: `resized_size(resolution)`, the paper's.

    Returns:
        float32 [B, R, R, 3], from 0 to 255.
    """
    _, height, width, _ = images.shape
    resized = resized_size(resolution) if resized is None else resized
    first = round((resized - resolution) / 2)
    kept = slice(first, first + resolution)
    rows = resize_weights(height, 0, height, resized)[None, kept]
    columns = resize_weights(width, 0, width, resized)[None, kept]
    return _resize(images, rows, columns)


def eval_images(
    images: jax.Array, resolution: int, normalisation: Normalisation, resized: int | None = None
) -> jax.Array:
    """Resizes, crops the centre, normalises.

    Args:
        images: uint8 [B, H, W, 3].
        resolution: R, height and width of the result, pixels.
        normalisation: mean to subtract and deviation to divide by.
        resized: see `centre_crops`.

    Returns:
        float32 [B, R, R, 3].
    """
    return normalisation(centre_crops(images, resolution, resized))
