"""What every source looks like once it is understood: named images in splits and classes, and a way to their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vitprune.data.packed import SplitName


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A file that should be an image.

    ``split`` is ``train`` where the source has no splits. ``folder`` names the class. ``position`` says where the
    reader of the source finds it; two files of the same name differ in it.
    """

    name: str
    split: SplitName
    folder: str
    position: int


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
    """A file that never was a candidate, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every file of a source in its place.

    ``images`` are sorted by name. ``class_names`` maps the folder of each class that has files to a readable name, and
    its order is the order of the labels. ``empty_folders`` are class folders in which no file lies.
    """

    images: tuple[ImageFile, ...]
    class_names: Mapping[str, str]
    ignored: tuple[IgnoredFile, ...] = ()
    empty_folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A source that can be read.

    ``read`` yields, in whatever order is cheap, the index of an image in ``layout.images`` with its pixels, uint8
    ``(height, width, channels)`` at the original size, or None where it cannot be decoded.
    """

    layout: Layout
    read: Callable[[], Iterator[tuple[int, np.ndarray | None]]] = field(repr=False)
