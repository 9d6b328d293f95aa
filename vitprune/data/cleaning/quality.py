"""Measure what makes an image doubtful, without ever dropping it.

The list is that of cleanvision (https://github.com/cleanlab/cleanvision); sharpness is the variance of the Laplacian
(Pech-Pacheco and others, 2000). Thresholds are chosen so that most of what they name is worth a look.
Legend of dimensions: n  images    h, w  height and width    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MEASURES = ("width", "height", "bright_end", "dark_end", "entropy", "sharpness")
"""Width and height in pixels; the grey level that 99 % of the pixels stay below, and 5 %; bits per pixel of the grey
levels; variance of the Laplacian."""

DOUBTS = ("dark", "bright", "low_information", "blurry", "odd_aspect_ratio", "odd_size")

DARK = 82.0
BRIGHT = 242.0
ENTROPY = 3.0
"""Of images with 256 pixels or more; smaller ones cannot have 8 bits per pixel, and the threshold falls with them."""
SHARPNESS = 100.0
ASPECT = 0.35
SIDE_FACTOR = 4.0
"""An image of so many times the usual side length, or of one in so many times, is of an odd size."""
_SAMPLE, _MIDDLE = 256, 512
_WEIGHTS = np.array([77, 150, 29], np.uint32)
"""Of red, green and blue in grey (ITU-R 601), out of 256."""


def measure(pixels: np.ndarray) -> np.ndarray:
    """The MEASURES of an image ``(h, w, c)``, float32, on a sample of its pixels and its middle, to be cheap."""
    height, width = pixels.shape[:2]
    step = max(1, min(height, width) // _SAMPLE)
    counts = np.bincount(_grey(pixels[::step, ::step]).ravel(), minlength=256)
    below = np.cumsum(counts)
    share = counts[counts > 0] / below[-1]
    top, left = max(0, height - _MIDDLE) // 2, max(0, width - _MIDDLE) // 2
    middle = _grey(pixels[top : top + _MIDDLE, left : left + _MIDDLE]).astype(np.int16)
    laplacian = 4 * middle[1:-1, 1:-1] - middle[:-2, 1:-1] - middle[2:, 1:-1] - middle[1:-1, :-2] - middle[1:-1, 2:]
    return np.array(
        [
            width,
            height,
            np.searchsorted(below, 0.99 * below[-1]),
            np.searchsorted(below, 0.05 * below[-1]),
            -(share * np.log2(share)).sum(),
            laplacian.var(dtype=np.float32) if laplacian.size else 0,
        ],
        np.float32,
    )


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    return (pixels @ _WEIGHTS >> 8).astype(np.uint8)


def find_doubtful(measures: np.ndarray) -> Mapping[str, np.ndarray]:
    """Which images ``(n,)`` of these MEASURES ``(n, 6)`` are doubtful, and in what way."""
    width, height, bright_end, dark_end, entropy, sharpness = measures.T
    side = np.sqrt(width * height)
    usual = np.median(side) if len(side) else 1.0
    possible = np.log2(np.clip(width * height, 2, 256)) / 8
    empty = entropy < ENTROPY * possible
    return {
        "dark": bright_end < DARK,
        "bright": dark_end > BRIGHT,
        "low_information": empty,
        "blurry": (sharpness < SHARPNESS) & ~empty,
        "odd_aspect_ratio": np.minimum(width, height) < ASPECT * np.maximum(width, height),
        "odd_size": (side > SIDE_FACTOR * usual) | (side * SIDE_FACTOR < usual),
    }
