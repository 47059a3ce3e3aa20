"""Decodes one encoded image, of any format and mode that Pillow reads, to 8-bit RGB of one size."""

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# The first bytes of files that are often found under an image's name.
_MISTAKEN = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"%pdf": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"pk\x03\x04": "a zip archive",
}
# Tags of a TIFF file.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class BrokenImageError(ValueError):
    """A file is no image that can be decoded; the message is the reason, without the file's name."""


def decode_image(encoded: bytes | Path, resolution: int) -> np.ndarray:
    """Decodes an image, upright as a viewer shows it.

    Grey images get three equal channels, transparency is dropped, of several frames the first one is taken, and pixels
    of 16 bits are scaled to 8. An image of another size is resized (bilinear); of one that is not square the centre is
    taken.

    Args:
        encoded: the content of an image file, or its path.
        resolution: R, height and width of the result, pixels.

    Returns:
        uint8 [R, R, 3].

    Raises:
        BrokenImageError: if it is no image, is cut short, is too large, or has pixels whose white is not known.
    """
    # Pillow's plugins raise errors of almost any kind about files that are damaged.
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as file:
            file.load()
            # A viewer shows an image whose EXIF data cannot be read as it is stored.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(file, in_place=True)
            image = _rgb(file)
            if image.size != (resolution, resolution):
                image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except BrokenImageError:
        raise
    except UnidentifiedImageError:
        raise BrokenImageError(_unidentified(encoded)) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BrokenImageError(f"it has more than {limit / 1e6:.0f} million pixels") from None
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise BrokenImageError(reason or type(error).__name__) from error


def _rgb(image: ImageFile.ImageFile) -> Image.Image:
    """Converts an image to mode RGB.

    Raises:
        BrokenImageError: if the range of its pixels is not known.
    """
    # Pillow scales PGM files of more than 8 bits to 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        tags = getattr(image, "tag_v2", {})
        white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
        pixels = np.round(np.asarray(image) * (255 / white)).clip(0, 255).astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            pixels = 255 - pixels
        return Image.fromarray(pixels).convert("RGB")
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floats"}[image.mode]
        raise BrokenImageError(
            f"its pixels are {kind} (mode {image.mode}), whose white is not known: save 8 or 16 bits"
        )
    return image.convert("RGB")


def _unidentified(encoded: bytes | Path) -> str:
    """Why Pillow may not know the format of a file."""
    if isinstance(encoded, bytes):
        start = encoded[:200]
    else:
        with encoded.open("rb") as file:
            start = file.read(200)
    if not start:
        return "it is empty"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kinds = [kind for mark, kind in _MISTAKEN.items() if text.startswith(mark)]
    return f"it is {kinds[0]}" if kinds else "it is not an image of a format that Pillow reads"
