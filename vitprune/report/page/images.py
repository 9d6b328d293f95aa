"""Images as the page embeds them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

LARGEST_SIDE = 64
"""In pixels; larger images are scaled down, to keep the page small."""


def data_uri(pixels: np.ndarray) -> str:
    """An image ``(c, s, s)``, uint8, as a PNG within an address."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def spread_over_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of up to ``count`` images, sorted, as evenly over the classes as can be; the first ones of each class."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, rank))[:count])
