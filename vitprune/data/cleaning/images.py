"""Decode image files to upright uint8 arrays, and turn those into squares of the wanted size.

Legend of dimensions: h, w  original height and width    s  image_size    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from vitprune.errors import DataError
from vitprune.options import Resize

logger = logging.getLogger(__name__)

# Pillow reads more formats, and starts other programs for some of them; data sets consist of these.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ],
)


def decode(content: bytes, channels: Literal[1, 3]) -> np.ndarray | None:
    """Pixels ``(h, w, c)`` of an image file: the first frame, upright, with transparency laid on white.

    None if the file is not an image, is cut short, or is a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            # Odd but readable files are read without a warning; suspected decompression bombs are not read.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                # After loading, because a PNG may store its orientation behind the pixels.
                ImageOps.exif_transpose(image, in_place=True)
                return to_pixels(image, channels)
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's parsers raise nearly any exception on broken files (SyntaxError, struct.error, IndexError, …).
        logger.debug("undecodable: %s", error)
        return None


def to_pixels(image: Image.Image, channels: Literal[1, 3]) -> np.ndarray:
    """Pixels ``(h, w, c)`` of an image of any mode. Raises ValueError for floating-point pixels."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # Pillow cannot convert LAB to grey.
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if channels == 1 else pixels


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale grey values from 0..65535 to 0..255; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.int64)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, 65535, values)
    return Image.fromarray((np.clip(values, 0, 65535) * 255 // 65535).astype(np.uint8))


def digest(pixels: np.ndarray) -> bytes:
    """A hash of 16 bytes that is equal for images ``(h, w, c)`` of equal shape and pixels."""
    hashed = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(pixels).data)
    return hashed.digest()


def to_square(pixels: np.ndarray, image_size: int, resize: Resize) -> np.ndarray:
    """Turn an image ``(h, w, c)`` into ``(c, s, s)``.

    It is resampled bicubically with antialiasing, unless it already has the right size.
    """
    height, width, channels = pixels.shape
    if resize == "crop" and height != width:
        # Cropping first gives the same square as resizing first, and costs less.
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if pixels.shape[:2] != (image_size, image_size):
        grey = channels == 1
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
        pixels = np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC))
        pixels = pixels.reshape(image_size, image_size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_image(path: Path, image_size: int, channels: Literal[1, 3], resize: Resize) -> np.ndarray:
    """Pixels ``(c, s, s)``, uint8, as the clean stage makes them. Raises DataError if the file is not an image."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    pixels = decode(content, channels)
    if pixels is None:
        raise DataError(f"{path}: not an image that can be decoded; leave it out")
    return to_square(pixels, image_size, resize)
