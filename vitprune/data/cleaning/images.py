"""Find image files, and turn them into squares of the wanted size.

Legend of dimensions: h, w  original height and width    s  image_size    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vitprune.core.packed import FULL_DEPTH
from vitprune.data.cleaning.decoding import decode
from vitprune.data.cleaning.pixels import UnusableImage
from vitprune.errors import DataError
from vitprune.options import Resize


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


def read_image(
    path: Path, image_size: int, channels: Literal[1, 3], resize: Resize, *, bit_depth: int = FULL_DEPTH
) -> np.ndarray:
    """Pixels ``(c, s, s)``, uint8, as the clean stage makes them of a data set of this bit depth.

    Raises DataError if the file is not an image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    try:
        decoded = decode(content, channels, bit_depth=bit_depth)
    except UnusableImage as error:
        raise DataError(f"{path}: not an image that can be decoded; leave it out ({error.detail})") from None
    return to_square(decoded.pixels, image_size, resize)
