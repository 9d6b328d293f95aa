"""All that cleaning needs to know of one image, found in one go where it is decoded.

Legend of dimensions: s  image_size    c  channels (1 grey, 3 RGB)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image

from vitprune.core.packed import FULL_DEPTH
from vitprune.data.cleaning.collection import Content
from vitprune.data.cleaning.decoding import Decoded, Note, decode
from vitprune.data.cleaning.images import digest, to_square
from vitprune.data.cleaning.pixels import UnusableImage, bit_depth_of, to_pixels
from vitprune.data.cleaning.quality import MEASURES, measure
from vitprune.data.cleaning.workers import Death, Limits, work
from vitprune.options import Resize

SECONDS = 60.0
"""An image that takes longer to decode is given up."""
BYTES_PER_PIXEL = 32
SPARE_BYTES = 1 << 29
"""A worker may take so much for each pixel of the largest image allowed, and so much besides."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How every image of a data set is treated."""

    image_size: int
    channels: Literal[1, 3]
    resize: Resize
    max_pixels: int
    bit_depth: int = FULL_DEPTH


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """An image as the model gets it, ``square`` ``(c, s, s)``, and what was seen on the way."""

    square: np.ndarray
    digest: bytes
    notes: tuple[Note, ...]
    peak: int | None
    quality: np.ndarray


def examine(treatment: Treatment, content: Content) -> Examined | UnusableImage:
    """Decode and measure one image."""
    try:
        if isinstance(content, UnusableImage):
            return content
        if isinstance(content, np.ndarray):
            decoded = Decoded(pixels=to_pixels(Image.fromarray(content), treatment.channels))
        else:
            decoded = decode(
                content, treatment.channels, bit_depth=treatment.bit_depth, max_pixels=treatment.max_pixels
            )
        return Examined(
            square=to_square(decoded.pixels, treatment.image_size, treatment.resize),
            digest=digest(decoded.pixels),
            notes=decoded.notes,
            peak=decoded.peak,
            quality=measure(decoded.pixels),
        )
    except UnusableImage as error:
        return error
    except MemoryError:
        return UnusableImage("undecodable", "needs too much memory")


def examine_all(
    contents: Iterable[tuple[int, Content]], treatment: Treatment
) -> Iterator[tuple[int, Examined | UnusableImage]]:
    """Examine images in processes of their own, as ``examine`` does; yields their numbers and results as they come."""
    function: Callable[[Content], Examined | UnusableImage] = partial(examine, treatment)
    limits = Limits(seconds=SECONDS, memory_bytes=BYTES_PER_PIXEL * treatment.max_pixels + SPARE_BYTES)
    for number, result in work(function, contents, limits):
        yield number, UnusableImage("undecodable", result.reason) if isinstance(result, Death) else result


class Findings:
    """What is known of all images of a data set, by their indices; only what is rare is kept as an object."""

    def __init__(self, images: int) -> None:
        self.digests: list[bytes | None] = [None] * images
        self.faults: dict[int, UnusableImage] = {}
        self.notes: dict[int, tuple[Note, ...]] = {}
        self.peaks: dict[int, int] = {}
        self.measures = np.full((images, len(MEASURES)), np.nan, np.float32)

    def add(self, index: int, result: Examined | UnusableImage) -> None:
        """Record what was found in an image, in place of what was found in it before."""
        for found in (self.faults, self.notes):
            found.pop(index, None)
        if isinstance(result, UnusableImage):
            self.digests[index] = None
            self.faults[index] = result
            return
        self.digests[index] = result.digest
        self.measures[index] = result.quality
        if result.notes:
            self.notes[index] = result.notes
        if result.peak is not None:
            self.peaks[index] = result.peak

    @property
    def bit_depth(self) -> int | None:
        """How many bits the images of 16 bits for each sample use together; None if there is no such image."""
        return bit_depth_of(max(self.peaks.values())) if self.peaks else None
