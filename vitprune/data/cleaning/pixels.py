"""Pixels of an opened image, of any mode and any number of bits, as uint8.

Legend of dimensions: h, w  height and width    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np
from PIL import Image

from vitprune.core.packed import FULL_DEPTH
from vitprune.errors import DataError

BIT_DEPTHS = (8, 10, 12, 14, FULL_DEPTH)
"""Bits that cameras, scanners and microscopes record, in files that hold 16 for each sample."""

Fault = Literal["undecodable", "unknown pixel range", "too many pixels"]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE = 258, 262, 281
"""Tags of TIFF."""
_COLOURS = ("RGB", "RGBA", "RGBX", "CMYK")
"""What Pillow stores as 8 bits even if the file has 16: it reads the upper byte."""


class UnusableImage(DataError):
    """An image cannot be used: the kind of fault, and what it is in a few words."""

    def __init__(self, reason: Fault, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Fault = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})"


def bit_depth_of(peak: int) -> int:
    """The least bit depth that holds the value ``peak``."""
    return next(depth for depth in BIT_DEPTHS if peak < 1 << depth)


def wide_samples(image: Image.Image) -> str | None:
    """The raw mode of a colour image of 16 bits for each sample that has not been loaded, for example ``RGB;16B``."""
    tiles = getattr(image, "tile", [])
    args = tiles[0][3] if tiles else ""
    raw = args if isinstance(args, str) else args[0] if isinstance(args, tuple) and args else ""
    return raw if isinstance(raw, str) and ";16" in raw and not image.mode.startswith("I") else None


def read_lower_bytes(image: Image.Image) -> None:
    """Make a colour image of 16 bits that has not been loaded read the lower byte of each sample, not the upper one.

    Raises UnusableImage if Pillow cannot do so.
    """
    raw = wide_samples(image) or ""
    mode, order = raw.rsplit(";16", 1)
    if mode not in _COLOURS:
        raise UnusableImage("unknown pixel range", f"{mode} of 16 bits, of which fewer are used; store it with 8 bits")
    little = order == "L" or (order in ("", "N") and sys.byteorder == "little")
    other = f"{mode};16{'B' if little else 'L'}"
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def widened(upper: Image.Image, lower: Image.Image, bit_depth: int) -> Image.Image:
    """A colour image of 8 bits from the upper and lower bytes of one with ``bit_depth`` bits."""
    values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return Image.fromarray(_to_8_bits(bit_depth)[values], upper.mode)


def peak_of(image: Image.Image, declared: int, *, wide: bool) -> int | None:
    """The largest value that a loaded image of 16 bits has or says it may have; None for an image of 8 bits.

    Of a colour image, only the upper byte of each sample is known, which is enough for ``bit_depth_of``. Transparency
    does not count. Raises UnusableImage if there are values below 0 or above 65535.
    """
    if wide:
        colours = np.asarray(image)[..., :3]
        return max(declared, int(colours.max(initial=0)) << 8 | 0xFF)
    if not image.mode.startswith("I"):
        return None
    values = np.asarray(image)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 0xFFFF:
        raise UnusableImage(
            "unknown pixel range", f"values from {low} to {high} have no agreed range; store it with 8 or 16 bits"
        )
    return max(declared, high)


def declared_peak(image: Image.Image, content: bytes) -> int:
    """The largest value that a file of 16 bits says its samples may have; 0 if it says nothing."""
    if image.format == "PPM":
        return 0xFFFF  # Pillow has scaled the values by the maximum in the file's header.
    if image.format == "PNG":
        at = content.find(b"sBIT", 0, content.find(b"IDAT"))
        size = int.from_bytes(content[at - 4 : at]) if at >= 4 else 0
        return (1 << max(content[at + 4 : at + 4 + min(size, 3)], default=0)) - 1 & 0xFFFF
    tags = getattr(image, "tag_v2", {})
    bits, most = (_largest(tags.get(tag)) for tag in (_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE))
    return max((1 << bits) - 1 if 8 < bits < FULL_DEPTH else 0, min(most, 0xFFFF))


def _largest(value: object) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return max((int(one) for one in values if isinstance(one, int | float)), default=0)


def to_pixels(image: Image.Image, channels: Literal[1, 3], bit_depth: int = FULL_DEPTH) -> np.ndarray:
    """Pixels ``(h, w, c)`` of a loaded image of any mode, with transparency laid on white.

    Raises UnusableImage for floating-point pixels.
    """
    return to_array(on_white(to_8_bits(image, bit_depth))[0], channels)


def to_8_bits(image: Image.Image, bit_depth: int) -> Image.Image:
    """A loaded image in a mode of 8 bits that Pillow can convert to grey. Raises UnusableImage for floating point."""
    if image.mode == "F":
        raise UnusableImage(
            "unknown pixel range", "floating-point pixels have no agreed range; store it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return _from_16_bits(image, bit_depth)
    # Pillow cannot convert LAB to grey.
    return image.convert("RGB") if image.mode == "LAB" else image


def on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Lay an image of 8 bits on white where it is transparent; the flag says whether it is so everywhere."""
    if not image.has_transparency_data:
        return image, False
    opaque = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque), is_invisible(opaque)


def is_invisible(image: Image.Image) -> bool:
    """Whether an image of mode RGBA is transparent everywhere."""
    return image.getchannel("A").getextrema() == (0, 0)


def to_array(image: Image.Image, channels: Literal[1, 3]) -> np.ndarray:
    """Pixels ``(h, w, c)`` of an opaque image."""
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, None] if channels == 1 else pixels


def _from_16_bits(image: Image.Image, bit_depth: int) -> Image.Image:
    """Scale grey values of ``bit_depth`` bits to 0..255; Pillow's own conversion would clip them at 255."""
    values = np.clip(np.asarray(image), 0, 0xFFFF).astype(np.uint16)
    scaled = _to_8_bits(bit_depth)[values]
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        scaled = 255 - scaled  # Pillow inverts such files of 8 bits only.
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled = np.where(values == transparent, np.uint8(255), scaled)
    return Image.fromarray(scaled)


def _to_8_bits(bit_depth: int) -> np.ndarray:
    """The value of 8 bits for each of 16, ``(65536,)``."""
    largest = (1 << bit_depth) - 1
    return (np.minimum(np.arange(1 << FULL_DEPTH), largest) * 255 // largest).astype(np.uint8)
