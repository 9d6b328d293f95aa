"""What is stored beside the pixels may be broken: the pixels stay."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.data.cleaning.image_files import chunk, saved, tiff
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.pixels import UnusableImage

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
NOT_EXIF = b"Exif\0\0This_is_not_valid"


def exif_of(orientation: object, kind: int = 3) -> bytes:
    """EXIF with one entry, the orientation, of this TIFF type."""
    value = struct.pack("<HH", orientation, 0) if isinstance(orientation, int) else bytes(orientation)  # type: ignore[call-overload]
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1 if kind == 3 else 4) + value + bytes(4)


def png_with(*chunks: bytes, after: bool = False) -> bytes:
    """A PNG with more chunks, before or after its pixels."""
    content = saved(IMAGE)
    at = content.index(b"IEND" if after else b"IDAT") - 4
    return content[:at] + b"".join(chunks) + content[at:]


def wrong_sum(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def jpeg_with(marker: int, body: bytes) -> bytes:
    content = saved(IMAGE, "JPEG", quality=95)
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + content[2:]


BOMB = zlib.compress(bytes(1 << 27))
BROKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG, EXIF": ("the EXIF of a PNG is broken", lambda: saved(IMAGE, exif=NOT_EXIF)),
    "WebP, EXIF": ("the EXIF of a WebP is broken", lambda: saved(IMAGE, "WEBP", exif=NOT_EXIF, lossless=True)),
    "orientation 0": ("the orientation in EXIF is 0", lambda: saved(IMAGE, exif=exif_of(0))),
    "orientation 9": ("the orientation in EXIF is 9", lambda: saved(IMAGE, exif=exif_of(9))),
    "orientation text": ("the orientation in EXIF is a text", lambda: saved(IMAGE, exif=exif_of(b"left", 2))),
    "eXIf, sum": ("the checksum of a PNG's EXIF is wrong", lambda: png_with(wrong_sum(chunk(b"eXIf", exif_of(6)[6:])))),
    "tEXt, sum": ("the checksum of a PNG's text is wrong", lambda: png_with(wrong_sum(chunk(b"tEXt", b"a\0b")))),
    "zTXt bomb": ("a text in a PNG unpacks to 128 MB", lambda: png_with(chunk(b"zTXt", b"a\0\0" + BOMB))),
    "zTXt bomb after": (
        "a text behind the pixels is a bomb",
        lambda: png_with(chunk(b"zTXt", b"a\0\0" + BOMB), after=True),
    ),
    "iTXt bombs": (
        "texts in a PNG together are too long",
        lambda: png_with(*[chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 19)))] * 200),
    ),
    "iCCP bomb": ("the colour profile of a PNG is a bomb", lambda: png_with(chunk(b"iCCP", b"a\0\0" + BOMB))),
    "iCCP, method": (
        "the colour profile of a PNG is packed in an unknown way",
        lambda: png_with(chunk(b"iCCP", b"a\0\7x")),
    ),
    "gAMA": ("a PNG's gamma is cut short", lambda: png_with(chunk(b"gAMA", b""))),
    "pHYs": ("a PNG's resolution is cut short", lambda: png_with(chunk(b"pHYs", b"1"))),
}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            make, id=name, marks=pytest.mark.fault(fault, "the pixels stay, upright, and the image is counted")
        )
        for name, (fault, make) in BROKEN.items()
    ],
)
def test_broken_metadata_leave_the_pixels(make: Callable[[], bytes]) -> None:
    decoded = decode(make(), 3)
    assert decoded.notes == ("broken metadata",)
    np.testing.assert_array_equal(decoded.pixels, PIXELS)


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE1, NOT_EXIF),
        (0xE1, exif_of(6)[:20]),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        (0xE2, b"ICC_PROFILE\0\1\1nonsense"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"MPF\0nonsense"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\xff\xff"),
        (0xFE, b"\xff\xfe"),
    ],
)
@pytest.mark.fault("EXIF, XMP, a colour profile, MPF or a comment of a JPEG is broken", "the pixels stay")
def test_broken_metadata_of_a_jpeg_leave_the_pixels(marker: int, body: bytes) -> None:
    expected = decode(saved(IMAGE, "JPEG", quality=95), 3).pixels
    np.testing.assert_array_equal(decode(jpeg_with(marker, body), 3).pixels, expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.fault("an image file has garbage behind its end", "the pixels stay")
def test_garbage_behind_the_end_does_not_matter(format: str) -> None:
    content = saved(IMAGE, format)
    np.testing.assert_array_equal(decode(content + b"\0garbage\xff\xd8" * 99, 3).pixels, decode(content, 3).pixels)


@pytest.mark.fault("an image is cut short, and its metadata are broken as well", "it is undecodable")
def test_a_truncated_image_stays_undecodable_without_its_metadata() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for content in (saved(image, exif=NOT_EXIF), saved(image, "JPEG"), jpeg_with(0xE1, NOT_EXIF)):
        with pytest.raises(UnusableImage, match="undecodable"):
            decode(content[: int(len(content) * 0.7)], 3)


@pytest.mark.fault("the checksum of a PNG's pixels is wrong", "it is undecodable")
def test_broken_pixels_are_no_broken_metadata() -> None:
    content = bytearray(saved(IMAGE))
    content[content.index(b"IDAT") + 20] ^= 1
    with pytest.raises(UnusableImage, match="undecodable"):
        decode(bytes(content), 3)


@pytest.mark.fault("the XMP of a TIFF is a number", "the pixels stay, and are turned upright")
def test_broken_metadata_of_a_tiff_leave_the_pixels() -> None:
    decoded = decode(tiff(PIXELS.astype(np.uint8), t274=6, t700=5), 3)
    np.testing.assert_array_equal(decoded.pixels, np.rot90(PIXELS, -1))


def test_a_tiff_with_sound_metadata_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(saved(IMAGE, "TIFF", exif=exif), 3)
    assert decoded.notes == ()
    np.testing.assert_array_equal(decoded.pixels, np.rot90(PIXELS, -1))
