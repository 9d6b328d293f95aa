"""What every source becomes once it is opened: named images in splits and classes, and a reader of their contents."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vitprune.core.packed import SplitName
from vitprune.data.cleaning.pixels import UnusableImage

Content = bytes | np.ndarray | UnusableImage
"""An image file, or grey pixels ``(height, width)``, or why there is neither."""


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """A file that should be an image.

    ``split`` is ``train`` if the source has no splits. ``folder`` names the class. ``position`` is the file's place in
    the source, and tells apart two files of the same name.
    """

    name: str
    split: SplitName
    folder: str
    position: int


@dataclass(frozen=True, kw_only=True)
class IgnoredFile:
    """A file that was never a candidate, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Every file of a source in its place.

    ``images`` are sorted by name. ``class_names`` maps the folder of each class that has files to a readable name; its
    order is the order of the labels. ``empty_folders`` are class folders without files.
    """

    images: tuple[ImageFile, ...]
    class_names: Mapping[str, str]
    ignored: tuple[IgnoredFile, ...] = ()
    empty_folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A source that can be read.

    ``read`` yields the wanted indices in ``layout.images``, each with the content of its image. The order is whichever
    is cheapest to read.
    """

    layout: Layout
    read: Callable[[Container[int]], Iterator[tuple[int, Content]]] = field(repr=False)
