"""From the bytes of an image file to an upright uint8 array, and from there to a square of the wanted size.

Legend of dimensions: h, w  height and width as they came    s  image_size    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

# Pillow knows more, among them formats that start other programs; these are what data sets are made of.
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
    """Pixels ``(h, w, c)`` of an image file: first frame, upright, transparency laid on white.

    None if the file is no image, is cut short, or would unpack to a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            # What is odd but readable is read in silence; what Pillow suspects to be a bomb is not read.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                # A PNG may tell its orientation behind the pixels, hence after loading.
                ImageOps.exif_transpose(image, in_place=True)
                return to_pixels(image, channels)
    except MemoryError:
        raise
    except Exception as error:
        # Broken files make Pillow's parsers raise nearly anything (SyntaxError, struct.error, IndexError, …).
        logger.debug("undecodable: %s", error)
        return None


def to_pixels(image: Image.Image, channels: Literal[1, 3]) -> np.ndarray:
    """Pixels ``(h, w, c)`` of an image of any mode but floating point, for which it raises ValueError."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # Pillow knows no way from here to grey.
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if channels == 1 else pixels


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey values of 0..65535 as 0..255; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.int64)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, 65535, values)
    return Image.fromarray((np.clip(values, 0, 65535) * 255 // 65535).astype(np.uint8))


def digest(pixels: np.ndarray) -> bytes:
    """16 bytes that are equal for images ``(h, w, c)`` of equal shape and pixels."""
    hashed = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(pixels).data)
    return hashed.digest()


def to_square(pixels: np.ndarray, image_size: int, resize: Literal["crop", "stretch"]) -> np.ndarray:
    """An image ``(h, w, c)`` as ``(c, s, s)``, resampled bicubically with antialiasing unless the size fits already."""
    height, width, channels = pixels.shape
    if resize == "crop" and height != width:
        # Cutting first gives the same square as resizing first, and costs less.
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if pixels.shape[:2] != (image_size, image_size):
        grey = channels == 1
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
        pixels = np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC))
        pixels = pixels.reshape(image_size, image_size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
