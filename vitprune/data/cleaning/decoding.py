"""Decode image files to upright uint8 arrays, even if what is stored beside the pixels is broken.

Legend of dimensions: h, w  height and width    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from vitprune.core.packed import FULL_DEPTH
from vitprune.data.cleaning.formats import FORMATS, load_plugins
from vitprune.data.cleaning.pixels import (
    UnusableImage,
    declared_peak,
    is_invisible,
    on_white,
    peak_of,
    read_lower_bytes,
    to_8_bits,
    to_array,
    wide_samples,
    widened,
)

Note = Literal["broken metadata", "entirely transparent", "unused transparency"]
NOTES: tuple[Note, ...] = get_args(Note)

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MAY_BE_PADDING = ("BMP", "DIB", "TIFF")
"""Formats whose fourth channel is often nothing but zeros that nobody meant."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_SCAN = 0xDA
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""Markers of comments and of all application segments but JFIF and Adobe, which say what the colours are."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Pixels ``(h, w, c)`` of an image file: the first frame, upright, with transparency laid on white.

    ``peak`` is the largest value of a file with 16 bits for each sample, None for others.
    """

    pixels: np.ndarray
    notes: tuple[Note, ...] = ()
    peak: int | None = None


def decode(
    content: bytes, channels: Literal[1, 3], *, bit_depth: int = FULL_DEPTH, max_pixels: int | None = None
) -> Decoded:
    """Decode an image file; values of files with 16 bits for each sample have ``bit_depth`` bits.

    Broken metadata costs the orientation only. Raises UnusableImage if the file is not an image, is cut short, has more
    than ``max_pixels`` (None: Pillow's own limit), or has pixels of no agreed range.
    """
    load_plugins()
    try:
        with warnings.catch_warnings(), _limited_by_us(max_pixels):
            # Odd but readable files are read without a warning.
            warnings.simplefilter("ignore")
            try:
                return _decode(content, channels, bit_depth, max_pixels)
            except (MemoryError, UnusableImage, Image.DecompressionBombError):
                raise
            except Exception:
                bare = without_metadata(content)
                if bare is None:
                    raise
                return _decode(bare, channels, bit_depth, max_pixels, notes=("broken metadata",))
    except (MemoryError, UnusableImage):
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImage("too many pixels", str(error)) from None
    except Exception as error:
        # Pillow's parsers raise nearly any exception on broken files (SyntaxError, struct.error, IndexError, …).
        raise UnusableImage("undecodable", _in_words(error)) from None


def _in_words(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image file of a known kind"
    return str(error) or type(error).__name__


@contextmanager
def _limited_by_us(max_pixels: int | None) -> Iterator[None]:
    """Switch Pillow's limit off if there is one of our own."""
    limit = Image.MAX_IMAGE_PIXELS
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decode(
    content: bytes, channels: Literal[1, 3], bit_depth: int, max_pixels: int | None, notes: tuple[Note, ...] = ()
) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise UnusableImage("too many pixels", f"{width} × {height} pixels; clean.max_pixels is {max_pixels}")
        wide = wide_samples(image) is not None
        declared = declared_peak(image, content)
        _load(image)
        peak = peak_of(image, declared, wide=wide)
        loaded: Image.Image = image
        if wide and bit_depth < FULL_DEPTH:
            with Image.open(io.BytesIO(content), formats=FORMATS) as lower:
                read_lower_bytes(lower)
                _load(lower)
                loaded = widened(image, lower, bit_depth)
        elif isinstance(transparent := image.info.get("transparency"), tuple) and wide:
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        if loaded.mode == "RGBA" and image.format in _ALPHA_MAY_BE_PADDING and is_invisible(loaded):
            notes += ("unused transparency",)
            loaded = loaded.convert("RGB")
        loaded, broken = _upright(loaded, image)
        flat, invisible = on_white(to_8_bits(loaded, bit_depth))
        notes += broken + (("entirely transparent",) if invisible else ())
        return Decoded(pixels=to_array(flat, channels), notes=tuple(dict.fromkeys(notes)), peak=peak)


def _load(image: ImageFile.ImageFile) -> None:
    """Load the pixels as they are stored."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # It would read the metadata, which may be broken although the pixels are fine, and turn the image upright.
        image.load_end = lambda: None  # type: ignore[method-assign]
    image.load()
    if image.size != image.im.size:
        image._size = image.im.size  # A TIFF announces the size that it has upright.


def _upright(loaded: Image.Image, image: Image.Image) -> tuple[Image.Image, tuple[Note, ...]]:
    """Turn what was loaded from ``image`` as its metadata say; not at all if they are broken."""
    try:
        # After loading, because a PNG may store its orientation behind the pixels.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else image.getexif()
        orientation = tags.get(_ORIENTATION, 1)
    except Exception:
        orientation = None
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        return loaded, ("broken metadata",)
    return loaded if orientation == 1 else loaded.transpose(_UPRIGHT[orientation]), ()


def without_metadata(content: bytes) -> bytes | None:
    """A PNG or JPEG file without anything but its pixels; None for other files."""
    if content.startswith(_PNG_START):
        return _PNG_START + b"".join(_png_chunks(content))
    if content.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd8" + b"".join(_jpeg_segments(content))
    return None


def _png_chunks(content: bytes) -> Iterator[bytes]:
    at = len(_PNG_START)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if content[at + 4 : at + 8] in _PNG_PIXELS:
            yield content[at:end]
        at = end


def _jpeg_segments(content: bytes) -> Iterator[bytes]:
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if content[at + 1] not in _JPEG_METADATA:
            yield content[at:end]
        at = end
    yield content[at:]
