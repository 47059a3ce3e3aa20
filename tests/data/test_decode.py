"""One image: every mode of Pillow's, the orientation of EXIF, and files that are no images."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofav2_jax.data.decode import BrokenImageError, decode_image
from tests.helpers.pictures import encoded

SIZE = 16
# Grey levels from black to white; the same in 8 and in 16 bits.
RAMP = np.repeat(np.arange(0, 256, 17, np.uint8)[None], SIZE, 0)
RAMP_16 = RAMP.astype(np.uint16) * 257
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width, height):
    """A PNG that claims to have a size, without any pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        encoded(RAMP_16),
        encoded(RAMP_16, "TIFF"),
        encoded(RAMP_16, "TIFF", compression="tiff_lzw"),
        b"P5\n16 16\n65535\n" + RAMP_16.astype(">u2").tobytes(),
        b"P5\n16 16\n4095\n" + (RAMP_16 // 16).astype(">u2").tobytes(),
        b"P5\n16 16\n255\n" + RAMP.tobytes(),
        encoded(Image.fromarray(RAMP)),
        encoded(Image.fromarray(RAMP).convert("LA")),
        encoded(Image.fromarray(RAMP).convert("RGBA")),
        encoded(Image.fromarray(RAMP), "GIF"),
        encoded(Image.fromarray(RAMP), "BMP"),
        encoded(Image.fromarray(RAMP), "WEBP", lossless=True),
    ],
)
def test_grey_of_any_depth_has_the_same_white(content):
    assert np.array_equal(decode_image(content, SIZE), np.stack([RAMP] * 3, -1))


MODES = {
    "PNG": ["RGB", "RGBA", "P", "1"],
    "JPEG": ["RGB", "CMYK", "YCbCr"],
    "TIFF": ["RGB", "RGBA", "P", "1", "CMYK", "YCbCr", "LAB"],
}


@pytest.mark.parametrize(
    ("file_format", "mode"), [(file_format, mode) for file_format, modes in MODES.items() for mode in modes]
)
def test_every_mode_keeps_its_range(file_format, mode):
    image = Image.fromarray(COLOURS)
    image = image.convert(mode) if mode != "LAB" else Image.merge("LAB", image.convert("YCbCr").split())
    pixels = decode_image(encoded(image, file_format), SIZE)
    assert pixels.shape == (SIZE, SIZE, 3) and pixels.min() < 70 and pixels.max() > 185


@pytest.mark.parametrize(("bits", "white_is_zero"), [(12, False), (16, False), (16, True)])
def test_tiff_says_how_many_bits_and_which_end_is_white(bits, white_is_zero):
    levels = RAMP_16 >> (16 - bits)
    if bits == 12:
        pairs = levels.reshape(-1, 2).astype(np.uint32)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = levels.astype("<u2").tobytes()
    tags = {256: SIZE, 257: SIZE, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 0, 277: 1, 278: SIZE}
    tags[279] = len(data)
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + data
    grey = decode_image(content, SIZE)[..., 0]
    assert np.abs(grey.astype(int) - (255 - RAMP if white_is_zero else RAMP)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_a_viewer_shows_them(orientation):
    # What has to be done to the upright pixels so that the orientation describes them.
    stored = {
        1: COLOURS,
        2: COLOURS[:, ::-1],
        3: COLOURS[::-1, ::-1],
        4: COLOURS[::-1],
        5: COLOURS.swapaxes(0, 1),
        6: np.rot90(COLOURS),
        7: COLOURS[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLOURS, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(decode_image(content, SIZE), COLOURS)
    for file_format, options in (("TIFF", {}), ("WEBP", {"lossless": True})):
        turned = encoded(np.ascontiguousarray(stored), file_format, exif=exif, **options)
        assert np.array_equal(decode_image(turned, SIZE), COLOURS)
    assert np.array_equal(decode_image(encoded(COLOURS, exif=b"Exif\0\0damaged"), SIZE), COLOURS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html>", "it is an HTML page"),
        (b"<HTML><body>404", "it is an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "it is an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
        (b"hello", "it is not an image of a format that Pillow reads"),
        (b"\x89PNG\r\n\x1a\n", "."),
        (encoded(COLOURS)[:50], "."),
        (encoded(COLOURS, "JPEG")[:400], "."),
        (encoded(COLOURS, "WEBP")[:60], "."),
        (encoded(COLOURS, "GIF")[:100], "."),
        (encoded(COLOURS, "TIFF")[:100], "."),
        (png_of(20000, 10000), "it has more than 179 million pixels"),
        (png_of(0, 10), "."),
        (encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), r"its pixels are 32-bit integers \(mode I\)"),
        (encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), r"its pixels are floats \(mode F\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_what_is_no_image_is_named_in_one_line(content, reason, tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    for source in (content, file):
        with pytest.raises(BrokenImageError, match=reason) as caught:
            decode_image(source, SIZE)
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(BrokenImageError, match="No such file"):
        decode_image(Path(tmp_path, "nothing.png"), SIZE)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BrokenImageError, match="Is a directory"):
        decode_image(tmp_path / "folder.png", SIZE)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (17, 33)])
def test_any_size(size):
    assert decode_image(encoded(np.full((*size, 3), 9, np.uint8)), 20).tolist() == [[[9] * 3] * 20] * 20
